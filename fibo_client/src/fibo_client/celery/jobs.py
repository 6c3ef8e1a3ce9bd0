"""Jobs: tasks that are sent for those who wait for them, and cleaned up after them.

One or several wait, each until a deadline of its own. The messages are sent once. When the last one has left, what is
unanswered is revoked, unless the last of all deadlines has passed (then the tasks expire), and what was answered is
deleted. What is awaited need not be what is published: of a chain, the first task's message leaves, and every task is
awaited.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fibo_client.celery.publisher import Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.cleaner import Cleaner
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.publisher import Failure, Publisher
    from fibo_client.celery.reader import Reader
    from fibo_client.celery.registry import Waiter
    from fibo_client.telemetry.tracer import SendSpan

EXPIRY_MARGIN: Final = 2.0
"""Seconds between the last deadline of owned work and the expiry of its tasks: a worker judges it by its own clock."""


class Job:
    """Tasks that belong to those who wait for them.

    Whoever makes one sends it and lets the first waiter enter, in one step.

    Args:
        messages: What is published; at least one.
        task_ids: What is awaited. None is the tasks of the messages.
        publisher: Sends them.
        reader: Reads their results.
        cleaner: Cleans up after them.
        retry: Whether to send messages again after a failure, until the last deadline.
        bulky: Whether large answers are expected.
        end_on_failure: Whether to wait no longer once a task has failed.
        revoke_on_cancel: Whether to revoke what is unanswered when all have left before the last deadline.
        keep_results: Whether to delete no result.
        span: The span of the messages, which ends when they are over.
    """

    def __init__(
        self,
        messages: Sequence[TaskMessage],
        task_ids: Sequence[str] | None,
        publisher: Publisher,
        reader: Reader,
        cleaner: Cleaner,
        *,
        retry: bool,
        bulky: bool,
        end_on_failure: bool,
        revoke_on_cancel: bool,
        keep_results: bool,
        span: SendSpan,
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._cleaner = cleaner
        self._retry = retry
        self._bulky = bulky
        self._end_on_failure = end_on_failure
        self._revoke_on_cancel = revoke_on_cancel
        self._keep_results = keep_results
        self._publication = Publication(messages, self._published, span=span)
        self._task_ids = [message.id for message in messages] if task_ids is None else task_ids
        self._waiters: dict[Waiter, None] = {}
        self._last_deadline = -math.inf
        self._sent = False

    def enter(
        self,
        timeout: float | None,
        on_over: Callable[[], None],
        on_answer: Callable[[str, TaskMeta | Exception], None] | None = None,
    ) -> Waiter:
        """Begin to wait for all of the tasks.

        Args:
            timeout: Seconds until the wait ends. None is no limit.
            on_over: Called once, when all answers are there or the wait ends without them.
            on_answer: Called with each answer, as it comes: with the task's id, and its meta or an error.

        Returns:
            The waiter, to be handed to `leave` in the end.
        """
        waiter = self._reader.enter(
            self._task_ids,
            timeout=timeout,
            on_over=on_over,
            on_answer=on_answer,
            bulky=self._bulky,
            end_on_failure=self._end_on_failure,
            begun=self._sent,
        )
        self._waiters[waiter] = None
        self._last_deadline = max(self._last_deadline, waiter.deadline)
        if self._retry:
            self._publication.retry_until = self._last_deadline
        return waiter

    def send(self) -> None:
        """Leave the tasks to be sent. Once."""
        self._publisher.put(self._publication)

    def leave(self, waiter: Waiter, now: float) -> None:
        """Stop waiting, over or not. The last one to leave ends the job.

        Args:
            waiter: From `enter`.
            now: The present.
        """
        self._reader.leave(waiter)
        self._waiters.pop(waiter, None)
        if not self._waiters:
            self._publisher.withdraw(self._publication)
            self._clean_up(waiter, now)

    @property
    def unsent(self) -> str | None:
        """Why nothing was, or will be, sent; None if something was, or may have been."""
        publication = self._publication
        if len(publication.unsent) < len(publication.messages):
            return None
        return publication.failure.reason if publication.failure else "the command before it has had no answer yet"

    def sent(self, task_ids: Sequence[str]) -> bool | None:
        """Tell whether tasks were sent.

        Args:
            task_ids: Their ids.

        Returns:
            True if all were, False if the first of them certainly was not, None if it is not known.
        """
        if not self._publication.remaining:
            return True
        unsent, messages = self._unsent, self._message_ids
        if not any(task_id in self._publication.remaining or task_id not in messages for task_id in task_ids):
            return True
        return False if task_ids[0] in unsent else None

    @property
    def in_flight(self) -> int:
        """How many of the tasks were, or may have been, sent and have no answer yet, as far as somebody waits."""
        missing = max((waiter.missing for waiter in self._waiters), key=len, default={})
        return len(missing.keys() - self._unsent)

    @property
    def _unsent(self) -> set[str]:
        """The tasks that were certainly not sent. One that a worker sends needs a message of the job's before."""
        publication = self._publication
        unsent = publication.unsent
        return unsent.union(self._task_ids) if len(unsent) == len(publication.messages) else unsent

    @property
    def _message_ids(self) -> set[str]:
        return {message.id for message in self._publication.messages}

    def _published(self, failure: Failure | None) -> None:
        self._sent = failure is None
        for waiter in list(self._waiters):
            if failure is None:
                self._reader.begin(waiter)
            else:
                self._reader.fail(waiter, failure)

    def _clean_up(self, waiter: Waiter, now: float) -> None:
        unsent = self._unsent
        abandoned = [task_id for task_id in waiter.missing if task_id not in unsent]
        # Whoever had the last deadline may have left before it. Until then nothing expires.
        if abandoned and now < self._last_deadline and self._revoke_on_cancel:
            # Where the outcome of sending is unknown, the caller is told so, and may yet wait for the task.
            spared = self._publication.unknown if waiter.error is not None else ()
            self._cleaner.revoke([task_id for task_id in abandoned if task_id not in spared])
        if self._keep_results:
            return
        # When the tasks have expired, a worker stores that they have. Then nobody needs to know any more.
        delay = self._last_deadline - now + 2 * EXPIRY_MARGIN
        if abandoned and delay < math.inf:
            self._cleaner.delete(abandoned, delay)
        answered = [task_id for task_id in waiter.arrived if task_id not in waiter.missing]
        if answered:
            self._cleaner.delete(answered)
