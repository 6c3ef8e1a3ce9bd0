"""What is sent for one call: its messages, what is known of their sending, and whether their tasks are owned. Pure."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from fibo_client.celery.pending import Wait
from fibo_client.errors import PublishError, PublishUnknownError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.telemetry.tracer import SendSpan

PublishFailure: TypeAlias = PublishError | PublishUnknownError

_id_of: Final = attrgetter("id")


class Sizes:
    """How many results the chords of some messages wait for. Workers must find that before they end the first task.

    Attributes:
        by_group: The numbers, by the ids of the groups.
        stored: Whether they are stored.
    """

    __slots__ = ("by_group", "stored")

    def __init__(self, by_group: dict[str, int]) -> None:
        self.by_group: dict[str, int] = by_group
        self.stored: bool = not by_group


class Job(Wait):
    """Messages that are sent together, and awaited together, and the wait of the caller who sent them.

    A job that is *handed out* awaits nothing but its sending. One that is *owned* awaits tasks: those of its messages,
    or others that workers send because of these, as the later steps of a chain.

    Attributes:
        messages: What is published; at least one.
        awaits: The ids of the tasks that it awaits. None are awaited of a job that is handed out.
        sizes: What is stored before the messages are sent, where they are of chords.
        counters: Names of what its chords have stored beside results, as for `Backend.discard`.
        retry: Whether to send messages again after a failure, until the deadline.
        keep_results: Whether to delete no result.
        terminate_on_cancel: Whether to end its tasks even while they run, where they are revoked.
        ended: Whether its caller, and all others, wait for it no longer.
        span: The span of the messages, which ends when their sending has.
        next: The index of the first message that was never given to the broker.
        unconfirmed: The messages that the broker was given, and has not taken for certain, by task id.
        maybe_sent: The ids among them that may have been sent.
        to_resend: Those of them that are to be given to the broker once more.
        in_flight: How many portions the broker has, without a word on them so far.
        queued: Whether it waits for the broker to be given more of it.
        halted: Whether the rest is not tried in this attempt: it would fail like what was.
        withdrawn: Whether its caller wants no more of it to be sent.
        sending_ended: Whether nothing more will be sent of it.
        attempts: How often sending was tried.
        failure: Why the last attempt did not succeed.
        giving_up: The timer that ends further attempts shortly before the deadline. None while there is none.
        other_waits: The waits of others for its tasks. They end, too, when these cannot be sent.
        last_deadline: The last of all deadlines, those of others included who waited for its tasks.
    """

    __slots__ = (
        "__weakref__",
        "attempts",
        "awaits",
        "counters",
        "ended",
        "failure",
        "giving_up",
        "halted",
        "in_flight",
        "keep_results",
        "last_deadline",
        "maybe_sent",
        "messages",
        "next",
        "other_waits",
        "queued",
        "retry",
        "sending_ended",
        "sizes",
        "span",
        "terminate_on_cancel",
        "to_resend",
        "unconfirmed",
        "withdrawn",
    )

    def __init__(
        self,
        messages: Sequence[TaskMessage],
        awaits: Sequence[str],
        future: asyncio.Future[None],
        now: float,
        timeout: float | None,
        *,
        retry: bool,
        end_on_failure: bool = False,
        enough: set[str] | None = None,
        counters: Sequence[str] = (),
        keep_results: bool = False,
        terminate_on_cancel: bool = False,
        span: SendSpan = NOOP_SPAN,
        sizes: Sizes | None = None,
    ) -> None:
        super().__init__(future, now, timeout, end_on_failure=end_on_failure, enough=enough)
        self.messages: Sequence[TaskMessage] = messages
        self.awaits: Sequence[str] = awaits
        self.counters: Sequence[str] = counters
        self.sizes: Sizes | None = sizes
        self.retry: bool = retry
        self.keep_results: bool = keep_results
        self.terminate_on_cancel: bool = terminate_on_cancel
        self.ended: bool = False
        self.span: SendSpan = span
        self.next: int = 0
        self.unconfirmed: dict[str, TaskMessage] = {}
        self.maybe_sent: set[str] = set()
        self.to_resend: list[TaskMessage] = []
        self.in_flight: int = 0
        self.queued: bool = False
        self.halted: bool = False
        self.withdrawn: bool = False
        self.sending_ended: bool = False
        self.attempts: int = 0
        self.failure: PublishFailure | None = None
        self.giving_up: asyncio.TimerHandle | None = None
        self.other_waits: list[Wait] = []
        self.last_deadline: float = self.deadline

    @property
    def retry_until(self) -> float:
        """When the last attempt must have begun."""
        return self.deadline if self.retry else -math.inf

    @property
    def is_sent(self) -> bool:
        """Whether all of it was sent for certain."""
        return self.next == len(self.messages) and not self.unconfirmed

    @property
    def remaining(self) -> list[str]:
        """The ids of the messages that have not been sent for certain."""
        return [*self.unconfirmed, *map(_id_of, self.messages[self.next :])]

    @property
    def unsent(self) -> set[str]:
        """The ids of the messages that have certainly not been sent."""
        return set(self.remaining) - self.maybe_sent

    def take(self, count: int, size: int) -> Part:
        """Take what is to be given to the broker next. It may have been sent, until the broker says something else.

        Args:
            count: The most messages.
            size: The most bytes in their bodies, unless a single one has more.

        Returns:
            The messages; at least one.
        """
        source = self.to_resend or self.messages
        start = 0 if self.to_resend else self.next
        unconfirmed, maybe_sent = self.unconfirmed, self.maybe_sent
        part = Part(self)
        for message in source[start : start + count]:
            length = len(message.body)
            if part.size + length > size and part.messages:
                break
            part.size += length
            part.messages.append(message)
            task_id = message.id
            if task_id not in maybe_sent:
                part.first_tries.add(task_id)
                maybe_sent.add(task_id)
            unconfirmed[task_id] = message
        part.left = len(part.messages)
        if self.to_resend:
            del self.to_resend[: part.left]
        else:
            self.next += part.left
        self.in_flight += 1
        return part

    @property
    def was_not_sent(self) -> PublishFailure | None:
        """Why not all of it was sent; None if it was, or may yet be."""
        return self.failure if self.sending_ended and not self.is_sent else None

    def learn(self, task_id: str, answer: TaskMeta | Exception) -> None:
        """Take a final answer that another wait received. Its own has it already, unless that was over before."""
        if self.missing.pop(task_id, None) is not None:
            self.arrived[task_id] = answer

    def note_answered(self) -> None:
        """Count as sent what may have been, where its task has an answer."""
        answered = (
            self.maybe_sent.intersection(self.awaits).difference(self.missing) if self.missing else self.maybe_sent
        )
        for task_id in list(answered) if self.awaits else ():
            self.maybe_sent.remove(task_id)
            del self.unconfirmed[task_id]

    @property
    def was_nothing_sent(self) -> bool:
        """Whether certainly nothing was sent so far."""
        return len(self.unsent) == len(self.messages)

    @property
    def tasks_in_flight(self) -> int:
        """How many of its tasks were, or may have been, sent and have no answer yet, as far as somebody waits."""
        missing = self.missing.keys() | {task_id for wait in self.other_waits for task_id in wait.missing}
        return len(missing - self.unsent_tasks())

    def unsent_tasks(self) -> set[str]:
        """Give the tasks that were certainly not sent. While no message was, none was that a worker sends on."""
        unsent = self.unsent
        return unsent.union(self.awaits) if len(unsent) == len(self.messages) else unsent

    def were_sent(self, task_ids: Sequence[str]) -> bool | None:
        """Tell whether tasks were sent. True: all were. False: the first certainly was not. None: not known."""
        if self.is_sent:
            return True
        remaining, messages = set(self.remaining), {message.id for message in self.messages}
        if not any(task_id in remaining or task_id not in messages for task_id in task_ids):
            return True
        return False if task_ids[0] in self.unsent_tasks() else None

    def publish_error(self, reason: str) -> PublishFailure:
        """Make the error that names what has not been sent for certain, and tells whether it may have been."""
        if self.maybe_sent:
            return PublishUnknownError(reason, self.remaining)
        refused = self.failure is not None and self.failure.refused
        return PublishError(reason, self.remaining, refused=refused)


class Part:
    """Messages of one job that the broker was given together.

    Attributes:
        job: The job.
        messages: The messages.
        size: The bytes in their bodies.
        first_tries: The ids of those that had certainly not been sent before.
        left: Of how many it is not known what became of them.
    """

    __slots__ = ("first_tries", "job", "left", "messages", "size")

    def __init__(self, job: Job) -> None:
        self.job: Job = job
        self.messages: list[TaskMessage] = []
        self.size: int = 0
        self.first_tries: set[str] = set()
        self.left: int = 0
