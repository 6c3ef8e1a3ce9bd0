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
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.errors import TransportError
from fibo_client.text import listed, printable, shown, summary

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
    """It waits, and no worker listens to questions on this broker."""
    NOT_LISTENING = "not listening"
    """It waits, and no worker that answers takes tasks from its queue."""
    UNKNOWN_TASK = "unknown task"
    """A worker that does not know a task of that name has refused it, or those that would take it do not know it."""
    NO_REPLY = "no reply"
    """A worker that gave no answer may have it, or may be the one to take it: some answer nothing while they run a
    task (pool ``solo``), some never (without remote control)."""
    STORED_ELSEWHERE = "stored elsewhere"
    """It is nowhere to be found, and its message, its declaration or the workers' settings say: no result, or not where
    we read."""
    GONE = "gone"
    """It was sent, and is nowhere to be found: over with its result expired or deleted, or lost with its worker."""
    NEVER_PUBLISHED = "never published"
    """It is nowhere to be found, and this client does not remember that it sent it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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
        silent: How many others heard the questions, and gave no answer that can be read. A worker without remote
            control hears none.
        listening: Those that answered and take tasks from that queue.
        registered: Those that answered and know the task by its name; None where the name is not known.
        unregistered: Those that take tasks from that queue and do not know the task: one that takes it refuses it.
        held: What a worker says about the task: ``active``, ``reserved`` or ``scheduled``, by node name.
        since: When it began to run, by its worker's clock; None if it does not run, or the worker does not say.
        elsewhere: Why a worker may not store the result where this client reads it, by node name: it declares the task
            with ``ignore_result=True``, or in which way its settings for results differ. Only what it tells: a worker's
            environment, which wins over its settings, is not shown. Only workers that hold the task, or may have taken
            it, are among them. ``message`` stands for the task's own message, where that asks for no result, and
            ``this client`` for a client that can read none.
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
    silent: int
    listening: tuple[str, ...]
    registered: tuple[str, ...] | None
    unregistered: tuple[str, ...]
    held: dict[str, str]
    since: datetime | None
    elsewhere: dict[str, str]

    def __repr__(self) -> str:
        return summary(self)

    def __str__(self) -> str:
        text = f"{_name(self.task or 'task')}[{_name(self.task_id)}] is {_name(self.state)}: {self.finding()}"
        if self.cause is Cause.WAITING and self.unregistered:
            text += f". {self._strangers()}"
        if self.elsewhere and self.cause in _OPEN:
            text += f". Its result may not come here: {self._elsewhere()}"
        return printable(text)

    def finding(self) -> str:
        """Say why it has no answer, without the task's name and state.

        Returns:
            A clause.
        """
        match self.cause:
            case Cause.FINISHED:
                return "it is over, and its result is stored"
            case Cause.RUNNING | Cause.RESERVED | Cause.SCHEDULED:
                return self._holding()
            case Cause.WAITING:
                return self._waiting()
            case Cause.NO_WORKER:
                return f"no worker answers on this broker (one without remote control is not seen); {self._waiting()}"
            case Cause.NOT_LISTENING:
                whence = f"{shown(self.queue)} (start one with -Q {_name(self.queue)})"
                return f"no worker takes tasks from {whence}; {self._waiting()}"
            case Cause.UNKNOWN_TASK:
                return self._unknown()
            case Cause.NO_REPLY:
                return self._no_reply()
            case Cause.STORED_ELSEWHERE:
                return f"it is in no queue; its result seems to be stored elsewhere, or nowhere: {self._elsewhere()}"
            case Cause.GONE:
                return f"it was sent, and neither its queue nor a worker that answered has it now: {_SENT_AND_GONE}"
            case Cause.NEVER_PUBLISHED:
                return (
                    "its queue has it not, no worker that answered holds it, and this client does not remember to have "
                    f"sent it: {_PERHAPS_NEVER_SENT}"
                )

    def _holding(self) -> str:
        holder = _name(next(iter(self.held), "a worker"))
        if self.cause is Cause.RUNNING:
            since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC by its clock" if self.since else ""
            return f"{holder} holds it (active): it is running{since}"
        if self.cause is Cause.RESERVED:
            return f"{holder} holds it (reserved): it runs when a process there is free"
        return f"{holder} holds it (scheduled) until its time comes"

    def _waiting(self) -> str:
        queue = shown(self.queue)
        if self.ahead is not None:
            return f"it waits in {queue} behind about {self.ahead} others ({self.depth} in all)"
        return f"{self.depth} messages wait in {queue}, and it is not among the oldest and newest of them"

    def _waits(self) -> bool:
        return self.ahead is not None or (not self.searched and self.sent)

    def _unknown(self) -> str:
        if self.registered and self.unregistered:
            return self._strangers()
        refused = self.state in states.READY_STATES
        what = "the worker that took it knew no task" if refused else "no worker that takes from its queue knows a task"
        return f"{what} of that name: see the module that it loads (-A), and its spelling"

    def _strangers(self) -> str:
        """Tell of workers that would refuse the task."""
        known = f", {_names(self.registered)} does" if self.registered else ""
        one = len(self.unregistered) == 1
        return (
            f"{_names(self.unregistered)} {'takes' if one else 'take'} tasks from {shown(self.queue)}, too, and "
            f"{'knows' if one else 'know'} none of that name{known}: give each kind of worker a queue of its own"
        )

    def _no_reply(self) -> str:
        if self._waits():
            return f"{self._waiting()}, and {self._counted()} gave no answer: {_SOLO}"
        had = _SENT_AND_GONE if self.sent else _PERHAPS_NEVER_SENT
        if self.silent:
            who = f"{self._counted()} gave no answer and may have it: {_SOLO}, and {_NO_JSON}"
        else:
            who = f"no worker answered{f' that takes from {shown(self.queue)}' if self.workers else ''}: {_NO_CONTROL}"
        return f"its queue has it not, and {who}. Else {had}"

    def _counted(self) -> str:
        return f"{self.silent} {'worker' if self.silent == 1 else 'workers'} that heard the questions"

    def _elsewhere(self) -> str:
        return listed(self.elsewhere.items(), lambda each: f"{_name(each[0])}: {printable(each[1], 500)}", most=5)


_OPEN: Final = (
    *(Cause.RUNNING, Cause.RESERVED, Cause.SCHEDULED, Cause.WAITING),
    *(Cause.NO_REPLY, Cause.NEVER_PUBLISHED),
)
"""Where a result may still come, or may have come: it matters where to."""

_SENT_AND_GONE: Final = (
    "it is over and its result has expired, was deleted or is stored elsewhere, or its worker died with it"
)
_PERHAPS_NEVER_SENT: Final = (
    "it was never sent, it went to another queue or broker, or it is over and its result has expired"
)
_SOLO: Final = "one with the pool solo answers nothing while it runs a task"
_NO_JSON: Final = (
    "one whose settings have no JSON drops the message (accept_content), or gives answers that only its own app can "
    "read (task_serializer)"
)
_NO_CONTROL: Final = "one without remote control (worker_enable_remote_control) answers nothing, and may have it"


def _name(name: str) -> str:
    return printable(name, 200)


def _names(workers: Sequence[str] | None) -> str:
    return listed(workers or (), _name, most=3)


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
    queue = result.queue or engine.config.queue  # Of a bare id, that is a guess.
    # First the queue, then the workers, then the result: a task that moves on meanwhile is met further on.
    place = await engine.broker.locate(queue, result.id, timeout=timeout)
    # How many hear a question, Redis itself counts.
    heard, queues = await asyncio.gather(
        engine.broker.broadcast(ControlRequest(method="ping")), Inspect(engine, None, timeout).active_queues()
    )
    registered: dict[str, Any] = {}
    held: dict[str, Any] = {}
    conf: dict[str, Any] = {}
    if queues:
        inspect = Inspect(engine, list(queues), timeout)  # Who was silent would only be waited for again.
        held, registered, conf = await asyncio.gather(
            inspect.query_task([result.id]), inspect.registered("ignore_result"), inspect.conf()
        )
    holding = _holding(held, result.id)
    state = await _state(engine, result, timeout)
    if queues and not holding and place.ahead is None and state not in states.READY_STATES:
        # Before 5.7, workers that are asked for a task do not look among those that they hold for later.
        holding = await _held_for_later(inspect, result.id)
        state = await _state(engine, result, timeout)
    failure = result.cached.failure if result.cached is not None else None
    listening = tuple(name for name, taken in queues.items() if queue in queue_names(taken))
    knowing, unregistered = _known(result.task, registered)
    # Who has it, or else who may have taken it.
    blamed = set(holding) or {*listening, *(knowing if result.queue is None else ())}
    facts = _Facts(
        state=state,
        unknown=failure is not None and failure.exc_type == "NotRegistered",
        held=tuple(what for what, _ in holding.values()),
        place=place,
        sent=result.sent,
        guessed=result.queue is None,
        workers=bool(queues),
        silent=max(0, heard - len(queues)),
        listening=listening,
        refusing=[name for name in listening if name in unregistered],
        accepting=[name for name in listening if name in knowing],
        elsewhere=({"message": "it asks for no result (ignore_result=True)"} if result.ignored else {})
        | (
            {
                name: f"it does not know the task, and its refusal is not here: {why}" if name in unregistered else why
                for name in queues
                if name in blamed
                and (why := _elsewhere(conf.get(name), engine.config, _declared(registered.get(name), result.task)))
            }
            if engine.store.unreadable is None
            else {"this client": engine.store.unreadable}
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
        silent=facts.silent,
        listening=listening,
        registered=None if result.task is None else knowing,
        unregistered=tuple(facts.refusing),
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
    """Whether a worker has refused it, because it did not know the task."""
    held: tuple[str, ...]
    place: Place
    sent: bool
    guessed: bool
    """Whether its queue is a guess."""
    workers: bool
    silent: int
    listening: tuple[str, ...]
    refusing: Sequence[str]
    """Those that listen and do not know the task."""
    accepting: Sequence[str]
    """Those that listen and know it."""
    elsewhere: dict[str, str]


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


def queue_names(queues: Any) -> set[str]:
    """Read one worker's answer to `Inspect.active_queues`.

    Args:
        queues: The answer.

    Returns:
        The names in it. Where it is no such answer, none.
    """
    return (
        {each["name"] for each in queues if isinstance(each, dict) and isinstance(each.get("name"), str)}
        if (isinstance(queues, list))
        else set()
    )


def _known(task: str | None, registered: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell which workers know a task, and which do not. Of one that gave no list, neither is told."""
    told = {name: task in _registered_names(known) for name, known in registered.items() if isinstance(known, list)}
    if task is None:
        return (), ()
    return tuple(name for name in told if told[name]), tuple(name for name in told if not told[name])


