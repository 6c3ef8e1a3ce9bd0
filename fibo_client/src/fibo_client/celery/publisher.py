"""The one place that publishes for everybody.

Callers leave jobs here. The messages of all that were left in one iteration of the event loop go to the broker
together, in portions, of which a few are under way at a time: what is behind them is certainly not sent. A caller who
leaves takes back what has not been given to the broker.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from fibo_client.celery.backoff import pause
from fibo_client.celery.budget import EACH, Budget
from fibo_client.celery.protocol.groups import EXPIRES, size_name
from fibo_client.errors import PublishError, PublishUnknownError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.jobs import Job, Part, PublishFailure
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.reader import Reader

logger: Final = logging.getLogger("fibo_client")

PORTION: Final = 64
"""The most messages that the broker is given at a time. A job with more gives way to others between two portions."""

MAX_IN_FLIGHT: Final = 64
"""The most parts of jobs under way at a time: so many small calls at most do not know whether they were sent."""

MAX_BYTES: Final = 256 * 1024
"""The most bytes under way at a time, in the bodies of messages, unless a single one has more."""

MAX_SIZES: Final = 250
"""The most chords whose sizes are stored in one go."""

MAX_RECENT: Final = 1000
"""How many ids are remembered of what was sent, for `diagnose`."""

_WITHDRAWN: Final = "it was withdrawn"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LAST_TRY: Final = 0.1
_GIVE_UP: Final = 0.01


class Publisher:
    """Sends task messages on behalf of everybody who holds the client.

    Args:
        broker: Where they go.
        backend: Where it is stored how many results a chord waits for.
        reader: Is told which tasks have been sent, and which cannot be.

    Attributes:
        published: How many messages the broker has taken.
        recent: The queues of the tasks that were sent last, by id.
        retries: How often a job was tried again.
    """

    def __init__(self, broker: Broker, backend: Backend, reader: Reader) -> None:
        self._broker = broker
        self._backend = backend
        self._reader = reader
        self._small: deque[Job] = deque()
        self._large: deque[Job] = deque()
        self._unfinished: set[Job] = set()
        self._unsized: list[Job] = []  # What is sent once the sizes of its chords are stored.
        self._storing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._context = contextvars.Context()  # What is done for all is not done in the context of one.
        self._is_scheduled = False
        self._preparing: asyncio.Task[None] | None = None
        self._given: dict[int, Part] = {}  # By identity: two callers may have given their tasks the same id.
        self._parts = 0
        self._bytes = 0
        self._reached = False
        self._is_closed = False
        self.published: int = 0
        self.recent: dict[str, str] = {}
        self.retries: int = 0

    def start(self) -> None:
        """Begin to publish on the running event loop."""
        self._loop = asyncio.get_running_loop()

    async def aclose(self, reason: str) -> None:
        """Publish no more. Callers whose messages have not been sent for certain get an error."""
        self._is_closed = True
        try:
            tasks = [task for task in (self._preparing, self._storing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            budget = Budget()
            while self._unfinished:
                job = next(iter(self._unfinished))
                self._finish(job, job.publish_error(reason))
                if budget.is_spent(EACH):
                    await budget.pause()

    def put(self, job: Job) -> None:
        """Leave a job's messages to be sent."""
        self._unfinished.add(job)
        self._add(job)

    def _add(self, job: Job) -> None:
        job.attempts += 1
        job.queued, job.halted = True, False
        if job.sizes is None or job.sizes.stored:
            self._enqueue(job)
            return
        self._unsized.append(job)
        if self._storing is None:
            self._storing = self._loop.create_task(
                self._store_sizes(), name="fibo_client.publisher", context=contextvars.Context()
            )

    async def _store_sizes(self) -> None:
        """Store the sizes of the chords of jobs, and send those."""
        try:
            while self._unsized:
                jobs, self._unsized = self._unsized, []
                for start in range(0, len(jobs), MAX_SIZES):
                    await self._store_sizes_of(jobs[start : start + MAX_SIZES])
        finally:
            self._storing = None

    async def _store_sizes_of(self, jobs: Sequence[Job]) -> None:
        error: TransportError | None = None
        pending = {id(job.sizes): job.sizes for job in jobs if job.sizes is not None and not job.sending_ended}
        sizes = [each for each in pending.values() if not each.stored]
        try:
            names = [(size_name(group_id), size) for each in sizes for group_id, size in each.by_group.items()]
            for start in range(0, len(names), MAX_SIZES):
                values = {name: str(size).encode() for name, size in names[start : start + MAX_SIZES]}
                await self._backend.put_many(values, expires=EXPIRES)
            for each in sizes:
                each.stored = True
        except TransportError as fault:
            error = fault
        except Exception as fault:
            logger.exception("storing the sizes of chords failed")
            error = TransportError(f"{type(fault).__name__}: {fault}")
        budget = Budget()
        for job in jobs:
            job.queued = False
            if error is not None:
                reason = f"the size of a chord could not be stored: {error}"
                job.failure = PublishError(reason, [], refused=error.refused)
                self._settle_if_over(job)
            elif not job.sending_ended:
                job.queued = True
                self._enqueue(job)
            if budget.is_spent(EACH):
                await budget.pause()

    def _enqueue(self, job: Job) -> None:
        (self._small if len(job.messages) <= PORTION else self._large).append(job)
        if not self._parts and not self._is_scheduled and not self._preparing:
            self._flush()  # A turn of the event loop is saved. Those who come while this is under way go together.
        else:
            self._schedule()

    def withdraw(self, job: Job) -> None:
        """Send no more of a job. A command that is under way is completed all the same."""
        job.withdrawn = True
        job.note_answered()  # An answer can overtake the word that its message was taken.
        if job.is_sent and not job.sending_ended:
            self._end(job, None)
        elif not job.in_flight and not job.sending_ended:
            self._end(job, job.failure or job.publish_error(_WITHDRAWN))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be sent."""
        return not self._unfinished

    @property
    def unsent(self) -> int:
        """How many messages have not been sent for certain, and may yet be."""
        return sum(len(job.unconfirmed) + len(job.messages) - job.next for job in self._unfinished)

    def _flush(self) -> None:
        """Give the broker what there is room for."""
        self._is_scheduled = False
        if self._is_closed or not (self._small or self._large):
            return
        if not self._broker.ready:
            if self._preparing is None:
                self._preparing = self._loop.create_task(
                    self._prepare(), name="fibo_client.publisher", context=contextvars.Context()
                )
            return
        budget = Budget()
        while messages := self._take():
            try:
                self._broker.publish(messages, self)
            except Exception as error:
                logger.exception("publishing failed")
                self.failed(messages, PublishUnknownError(f"{type(error).__name__}: {error}", []))
            if not (self._small or self._large):
                break
            if budget.is_spent(len(messages)):
                self._schedule()
                break

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush, context=self._context)

    async def _prepare(self) -> None:
        error: TransportError | None = None
        try:
            await self._broker.prepare()
        except TransportError as fault:
            error = fault
        except Exception as fault:
            logger.exception("publishing failed")
            error = TransportError(f"{type(fault).__name__}: {fault}")
        try:
            if error is not None:
                await self._fail_queued(error)
        finally:
            self._preparing = None
        self._flush()

    async def _fail_queued(self, error: TransportError) -> None:
        """End an attempt to send what waits at this moment."""
        budget = Budget()
        for jobs in (self._small, self._large):
            for job in [jobs.popleft() for _ in range(len(jobs))]:
                job.queued = False
                if not job.sending_ended:
                    job.failure = PublishError(str(error), [], refused=error.refused)
                    self._settle_if_over(job)
                if budget.is_spent(EACH):
                    await budget.pause()

    def _take(self) -> list[TaskMessage]:
        """Take a portion of the jobs in order, the small ones first, as far as there is room."""
        messages: list[TaskMessage] = []
        given = self._given
        for jobs in (self._small, self._large):
            while jobs and self._parts < MAX_IN_FLIGHT and self._bytes < MAX_BYTES and len(messages) < PORTION:
                job = jobs[0]
                if job.sending_ended or job.withdrawn or job.halted:
                    jobs.popleft().queued = False
                    self._settle_if_over(job)
                    continue
                part = job.take(PORTION - len(messages), MAX_BYTES - self._bytes)
                if not job.to_resend and job.next == len(job.messages):
                    jobs.popleft().queued = False
                elif jobs is self._large:
                    jobs.rotate(-1)
                self._parts += 1
                self._bytes += part.size
                messages += part.messages
                for message in part.messages:
                    given[id(message)] = part
        return messages

    # What the broker says.

    def sent(self, messages: Sequence[TaskMessage]) -> None:
        """See `Sender.sent`."""
        self._reached = True
        self.published += len(messages)
        given, recent = self._given, self.recent
        for message in messages:
            part = given.pop(id(message))
            job, task_id = part.job, message.id
            job.maybe_sent.discard(task_id)
            job.unconfirmed.pop(task_id, None)
            recent[task_id] = message.template.queue
            part.left -= 1
            if not part.left:
                self._came_back(part)
        if len(recent) > MAX_RECENT + PORTION:
            for task_id in list(islice(recent, len(recent) - MAX_RECENT)):
                del recent[task_id]
        if (self._small or self._large) and not self._is_scheduled:
            self._flush()

    def failed(self, messages: Sequence[TaskMessage], error: PublishFailure) -> None:
        """See `Sender.failed`."""
        was_sent = isinstance(error, PublishUnknownError)
        for message in messages:
            part = self._given.pop(id(message))
            job = part.job
            job.failure = error
            job.halted = job.halted or not error.refused
            if not was_sent and message.id in part.first_tries:
                job.maybe_sent.discard(message.id)
            part.left -= 1
            if not part.left:
                self._came_back(part)
        if self._small or self._large:
            self._schedule()

    def _came_back(self, part: Part) -> None:
        """Take note that nothing of a part is under way any more."""
        job = part.job
        self._parts -= 1
        self._bytes -= part.size
        job.in_flight -= 1
        if not (job.in_flight or job.queued or job.unconfirmed or job.sending_ended):
            self._finish(job, None)
        else:
            self._settle_if_over(job)

    def _settle_if_over(self, job: Job) -> None:
        if not (job.in_flight or job.queued or job.sending_ended):
            self._settle(job)

    def _settle(self, job: Job) -> None:
        """Take note that an attempt to send a job has ended: it is sent, or is tried again, or has failed."""
        job.note_answered()
        if job.is_sent:
            self._finish(job, None)
            return
        reason = job.failure.reason if job.failure else _WITHDRAWN
        seconds = pause(job.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        left = job.retry_until - self._loop.time() - _LAST_TRY  # There is a last try shortly before time is up.
        seconds = min(seconds, left) if left > _LAST_TRY else seconds
        if self._may_retry(job, seconds):
            if job.attempts == 1:
                logger.debug("sending tasks failed, trying again: %s", reason)
                if job.retry_until < math.inf:
                    job.giving_up = self._loop.call_at(job.retry_until - _GIVE_UP, self._give_up, job)
            self._loop.call_later(seconds, self._again, job)
        else:
            self._finish(job, job.publish_error(reason))

    def _may_retry(self, job: Job, seconds: float) -> bool:
        if self._is_closed or job.withdrawn or self._loop.time() + seconds >= job.retry_until:
            return False
        if isinstance(job.failure, PublishError):
            # A client that never reached the broker has most likely been told a wrong address: say so at once.
            return not job.failure.refused and (self._reached or bool(job.maybe_sent))
        return True

    def _again(self, job: Job) -> None:
        if job.sending_ended:
            return
        job.note_answered()  # During the pause, too.
        if job.is_sent:
            self._finish(job, None)
            return
        self.retries += 1
        job.to_resend = list(job.unconfirmed.values())
        self._add(job)

    def _give_up(self, job: Job) -> None:
        """Tell a caller whose time is nearly up that the job could not be sent: that says more than a timeout."""
        if not job.sending_ended and not job.in_flight and job.failure is not None:
            self._finish(job, job.publish_error(job.failure.reason))

    def _finish(self, job: Job, error: PublishFailure | None) -> None:
        self._end(job, error)
        if error is None:
            self._reader.begin(job)
        else:
            job.failure = error  # Who begins to wait from now on is told the same.
            self._reader.fail([job, *job.other_waits], error)

    def _end(self, job: Job, error: PublishFailure | None) -> None:
        job.sending_ended = True
        if job.giving_up is not None:
            job.giving_up.cancel()  # Or it keeps the job and its answers until then.
            job.giving_up = None
        self._unfinished.discard(job)
        left = len(job.unconfirmed) + len(job.messages) - job.next
        was_tried = job.next > 0 or job.failure is not None
        job.span.end(sent=len(job.messages) - left, failed=left if was_tried else 0, error=error)
