"""Ask the result backend, the queue and the workers why a task has no answer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fibo_client.celery.diagnosis import Cause, Diagnosis
from fibo_client.celery.flow_results import ChordResult, GroupResult
from fibo_client.celery.flow_steps import failed_step, is_waited_for, waited_step
from fibo_client.celery.inspect import Inspect, queue_names, task_names
from fibo_client.celery.outcome import outage_hint
from fibo_client.celery.protocol import states
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.protocol.groups import size_name
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.result_settings import stored_elsewhere
from fibo_client.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from fibo_client.celery.brokers.base import Place
    from fibo_client.celery.flow_results import FlowResult
    from fibo_client.celery.session import Session

T = TypeVar("T")

_Holding = dict[str, tuple[str, datetime | None]]
"""By node name: the worker's state of the task (``active``, ``reserved``, ...), and when it began to run."""


async def diagnose(
    session: Session, result: AsyncResult[Any], *, timeout: float, sent: bool = False, step: str | None = None
) -> Diagnosis:
    """Ask the result backend, the queue and all workers about a task.

    Args:
        session: The client's running parts.
        result: The task.
        timeout: Seconds for each read of the queue, each read of the result, and each round of questions.
        sent: Whether it is known to have been sent, although this client does not remember it.
        step: Where it stands in what was composed. None is a task alone.

    Returns:
        The diagnosis.

    Raises:
        TransportError: The broker or the result backend did not answer.
        ResultDecodeError: The stored result is unreadable.
    """
    session.check()
    own_queue = result.queue or session.queue_of(result.id)
    queue = own_queue or session.queue_for(result.task)
    # First the queue, then the workers, then the result: tasks move in this order, so none is missed.
    place = await session.broker.locate(queue, result.id, timeout=timeout)
    # The broker itself counts how many workers hear a broadcast.
    heard, queues = await asyncio.gather(
        session.broker.broadcast(ControlRequest(method="ping")), Inspect(session, None, timeout).active_queues()
    )
    registered: dict[str, Any] = {}
    held: dict[str, Any] = {}
    conf: dict[str, Any] = {}
    if queues:
        inspect = Inspect(session, list(queues), timeout)  # Silent workers would cost the whole timeout again.
        held, registered, conf = await asyncio.gather(
            inspect.query_task([result.id]), inspect.registered("ignore_result"), inspect.conf()
        )
    holding = _holding(held, result.id)
    state = await _state(session, result, timeout)
    if queues and not holding and place.ahead is None and state not in states.READY_STATES:
        # Before Celery 5.7, query_task does not find scheduled tasks.
        holding = await _held_for_later(inspect, result.id)
        state = await _state(session, result, timeout)
    failure = result.cached.failure if result.cached is not None else None
    listening = tuple(name for name, taken in queues.items() if queue in queue_names(taken))
    knowing, unregistered = _known(result.task, registered)
    # The workers that hold the task, or else those that may have taken it.
    suspects = set(holding) or {*listening, *(knowing if own_queue is None else ())}
    elsewhere = {"message": "it asks for no result (ignore_result=True)"} if result.ignored else {}
    if session.backend.unreadable is not None:
        elsewhere["this client"] = session.backend.unreadable
    else:
        for name in (each for each in queues if each in suspects):
            declared = _declared(registered.get(name), result.task)
            if why := stored_elsewhere(conf.get(name), session.config, declared):
                refused = "it does not know the task, and its refusal is not here: " if name in unregistered else ""
                elsewhere[name] = f"{refused}{why}"
    facts = _Facts(
        state=state,
        unknown=failure is not None and failure.exc_type == "NotRegistered",
        held=tuple(what for what, _ in holding.values()),
        place=place,
        sent=sent or result.sent,
        guessed=own_queue is None,
        workers=bool(queues),
        silent=max(0, (heard or 0) - len(queues)),
        listening=listening,
        refusing=[name for name in listening if name in unregistered],
        accepting=[name for name in listening if name in knowing],
        elsewhere=elsewhere,
    )
    return Diagnosis(
        task_id=result.id,
        task=result.task,
        state=state,
        cause=_judge(facts),
        queue=queue,
        guessed=facts.guessed,
        depth=place.depth,
        ahead=place.ahead,
        searched=place.complete,
        sent=facts.sent,
        workers=tuple(queues),
        silent=facts.silent,
        listening=listening,
        registered=None if result.task is None else knowing,
        unregistered=tuple(facts.refusing),
        held={name: what for name, (what, _) in holding.items()},
        since=next((since for what, since in holding.values() if what == "active"), None),
        elsewhere=facts.elsewhere,
        step=step,
    )


async def diagnose_flow(session: Session, flow: FlowResult[Any], *, timeout: float) -> Diagnosis:
    """Ask about the task of a chain, a group or a chord that is waited for, or that has ended badly.

    Args:
        session: The client's running parts.
        flow: What was sent.
        timeout: As for `diagnose`.

    Returns:
        The diagnosis of that task. Where all have ended well, it is that of the last.

    Raises:
        TransportError: The broker or the result backend did not answer.
        ResultDecodeError: A stored result is unreadable.
    """
    session.check()
    flow = flow.whole
    if session.backend.unreadable is None:
        await _in_time(session, flow.metas(), timeout)
    failed, waited = failed_step(flow), waited_step(flow)
    step = failed or waited
    if step is None:
        last = flow.tasks[-1] if flow.tasks else AsyncResult[Any](session, flow.id)
        return await diagnose(session, last, timeout=timeout)
    # Of a group that was read, only the ids are known. All else was sent: here, or by the worker of the step before.
    sent = step.task.sent or not (isinstance(flow, GroupResult) and any(step.task is part for part in flow.parts))
    task = next(task for task in flow.tasks if task is step.task)
    found = await diagnose(session, task, timeout=timeout, sent=sent, step=step.position)
    if failed is not None:
        return replace(found, consequence="A wait for the whole ends with its error, and no step after it runs")
    if not isinstance(step.chord, ChordResult):
        return found
    if left := sum(map(is_waited_for, step.chord.header)):
        return replace(found, consequence=f"The body waits for {left} of the {len(step.chord.header)} in its header")
    if found.cause in (Cause.GONE, Cause.STORED_ELSEWHERE) and found.state == states.PENDING:
        with contextlib.suppress(TransportError):  # It may not be read by this user of Redis.
            counter = size_name(step.chord.group_id)
            if await _in_time(session, session.backend.get(counter), timeout) is not None:
                return replace(found, cause=Cause.NOT_COUNTED, sent=False)
    return found


