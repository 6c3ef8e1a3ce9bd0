"""A chain, a group or a chord that belongs to whoever started it: several may wait for it, and closing it ends it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, TypeVar

from fibo_client.celery.budget import at_once
from fibo_client.celery.canvas import signatures_of
from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.flow_results import FlowResult, wanted_of
from fibo_client.celery.flows import override_options, start_flows
from fibo_client.celery.jobs import Job, Sizes
from fibo_client.celery.owned_result import OwnedTask, prepare_owned
from fibo_client.celery.plan import Plan
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import SharedSpan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import NoReturn, Self

    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Flow, SendOptions

T_co = TypeVar("T_co", covariant=True)


class OwnedFlow(FlowResult[T_co]):
    """A chain, a group or a chord that belongs to whoever started it with `CeleryClient.start`.

    Several may wait for it at once. Leaving ``async with``, or `close`, ends all of it: what has no answer is revoked,
    and what is stored of it is deleted.

    `whole` is the same with its structure: a `ChainResult`, a `GroupResult` or a `ChordResult`.
    """

    __slots__ = ("_owned", "_whole")

    def __init__(self, session: Session, result: FlowResult[T_co], jobs: Sequence[Job]) -> None:
        super().__init__(session, result.parts, result.id)
        self._whole = result
        self._owned = jobs

    @property
    def whole(self) -> FlowResult[T_co]:
        """The result with its structure."""
        return self._whole

    @property
    def _jobs(self) -> Sequence[Job]:
        return self._owned

    def _seconds(self, timeout: float | Unset | None) -> float | None:
        if timeout is not UNSET:
            return self._session.config.seconds(timeout)
        deadline = self._owned[0].deadline
        return None if deadline == math.inf else max(0.0, deadline - asyncio.get_running_loop().time())

    def value_from(self, values: Mapping[str, Any]) -> T_co:
        """Give the result, where those of all tasks are known by their ids."""
        return self._whole.value_from(values)

    def close(self) -> None:
        """End it: revoke what has no answer, and delete what is stored. Closing twice does nothing more."""
        self._session.end_in_turns(list(self._owned))

    def __reduce__(self) -> NoReturn:
        self._session.__reduce__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start_flow(
    session: Session, flow: Flow[T_co], options: SendOptions, *, timeout: float | Unset | None, **own: Any
) -> OwnedFlow[T_co]:
    """Start a chain, a group or a chord that is owned. See `CeleryClient.start`.

    Args:
        session: The client's running parts.
        flow: What is started.
        options: The options of the call.
        timeout: Seconds until the deadline. UNSET is the client's default, None is no limit.
        **own: More of `Session.submit`.

    Returns:
        What was started, which must be closed.

    Raises:
        ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
        MessageError: A worker could not take it. Nothing was sent.
        TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
        ClientStateError: The client is not open here.
    """
    began = session.check().time()
    seconds = session.config.seconds(timeout)
    defaults, own_expiry = prepare_owned(signatures_of(flow), options, seconds)
    flow = override_options(flow, options)
    encoder, span = start_flows(session, flow, options, defaults, handle=OwnedTask)
    plan = Plan(encoder)
    at_once(plan.add(flow))
    if not plan.messages:
        raise MessageError("there is no task in it to start")
    session.check_room(len(plan.tasks))
    sizes, counters, jobs = Sizes(plan.sizes), plan.counters, list[Job]()
    enough = wanted_of(plan.result)
    shared = SharedSpan(span)
    first_message = first = 0
    for last_message, last in plan.pieces:
        tasks = plan.tasks[first:last]
        job = session.submit(
            plan.messages[first_message:last_message],
            shared,
            awaits=[task.id for task in tasks],
            timeout=seconds,
            end_on_failure=True,
            enough=enough,
            sizes=sizes,
            counters=counters,
            began=began,
            **own,
        )
        for task in tasks:
            task.belong_to(job, began, expiry_is_timeout=not own_expiry)
        jobs.append(job)
        first_message, first = last_message, last
    shared.expect(len(jobs))
    return OwnedFlow(session, plan.result, jobs)
