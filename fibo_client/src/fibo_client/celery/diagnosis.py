"""Why a task gives no answer: what the queue and the workers know of it."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fibo_client.celery.engine import doubt
from fibo_client.celery.inspection import Inspect
from fibo_client.celery.protocol import states
from fibo_client.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.engine import Engine
    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.transport.base import Place


class Cause(enum.StrEnum):
    """Why a task has no answer, as far as it can be told from here."""

    FINISHED = "finished"
    """It has one: it is over, and its result is stored."""
    RUNNING = "running"
    """A worker runs it."""
    RESERVED = "reserved"
    """A worker has taken it and does not run it yet."""
    SCHEDULED = "scheduled"
    """A worker keeps it for later: it has an ``eta``, a ``countdown``, or is to be retried."""
    WAITING = "waiting"
    """It waits in its queue, behind others or next."""
    NO_WORKER = "no worker"
    """It waits, and no worker answers on this broker."""
    NOT_LISTENING = "not listening"
    """It waits, and no worker that answers takes tasks from its queue."""
    UNKNOWN_TASK = "unknown task"
    """The workers do not know a task of that name."""
    STORED_ELSEWHERE = "stored elsewhere"
    """It is nowhere to be found, and its message or the workers' settings say: no result, or not where we read."""
    GONE = "gone"
    """It was sent, and is nowhere to be found: over with its result expired or deleted, or lost with its worker."""
    NEVER_PUBLISHED = "never published"
    """It is nowhere to be found, and this client does not remember that it sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is known of a task. Print it for a sentence.

    Attributes:
        task_id: The task's id.
        task: The task's name, where it is known.
        state: The stored state; ``PENDING`` where nothing is stored, or where it cannot be read.
        cause: Why it has no answer.
        queue: The queue that was looked at.
        depth: How many messages wait in it.
        ahead: About how many of them come before this task's; None if it was not found there.
        searched: Whether all of the queue was looked at. In a long one only the oldest and the newest are.
        sent: Whether this client remembers that it sent the task.
        workers: The node names of the workers that answered.
        listening: Those among them that take tasks from that queue.
        registered: Those among them that know the task by its name; None where the name is not known.
        held: What a worker says about the task: ``active``, ``reserved`` or ``scheduled``, by node name.
        since: When it began to run, by its worker's clock; None if it does not run, or the worker does not say.
        elsewhere: In which way a worker's settings for results differ from this client's, by node name. Only what it
            tells: a worker's environment, which wins over its settings, is not shown. ``message`` stands for the task's
            own message, where that asks for no result, and ``this client`` for a client that can read none.
    """

    task_id: str
    task: str | None
    state: str
    cause: Cause
    queue: str
    depth: int
    ahead: int | None
    searched: bool
    sent: bool
    workers: tuple[str, ...]
    listening: tuple[str, ...]
    registered: tuple[str, ...] | None
    held: dict[str, str]
    since: datetime | None
    elsewhere: dict[str, str]

    def __str__(self) -> str:
        text = f"{self.task or 'task'}[{self.task_id}] is {self.state}: {self._finding()}"
        if self.elsewhere and self.cause in _OPEN:
            text += f". Its result may not come here: {self._elsewhere()}"
        return text

    def _finding(self) -> str:
        holder = next(iter(self.held), "a worker")
        match self.cause:
            case Cause.FINISHED:
                return "it is over, and its result is stored"
            case Cause.RUNNING:
                since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC by its clock" if self.since else ""
                return f"{holder} holds it (active): it is running{since}"
            case Cause.RESERVED:
                return f"{holder} holds it (reserved): it runs when a process there is free"
            case Cause.SCHEDULED:
                return f"{holder} holds it (scheduled) until its time comes"
            case Cause.WAITING:
                return self._waiting()
            case Cause.NO_WORKER:
                return f"no worker answers on this broker; {self._waiting()}"
            case Cause.NOT_LISTENING:
                return f"no worker takes tasks from {self.queue!r} (start one with -Q {self.queue}); {self._waiting()}"
            case Cause.UNKNOWN_TASK:
                return "no worker knows a task of that name: see the module that they load (-A), and its spelling"
            case Cause.STORED_ELSEWHERE:
                return f"it is in no queue; its result seems to be stored elsewhere, or nowhere: {self._elsewhere()}"
            case Cause.GONE:
                return (
                    "it was sent, and neither its queue nor a worker has it now: it is over and its result has "
                    "expired, was deleted or is stored elsewhere, or its worker died with it"
                )
            case Cause.NEVER_PUBLISHED:
                return (
                    "its queue has it not, no worker holds it, and this client does not remember to have sent it: it "
                    "was never sent, it went to another queue or broker, or it is over and its result has expired"
                )

    def _waiting(self) -> str:
        if self.ahead is not None:
            return f"it waits in {self.queue!r} behind about {self.ahead} others ({self.depth} in all)"
        return f"{self.depth} messages wait in {self.queue!r}, and it is not among the oldest and newest of them"

    def _elsewhere(self) -> str:
        return "; ".join(f"{worker}: {what}" for worker, what in self.elsewhere.items())