async def _in_time(session: Session, read: Awaitable[T], timeout: float) -> T:
    """Read what is stored. Raise TransportError where that takes too long."""
    try:
        async with asyncio.timeout(timeout + _GRACE):
            return await read
    except TimeoutError:
        raise TransportError(
            f"{session.backend}: no answer within {timeout:g} s. {outage_hint(session.backend)}"
        ) from None


async def _state(session: Session, result: AsyncResult[Any], timeout: float) -> str:
    if session.backend.unreadable is not None:
        return states.PENDING
    return await _in_time(session, result.state(), timeout)


async def _held_for_later(inspect: Inspect, task_id: str) -> _Holding:
    scheduled = await inspect.scheduled()
    holding: _Holding = {name: ("scheduled", None) for name, answer in scheduled.items() if _lists(answer, task_id)}
    # It may have left the schedule before this answer, and entered it after the earlier ones: ask again who holds it.
    return holding or _holding(await inspect.query_task([task_id]), task_id)


def _holding(held: dict[str, Any], task_id: str) -> _Holding:
    return {name: what for name, answer in held.items() if (what := _held(answer, task_id)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """The facts that decide the cause."""

    state: str
    unknown: bool
    """Whether a worker refused the task because it does not know its name."""
    held: tuple[str, ...]
    place: Place
    sent: bool
    guessed: bool
    """Whether the queue is a guess."""
    workers: bool
    silent: int
    listening: tuple[str, ...]
    refusing: Sequence[str]
    """The listening workers that do not know the task."""
    accepting: Sequence[str]
    """The listening workers that know the task."""
    elsewhere: dict[str, str]


_GRACE: Final = 0.5
"""Seconds added to the timeout of a read of the result, so that a timeout of 0 still allows one."""

_HELD = {"active": Cause.RUNNING, "reserved": Cause.RESERVED, "scheduled": Cause.SCHEDULED}


def _judge(facts: _Facts) -> Cause:
    if facts.state in states.READY_STATES:
        return Cause.UNKNOWN_TASK if facts.unknown else Cause.FINISHED
    for what, cause in _HELD.items():
        if what in facts.held:
            return cause
    # Of a long queue only both ends are read. A task that was sent is most likely in between.
    if facts.place.ahead is not None or (not facts.place.complete and facts.sent):
        return _judge_waiting(facts)
    if facts.sent and "message" in facts.elsewhere and facts.state == states.PENDING:
        return Cause.STORED_ELSEWHERE
    if facts.silent or not facts.workers or not (facts.listening or facts.guessed):
        return Cause.NO_REPLY
    if facts.sent and facts.refusing and not facts.accepting and facts.state == states.PENDING:
        return Cause.UNKNOWN_TASK
    if facts.state == states.PENDING and not facts.sent:
        return Cause.NEVER_PUBLISHED
    return Cause.STORED_ELSEWHERE if facts.state == states.PENDING and facts.elsewhere else Cause.GONE


def _judge_waiting(facts: _Facts) -> Cause:
    if not facts.listening:
        if facts.silent:
            return Cause.NO_REPLY
        return Cause.NOT_LISTENING if facts.workers else Cause.NO_WORKER
    return Cause.UNKNOWN_TASK if facts.refusing and not facts.accepting else Cause.WAITING


def _known(task: str | None, registered: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the workers that know a task, and those that do not. One without a readable answer is in neither."""
    knows = {name: task in task_names(known) for name, known in registered.items() if isinstance(known, list)}
    if task is None:
        return (), ()
    return tuple(name for name in knows if knows[name]), tuple(name for name in knows if not knows[name])


def _declared(known: Any, task: str | None) -> bool | None:
    """Tell whether a worker declares a task with ``ignore_result=True``. None if that is not known."""
    tasks = known if isinstance(known, list) else ()
    return next((ignored for ignored in (True, False) if f"{task} [ignore_result={ignored}]" in tasks), None)


def _held(answer: Any, task_id: str) -> tuple[str, datetime | None] | None:
    """Read one worker's answer to `Inspect.query_task`."""
    match answer.get(task_id) if isinstance(answer, dict) else None:
        case [str(state), {"time_start": float(start)}]:
            try:
                return state, datetime.fromtimestamp(start, UTC)
            except (ValueError, OverflowError, OSError):
                return state, None
        case [str(state), *_]:
            return state, None
    return None


def _lists(scheduled: Any, task_id: str) -> bool:
    """Tell whether one worker's answer to `Inspect.scheduled` lists a task."""
    for each in scheduled if isinstance(scheduled, list) else ():
        match each:
            case {"request": {"id": held}} if held == task_id:
                return True
    return False