def _registered_names(known: Any) -> set[str]:
    # A task with options of its own is listed as "name [rate_limit=...]".
    return {each.split(" ", 1)[0] for each in known if isinstance(each, str)} if isinstance(known, list) else set()


def _declared(known: Any, task: str | None) -> bool | None:
    """Tell whether a worker declares a task with ``ignore_result=True``. None is not known."""
    told = known if isinstance(known, list) else ()
    return next((ignored for ignored in (True, False) if f"{task} [ignore_result={ignored}]" in told), None)


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


_IGNORED: Final = (
    "it declares the task with ignore_result=True, and stores a result only if the message asks for one "
    "(ignore_result=False), and only from Celery 5.6.3 on"
)


def _elsewhere(conf: Any, config: CeleryConfig, declared: bool | None = None) -> str | None:
    """Say why a worker may not store a result where we read it. Its settings are masked, and lack its environment."""
    if not isinstance(conf, dict):
        return _IGNORED if declared else None
    # Of a task that is declared neither way, a worker tells that setting of its app.
    if conf.get("task_ignore_result") and declared is not False:
        return (
            "it stores only the results of tasks that are declared with ignore_result=False, or, from Celery 5.6.3 on, "
            "sent with it (task_ignore_result is set)"
        )
    if declared:
        return _IGNORED
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