_Holding = dict[str, tuple[str, datetime | None]]
"""By node name, what the worker says about the task, and since when it has been running."""


async def diagnose(engine: Engine, result: AsyncResult[Any], *, timeout: float) -> Diagnosis:
    """Ask the result store, the queue and all workers about a task.

    Args:
        engine: The client's running parts.
        result: The task.
        timeout: Seconds that each look at the queue and at the result, and each round of questions, may take.

    Returns:
        What is known.

    Raises:
        TransportError: Redis could not be asked.
        ResultDecodeError: What is stored is not a result.
    """
    engine.check()
    queue = result.queue or engine.config.queue
    # First the queue, then the workers, then the result: a task that moves on meanwhile is met further on.
    place = await engine.broker.locate(queue, result.id, timeout=timeout)
    inspect = Inspect(engine, None, timeout)
    queues = await inspect.active_queues()
    registered: dict[str, Any] = {}
    held: dict[str, Any] = {}
    conf: dict[str, Any] = {}
    if queues:
        held, registered, conf = await asyncio.gather(
            inspect.query_task([result.id]), inspect.registered(), inspect.conf()
        )
    holding = _holding(held, result.id)
    state = await _state(engine, result, timeout)
    if queues and not holding and place.ahead is None and state not in states.READY_STATES:
        # Before 5.7, workers that are asked for a task do not look among those that they hold for later.
        holding = await _held_for_later(inspect, result.id)
        state = await _state(engine, result, timeout)
    unreadable = engine.store.unreadable
    failure = result.cached.failure if result.cached is not None else None
    listening = tuple(name for name, taken in queues.items() if queue in _names(taken))
    facts = _Facts(
        state=state,
        unknown=failure is not None and failure.exc_type == "NotRegistered",
        held=tuple(what for what, _ in holding.values()),
        place=place,
        sent=result.sent,
        workers=bool(queues),
        listening=listening,
        unregistered=result.task is not None and _nobody_knows(result.task, listening, registered),
        registered=None
        if result.task is None
        else tuple(name for name, known in registered.items() if result.task in _registered_names(known)),
        elsewhere=({"message": "it asks for no result (ignore_result=True)"} if result.ignored else {})
        | (
            {name: why for name, each in conf.items() if (why := _elsewhere(each, engine.config)) is not None}
            if unreadable is None
            else {"this client": unreadable}
        ),
    )
    return Diagnosis(
        task_id=result.id,
        task=result.task,
        state=state,
        cause=_judge(facts),
        queue=queue,
        depth=place.depth,
        ahead=place.ahead,
        searched=place.complete,
        sent=facts.sent,
        workers=tuple(queues),
        listening=facts.listening,
        registered=facts.registered,
        held={name: what for name, (what, _) in holding.items()},
        since=next((since for what, since in holding.values() if what == "active"), None),
        elsewhere=facts.elsewhere,
    )


async def _state(engine: Engine, result: AsyncResult[Any], timeout: float) -> str:
    if engine.store.unreadable is not None:
        return states.PENDING
    try:
        async with asyncio.timeout(timeout + _GRACE):
            return await result.state()
    except TimeoutError:
        raise TransportError(f"{engine.store}: no answer within {timeout:g} s. {doubt(engine.store)}") from None


async def _held_for_later(inspect: Inspect, task_id: str) -> _Holding:
    scheduled = await inspect.scheduled()
    holding: _Holding = {name: ("scheduled", None) for name, answer in scheduled.items() if _lists(answer, task_id)}
    # Its time may have come before the first question did, and after the last one.
    return holding or _holding(await inspect.query_task([task_id]), task_id)


