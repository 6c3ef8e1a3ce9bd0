"""Many tasks, chains, groups and chords that are sent together, in no more commands than as many tasks take."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.answers import Answers
from fibo_client.celery.budget import EACH, Budget, cancel_in_turns, free, in_turns
from fibo_client.celery.calls import Calls
from fibo_client.celery.canvas import Chord, Group, signatures_of
from fibo_client.celery.chunk import check_chunk_size, positional
from fibo_client.celery.flows import call_plan, override_options, start_flows
from fibo_client.celery.gather import call_pieces, ends_of
from fibo_client.celery.jobs import Sizes
from fibo_client.celery.owned_result import prepare_many
from fibo_client.celery.plan import Plan
from fibo_client.celery.result import AsyncResult, handle_of
from fibo_client.celery.signature import Signature, check_flow, is_flow
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import SharedSpan

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator, Sequence

    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Flow, SendOptions


_NOTHING: Final = object()


async def send_many(
    session: Session,
    flows: Iterable[Flow[Any]],
    options: SendOptions,
    *,
    timeout: float | None,
    retry: bool,
    began: float,
) -> list[Any]:
    """Send many tasks and flows. See `CeleryClient.send_many`."""
    given = _Given(flows, options)
    if not given:
        return []
    sending = _Sending(session, options, given.flow)
    while given:
        await (sending.tasks(given) if given.is_task else sending.flows(given))
    session.check()
    if sending.messages:
        await session.publish(
            sending.messages,
            sending.span,
            timeout=timeout,
            retry=retry,
            sizes=Sizes(sending.sizes),
            counters=sending.counters,
            began=began,
        )
    await free(sending.messages)
    return sending.handles


async def call_many(
    session: Session,
    flows: Sequence[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    began: float,
    chunk_size: int,
    keep_results: bool,
    **own: Any,
) -> list[Any]:
    """Send many tasks and flows, and wait for all their results. See `CeleryClient.call_many`."""
    if not await _are_tasks(flows):
        if check_chunk_size(chunk_size) > 1:
            raise MessageError("chunk_size is for tasks: a chain, a group or a chord has messages of its own")
        return await _call_flows(
            session, flows, options, timeout=timeout, began=began, keep_results=keep_results, **own
        )
    defaults, own_expiry = await prepare_many(flows, options, timeout)
    if not flows:
        return []
    if check_chunk_size(chunk_size) > 1:
        if keep_results:
            raise MessageError("keep_results is not for chunks: what is stored there is not the result of one call")
        return await _call_in_chunks(
            session, flows, options, chunk_size=chunk_size, timeout=timeout, began=began, **own
        )
    routed = iter(session.routed(flows, options))
    first = next(routed)
    span = session.start_send(first, options, batch=len(flows) > 1)
    messages = await session.encoder.many(chain([first], routed), options, span, defaults)
    session.check()
    budget, handles = Budget(), list[AsyncResult[Any]]()
    for message, signature in zip(messages, flows, strict=True):
        handles.append(handle_of(session, message, signature))
        if budget.is_spent():
            await budget.pause()
    session.check()
    return await call_pieces(
        session,
        messages,
        handles,
        ends_of(len(messages)),
        span,
        timeout=timeout,
        began=began,
        expiry_is_timeout=not own_expiry,
        keep_results=keep_results,
        **own,
    )


async def _call_in_chunks(
    session: Session,
    signatures: Sequence[Signature[Any]],
    options: SendOptions,
    *,
    chunk_size: int,
    timeout: float | None,
    began: float,
    retry: bool,
    return_exceptions: bool,
    terminate_on_cancel: bool,
) -> list[Any]:
    """Send calls in chunks and wait for all their answers.

    Args:
        session: The client's running parts.
        signatures: The calls.
        options: The options of all of them.
        chunk_size: The most calls in one message.
        timeout: Seconds for all of it. None is no limit.
        began: When the caller's call began, by the loop's clock.
        retry: Whether to send messages again, until the deadline, if sending fails.
        return_exceptions: Whether to put the error of a call that failed, or gave no answer in time, in its place.
        terminate_on_cancel: As for `Calls`.

    Returns:
        The answers, in order.

    Raises:
        MessageError: A call cannot be in a chunk, or sent.
        TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
        ResultTimeoutError: Not all answers came in time. The error carries what did, by index.
        FiboError: Another error of a call. The others are revoked.
    """
    loop = session.check()
    count = len(signatures)
    session.check_room(math.ceil(count / chunk_size))
    budget = Budget()
    for signature in signatures:  # Before any of them is sent.
        positional(signature)
        if budget.is_spent():
            await budget.pause()
    calls: Calls[int] = Calls(
        session,
        signatures.__getitem__,
        options,
        chunk_size=chunk_size,
        retry=retry,
        terminate_on_cancel=terminate_on_cancel,
        deadline=math.inf if timeout is None else began + timeout,
        max_delay=math.inf,  # All of them are there, however long it takes to look at each.
    )
    answers = Answers(count, loop.create_future(), return_exceptions=return_exceptions)
    try:
        for index in range(count):
            calls.join(signatures[index], math.inf, partial(answers.receive, index))
            if budget.is_spent():
                await budget.pause()
        calls.flush()
        await answers.over
    finally:
        calls.close()
    return await answers.conclude(loop.time() - began)


async def _call_flows(
    session: Session,
    flows: Sequence[Flow[Any]],
    options: SendOptions,
    *,
    timeout: float | None,
    began: float,
    return_exceptions: bool,
    **own: Any,
) -> list[Any]:
    """Send flows, and wait for all their results. Each ends by itself, and is owned.

    Args:
        session: The client's running parts.
        flows: The flows; at least one.
        options: The options of all of them.
        timeout: Seconds for all of it. None is no limit.
        began: When the caller's call began, by the loop's clock.
        return_exceptions: Whether to put the error of one that ended badly in its place.
        **own: More of `Session.submit`.

    Returns:
        The results, in order.

    Raises:
        ResultTimeoutError: Not all came in time. The error carries what did, by index.
        FiboError: Another error of one of them. The others are revoked.
    """
    defaults, own_expiry = await prepare_many(chain.from_iterable(map(signatures_of, flows)), options, timeout)
    overridden = (override_options(flow, options) for flow in flows)
    first = next(overridden)
    encoder, span = start_flows(session, first, options, defaults, batch=True)
    budget = Budget()
    plans: deque[Plan] = deque()
    for flow in chain([first], overridden):
        plan = Plan(encoder)
        await in_turns(plan.add(flow), EACH, budget)
        plans.append(plan)
        if budget.is_spent(EACH):
            await budget.pause()
    loop = session.check()
    session.check_room(sum(len(plan.tasks) for plan in plans))
    answers = Answers(len(plans), loop.create_future(), return_exceptions=return_exceptions)
    shared = SharedSpan(span)
    started = 0

    async def call(plan: Plan) -> Any:
        nonlocal started
        if answers.over.done():
            return None
        started += bool(plan.tasks)  # A group may be empty.
        return await call_plan(
            session, plan, shared, timeout=timeout, began=began, expiry_is_timeout=not own_expiry, **own
        )

    calling: list[asyncio.Task[Any]] = []
    try:
        for index in range(len(plans)):
            task = loop.create_task(call(plans.popleft()), name="fibo_client.call_many")
            task.add_done_callback(partial(answers.end, index))
            calling.append(task)
            if budget.is_spent(EACH):
                await budget.pause()
        await answers.over
    finally:
        answers.over.cancel()
        shared.expect(started)
        cancel_in_turns(calling)
    return await answers.conclude(loop.time() - began)


async def _are_tasks(flows: Sequence[object]) -> bool:
    """Tell whether all flows are single tasks without links.

    Args:
        flows: What the caller gave.

    Returns:
        Whether they are.

    Raises:
        TypeError: One of them is no flow.
    """
    plain, budget = True, Budget()
    for flow in flows:
        check_flow(flow)
        plain = plain and isinstance(flow, Signature) and not is_flow(flow)
        if budget.is_spent():
            await budget.pause()
    return plain


class _Given:
    """The flows of one send, taken one after the other.

    Args:
        flows: The flows.
        options: The options of the call.

    Attributes:
        flow: The next one. Where none is left, this object is false.
        is_task: Whether it is a single task without links.
    """

    def __init__(self, flows: Iterable[Flow[Any]], options: SendOptions) -> None:
        self._rest = iter(flows)
        self._options = options
        self._own: object = None
        self.flow: Any = None
        self.is_task: bool = False
        self.advance()

    def __bool__(self) -> bool:
        return self.flow is not _NOTHING

    def advance(self) -> None:
        """Go on to the next.

        Raises:
            TypeError: It is no flow.
        """
        self.flow = flow = next(self._rest, _NOTHING)
        if isinstance(flow, Signature):
            if flow.options is not self._own:  # Calls of one task share their options.
                self._own = flow.options
                self.is_task = "link" not in flow.options and "link_error" not in flow.options
            if not self.is_task:
                self.flow = override_options(flow, self._options)
        elif flow is not _NOTHING:
            check_flow(flow)
            self._own, self.is_task = None, False

    def tasks(self, taken: list[Signature[Any]]) -> Iterator[Signature[Any]]:
        """Take tasks up to the next flow, and note them."""
        while self.is_task and self:
            taken.append(self.flow)
            yield self.flow
            self.advance()


class _Sending:
    """Encodes what is sent together, and makes its handles.

    Args:
        session: The client's running parts.
        options: The options of the call.
        first: The first of what is sent.

    Attributes:
        span: The span of the messages.
        messages: The messages.
        handles: The handles of all that was given.
        sizes: How many results each chord waits for.
        counters: Names of what chords store beside results.
    """

    def __init__(self, session: Session, options: SendOptions, first: Flow[Any]) -> None:
        self._session = session
        self._options = options
        self._encoder, self.span = start_flows(session, first, options, batch=True)
        self.messages: list[TaskMessage] = []
        self.handles: list[Any] = []
        self.sizes: dict[str, int] = {}
        self.counters: list[str] = []

    async def tasks(self, given: _Given) -> None:
        """Encode tasks up to the next flow."""
        session, own_ids = self._session, self._encoder.own_ids
        taken: list[Signature[Any]] = []
        tasks = given.tasks(taken)
        routed = tasks if session.routes is None else map(self._encoder.routed, tasks)
        async for portion in session.encoder.portions(routed, self._options, self.span, own_ids=own_ids):
            self.messages += portion
            self.handles += [
                handle_of(session, message, signature, handed_out=True)
                for message, signature in zip(portion, taken, strict=False)
            ]
            del taken[: len(portion)]

    async def flows(self, given: _Given) -> None:
        """Encode flows up to the next task."""
        plan, budget = Plan(self._encoder), Budget()
        while given and not given.is_task:
            flow = given.flow
            if isinstance(flow, (Group, Chord)):
                await in_turns(plan.add(flow), EACH, budget)
            else:
                plan.add_at_once(flow)
            self.handles.append(plan.result)
            given.advance()
            if budget.is_spent(EACH):
                await budget.pause()
        self.messages += plan.messages
        self.sizes |= plan.sizes
        self.counters += plan.counters
