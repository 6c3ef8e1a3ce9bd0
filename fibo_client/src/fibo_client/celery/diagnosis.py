"""Why a task has no answer: the causes, and the facts behind one."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fibo_client.celery.protocol import states
from fibo_client.text import dataclass_repr, listed, printable, short_repr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class Cause(enum.StrEnum):
    """Why a task has no answer, as far as the client can find out."""

    FINISHED = "finished"
    """It does have an answer: the task is over, and its result is stored."""
    RUNNING = "running"
    """A worker runs it."""
    RESERVED = "reserved"
    """A worker has taken it, but does not run it yet."""
    SCHEDULED = "scheduled"
    """A worker keeps it for later: it has an ``eta`` or a ``countdown``, or waits for a retry."""
    WAITING = "waiting"
    """It waits in its queue."""
    NO_WORKER = "no worker"
    """It waits, and no worker answers on this broker."""
    NOT_LISTENING = "not listening"
    """It waits, and none of the workers that answered takes tasks from its queue."""
    UNKNOWN_TASK = "unknown task"
    """A worker refused it because it knows no task of that name, or no worker of its queue knows that name."""
    NO_REPLY = "no reply"
    """A worker that gave no answer may hold it, or may yet take it. With the pool ``solo``, workers answer
    nothing while they run a task; without remote control, they never answer."""
    STORED_ELSEWHERE = "stored elsewhere"
    """The client finds it nowhere. By its message, its declaration or the workers' settings, it stores no result, or
    stores it where this client does not read."""
    GONE = "gone"
    """It was sent, and the client finds it nowhere: it ended and its result expired or was deleted, or its worker died
    with it."""
    NOT_COUNTED = "not counted"
    """It was not sent: it is the body of a chord whose counter waits, although all of its members have ended."""
    NEVER_PUBLISHED = "never published"
    """The client finds it nowhere, and does not remember sending it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diagnosis:
    """The facts about a task without an answer. ``str()`` makes a sentence of them.

    Attributes:
        task_id: The task's id.
        task: The task's name, where the client knows it.
        state: The stored state; ``PENDING`` where nothing is stored, or where this client cannot read results.
        cause: Why it has no answer.
        queue: The queue that the client searched.
        guessed: Whether that is a guess: the client's default queue, as it does not know the task's.
        depth: How many messages wait in that queue.
        ahead: About how many of them come before this task's message; None if that was not found.
        searched: Whether the client searched all of the queue. Of a long one, it reads only the oldest and the newest.
        sent: Whether this client remembers sending the task.
        workers: The node names of the workers that answered.
        silent: How many other workers heard the questions, but gave no readable answer. A worker without remote control
            hears none.
        listening: The workers that answered and take tasks from that queue.
        registered: The workers that answered and know the task's name; None where this client does not know it.
        unregistered: The workers that take tasks from that queue but do not know the task. If one takes it, it fails.
        held: By node name, a worker's state of the task: ``active``, ``reserved`` or ``scheduled``.
        since: When it began to run, by its worker's clock; None if it does not run, or the worker does not say.
        elsewhere: By node name, why a worker may not store the result where this client reads it: it declares the task
            with ``ignore_result=True``, or its result settings differ. Only workers that hold the task, or may have
            taken it, are listed. Their answers do not show their environment, which overrides their settings. The key
            ``message`` stands for the task's own message, if that asks for no result, and ``this client`` for a client
            that cannot read results.
        step: Where the task stands in what was composed, such as ``step 2 of 3``. None is a task alone.
        consequence: What that means for the rest of what was composed. None is nothing to say.
    """

    task_id: str
    task: str | None
    state: str
    cause: Cause
    queue: str
    guessed: bool
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
    step: str | None = None
    consequence: str | None = None

    def __repr__(self) -> str:
        return dataclass_repr(self)

    def __str__(self) -> str:
        where = "" if self.step is None else f", {self.step},"
        text = f"{_name(self.task or 'task')}[{_name(self.task_id)}]{where} is {_name(self.state)}: {self.finding()}"
        if self.cause is Cause.WAITING and self.unregistered:
            text += f". {self._strangers()}"
        if self.elsewhere and self.cause in _OPEN:
            text += f". Its result may not come here: {self._elsewhere()}"
        if self.consequence is not None:
            text += f". {self.consequence}"
        return printable(text)

    def finding(self) -> str:
        """Say why it has no answer, in a clause without the task's name and state."""
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
                queue = f"{short_repr(self.queue)} (start one with -Q {_name(self.queue)})"
                return f"no worker takes tasks from {queue}; {self._waiting()}"
            case Cause.UNKNOWN_TASK:
                return self._unknown()
            case Cause.NO_REPLY:
                return self._no_reply()
            case Cause.STORED_ELSEWHERE:
                return f"it is in no queue; its result seems to be stored elsewhere, or nowhere: {self._elsewhere()}"
            case Cause.GONE:
                return f"it was sent; {self._absent()}, and no worker that answered holds it: {_SENT_AND_GONE}"
            case Cause.NOT_COUNTED:
                return (
                    "it was not sent: all of its header have ended, but the chord's counter in the result backend "
                    "waits for more. Do all workers store results there?"
                )
            case Cause.NEVER_PUBLISHED:
                return (
                    f"{self._absent()}, no worker that answered holds it, and this client does not remember sending "
                    f"it: {_PERHAPS_NEVER_SENT}"
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
        queue = short_repr(self.queue)
        if self.ahead is not None:
            return f"it waits in {queue} behind about {self.ahead} others ({self.depth} in all)"
        return f"{self.depth} messages wait in {queue}, and it is not among the oldest and newest of them"

    def _waits(self) -> bool:
        return self.ahead is not None or (not self.searched and self.sent)

    def _unknown(self) -> str:
        if self.unregistered and self.registered:
            return self._strangers()
        refused = self.state in states.READY_STATES
        what = "the worker that took it knew no task" if refused else "no worker that takes from its queue knows a task"
        return f"{what} of that name: check the module that the worker loads (-A), and the spelling"

    def _strangers(self) -> str:
        """Name the workers that would refuse the task, and those that would run it."""
        know = [each for each in self.registered or () if each in self.listening]
        take, too = _names(self.unregistered, "takes", "take"), ", too," if know else ""
        knows = "knows" if len(self.unregistered) == 1 else "know"
        text = f"{take} tasks from {short_repr(self.queue)}{too} and {knows} none of that name"
        if know or not self.registered:
            known = f", {_names(know, 'does', 'do')}" if know else ""
            return f"{text}{known}: give each kind of worker a queue of its own"
        known = _names(self.registered, "does, but takes", "do, but take")
        return f"{text}; {known} none from there: send it to a queue of theirs (queue=)"

    def _no_reply(self) -> str:
        if self._waits():
            return f"{self._waiting()}, and {self._counted()} gave no answer: {_SOLO}"
        otherwise = _SENT_AND_GONE if self.sent else _PERHAPS_NEVER_SENT
        if self.silent:
            who = f"{self._counted()} gave no answer and may have it: {_SOLO}, and {_NO_JSON}"
        else:
            taking = f" that takes from {short_repr(self.queue)}" if self.workers else ""
            who = f"no worker answered{taking}: {_NO_CONTROL}"
        return f"{self._absent()}, and {who}. Otherwise {otherwise}"

    def _absent(self) -> str:
        guess = " (a guess: this client's own; that of the task is not known)" if self.guessed else ""
        queue = f"{short_repr(self.queue)}{guess}"
        if self.searched:
            return f"it is not in the queue {queue}"
        return f"it was not seen in the queue {queue}, but not all of its {self.depth} messages were looked at"

    def _counted(self) -> str:
        return f"{self.silent} {'worker' if self.silent == 1 else 'workers'} that heard the questions"

    def _elsewhere(self) -> str:
        return listed(self.elsewhere.items(), lambda each: f"{_name(each[0])}: {printable(each[1], 500)}", most=5)


_OPEN: Final = (
    *(Cause.RUNNING, Cause.RESERVED, Cause.SCHEDULED, Cause.WAITING),
    *(Cause.NO_REPLY, Cause.NEVER_PUBLISHED),
)
"""The causes with which a result may still come, or may have come, so that it matters where it is stored."""

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


def _names(workers: Sequence[str], one: str, several: str) -> str:
    return f"{listed(workers, _name, most=3)} {one if len(workers) == 1 else several}"