def _holding(held: dict[str, Any], task_id: str) -> _Holding:
    return {name: what for name, answer in held.items() if (what := _held(answer, task_id)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a judgement rests on."""

    state: str
    unknown: bool
    held: tuple[str, ...]
    place: Place
    sent: bool
    workers: bool
    listening: tuple[str, ...]
    registered: tuple[str, ...] | None
    unregistered: bool
    """Whether those that listen and have said what they know, and there are such, all do not know the task."""
    elsewhere: dict[str, str]


_OPEN: Final = (Cause.RUNNING, Cause.RESERVED, Cause.SCHEDULED, Cause.WAITING, Cause.NEVER_PUBLISHED)
"""Where a result may still come, or may have come: it matters where to."""

_GRACE: Final = 0.5
"""Seconds by which a look at the result may take longer: with no time at all, none could be taken."""

_HELD = {"active": Cause.RUNNING, "reserved": Cause.RESERVED, "scheduled": Cause.SCHEDULED}


def _judge(facts: _Facts) -> Cause:
    if facts.state in states.READY_STATES:
        return Cause.UNKNOWN_TASK if facts.unknown else Cause.FINISHED
    for what, cause in _HELD.items():
        if what in facts.held:
            return cause
    # In a queue that is too long to be read, a task that was sent waits most likely.
    waits = facts.place.ahead is not None or (not facts.place.complete and facts.sent)
    if waits and not facts.workers:
        return Cause.NO_WORKER
    if waits and not facts.listening:
        return Cause.NOT_LISTENING
    if (waits or facts.sent) and facts.unregistered:
        return Cause.UNKNOWN_TASK
    if waits:
        return Cause.WAITING
    if facts.state == states.PENDING and not facts.sent:
        return Cause.NEVER_PUBLISHED
    return Cause.STORED_ELSEWHERE if facts.state == states.PENDING and facts.elsewhere else Cause.GONE


def _names(queues: Any) -> set[str]:
    return (
        {each["name"] for each in queues if isinstance(each, dict) and isinstance(each.get("name"), str)}
        if (isinstance(queues, list))
        else set()
    )


def _nobody_knows(task: str, listening: Sequence[str], registered: dict[str, Any]) -> bool:
    answered = [registered[name] for name in listening if isinstance(registered.get(name), list)]
    return bool(answered) and not any(task in _registered_names(known) for known in answered)


def _registered_names(known: Any) -> set[str]:
    # A task with options of its own is listed as "name [rate_limit=...]".
    return {each.split(" ", 1)[0] for each in known if isinstance(each, str)} if isinstance(known, list) else set()


def _held(answer: Any, task_id: str) -> tuple[str, datetime | None] | None:
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
    for each in scheduled if isinstance(scheduled, list) else ():
        match each:
            case {"request": {"id": held}} if held == task_id:
                return True
    return False


_HERE = {"localhost", "127.0.0.1", "::1", None}


def _elsewhere(conf: Any, config: CeleryConfig) -> str | None:
    """Say how a worker's settings, masked and without its environment, differ from ours. None is not at all."""
    if not isinstance(conf, dict):
        return None
    if conf.get("task_ignore_result"):
        return (
            "it stores only the results of tasks that are declared with ignore_result=False, or, from Celery 5.7 on, "
            "sent with it (task_ignore_result is set)"
        )
    options = conf.get("result_backend_transport_options")
    prefix = options.get("global_keyprefix") if isinstance(options, dict) else None
    if bool(prefix) != bool(config.result_prefix):
        # Celery masks what it is, because of the "key" in its name.
        return (
            "its keys have a prefix (global_keyprefix), those that this client reads have none: set result_prefix"
            if prefix
            else "its keys have no prefix (global_keyprefix), those that this client reads have one: result_prefix"
        )
    backend = conf.get("result_backend")
    if not _is_shown(conf.get("broker_url"), config):
        return None
    if backend is None:
        return "its settings name no result_backend, so it stores none, unless its environment says otherwise"
    if not isinstance(backend, str):
        return None
    if backend.startswith("disabled"):
        return "it stores none (result_backend is disabled)"
    return _difference(backend, config)


def _is_shown(broker: Any, config: CeleryConfig) -> bool:
    """Tell whether the settings are those that a worker goes by: its environment wins over them, and is not shown."""
    # It answers on our broker, so settings that name another one are not in force.
    try:
        return isinstance(broker, str) and _server(broker)[2:] == _server(config.broker_url)[2:]
    except ValueError:
        return False


def _difference(backend: str, config: CeleryConfig) -> str | None:
    ours = config.result_backend or config.broker_url
    try:
        (theirs_kind, *theirs), (ours_kind, *mine) = _server(backend), _server(ours)
    except ValueError:
        return None
    if theirs_kind == ours_kind and theirs == mine:
        return None
    if theirs_kind not in ("redis", "rediss", ours_kind):
        return f"its result_backend is of another kind ({theirs_kind}), unless its environment says otherwise"
    if ours_kind not in ("redis", "rediss") or theirs == mine:
        return None
    (their_host, their_port, their_db), (our_host, our_port, our_db) = theirs, mine
    if (their_port, their_db) == (our_port, our_db):
        if {their_host, our_host} <= _HERE:
            return None
        return f"its result_backend is at {their_host}, ours at {our_host}: perhaps two names of one server"
    return (
        f"its result_backend is {their_host}:{their_port}/{their_db}, ours {our_host}:{our_port}/{our_db}, "
        "unless its environment says otherwise (CELERY_RESULT_BACKEND)"
    )


def _server(url: str) -> tuple[str, str | None, int, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or 6379, parts.path.strip("/") or "0"
