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
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from fibo_client.celery.backoff import pause
from fibo_client.errors import PublishError, PublishUnknownError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.jobs import Job, PublishFailure
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.reader import Reader

logger: Final = logging.getLogger("fibo_client")

PORTION: Final = 64
"""The most messages that the broker is given at a time. A job with more gives way to others between two portions."""

MAX_IN_FLIGHT: Final = 64
"""The most parts of jobs under way at a time: so many small calls at most do not know whether they were sent."""

MAX_BYTES: Final = 256 * 1024
"""The most bytes under way at a time, in the bodies of messages, unless a single one has more."""

MAX_RECENT: Final = 1000
"""How many ids are remembered of what was sent, for `diagnose`."""

_id_of: Final = attrgetter("id")
_queue_of: Final = attrgetter("template.queue")
_CLOSED: Final = "the client was closed"
_WITHDRAWN: Final = "it was withdrawn"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LAST_TRY: Final = 0.1
_GIVE_UP: Final = 0.01


class _Part(NamedTuple):
    """Messages of one job that were given to the broker together.

    Attributes:
        job: The job.
        messages: The messages.
        new: The ids of those that had certainly not been sent before.
    """

    job: Job
    messages: Sequence[TaskMessage]
    new: set[str]

    @property
    def size(self) -> int:
        """The bytes in their bodies."""
        return sum(len(message.body) for message in self.messages)


class Publisher:
    """Sends task messages on behalf of everybody who holds the client.

    Args:
        broker: Where they go.
        reader: Is told which tasks have been sent, and which cannot be.

    Attributes:
        published: How many messages the broker has taken.
        recent: The queues of the tasks that were sent last, by id.
        retries: How often a job was tried again.
    """

    def __init__(self, broker: Broker, reader: Reader) -> None:
        self._broker = broker
        self._reader = reader
        self._small: deque[Job] = deque()
        self._large: deque[Job] = deque()
        self._unfinished: set[Job] = set()
        self._loop: asyncio.AbstractEventLoop
        self._context = contextvars.Context()  # What is done for all is not done in the context of one.
        self._is_scheduled = False
        self._preparing: asyncio.Task[None] | None = None
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
            if self._preparing is not None:
                self._preparing.cancel()
                await asyncio.gather(self._preparing, return_exceptions=True)
        finally:
            for job in list(self._unfinished):
                self._finish(job, job.publish_error(reason))

    def put(self, job: Job) -> None:
        """Leave a job's messages to be sent."""
        self._unfinished.add(job)
        self._add(job)

    def _add(self, job: Job) -> None:
        job.attempts += 1
        job.queued, job.halted = True, False
        (self._small if len(job.messages) <= PORTION else self._large).append(job)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush, context=self._context)

    def withdraw(self, job: Job) -> None:
        """Send no more of a job. A command that is under way is completed all the same."""
        job.withdrawn = True
        if not job.in_flight and not job.sending_ended:
            self._end(job, job.failure or job.publish_error(_WITHDRAWN))

    @property
    def unsent(self) -> int:
        """How many messages have not been sent for certain, and may yet be."""
        return sum(len(job.uncertain) + len(job.messages) - job.next for job in self._unfinished)

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
        while parts := self._take():
            self._publish(parts)

    async def _prepare(self) -> None:
        error: TransportError | None = None
        try:
            await self._broker.prepare()
        except TransportError as fault:
            error = fault
        except Exception as fault:
            logger.exception("publishing failed")
            error = TransportError(f"{type(fault).__name__}: {fault}")
        finally:
            self._preparing = None
        if error is not None:
            jobs = [*self._small, *self._large]
            self._small.clear()
            self._large.clear()
            for job in jobs:
                job.queued = False
                if not job.sending_ended:
                    job.failure = PublishError(str(error), [], refused=error.refused)
                    self._settle_if_over(job)
        self._flush()

    def _take(self) -> list[_Part]:
        """Take a portion of the jobs in order, the small ones first, as far as there is room."""
        parts: list[_Part] = []
        count, size = PORTION, MAX_BYTES - self._bytes
        for jobs in (self._small, self._large):
            while jobs and count and size > 0 and self._parts < MAX_IN_FLIGHT:
                job = jobs[0]
                if job.sending_ended or job.withdrawn or job.halted:
                    self._pop(jobs)
                    self._settle_if_over(job)
                    continue
                before = set(job.unknown)
                part = _Part(job, messages := job.take(count, size), {message.id for message in messages} - before)
                job.in_flight += 1
                if not job.has_more:
                    self._pop(jobs)
                elif jobs is self._large:
                    jobs.rotate(-1)
                parts.append(part)
                self._parts += 1
                self._bytes += part.size
                size -= part.size
                count -= len(messages)
        return parts

    def _publish(self, parts: Sequence[_Part]) -> None:
        single = parts[0] if len(parts) == 1 else None
        messages = single.messages if single else [message for part in parts for message in part.messages]
        # By identity: two callers may have given their tasks the same id.
        owners = {} if single else {id(message): part for part in parts for message in part.messages}
        try:
            publications = list(self._broker.publish(messages))
        except Exception as error:
            logger.exception("publishing failed")
            for part in parts:
                self._failed(part, part.messages, PublishUnknownError(f"{type(error).__name__}: {error}", []))
                self._came_back(part)
            return
        left = {id(part): len(part.messages) for part in parts}
        for some, outcome in publications:
            outcome.add_done_callback(partial(self._ended, some, single, owners, left))

    def _ended(
        self,
        messages: Sequence[TaskMessage],
        single: _Part | None,
        owners: dict[int, _Part],
        left: dict[int, int],
        outcome: asyncio.Future[None],
    ) -> None:
        """Take the outcome of a publication."""
        error = PublishUnknownError(_CLOSED, []) if outcome.cancelled() else outcome.exception()
        for part, some in ((single, messages),) if single else _by_part(messages, owners):
            if error is None:
                self._sent(part.job, some)
            elif isinstance(error, (PublishError, PublishUnknownError)):
                self._failed(part, some, error)
            else:
                logger.error("publishing failed", exc_info=error)
                self._failed(part, some, PublishUnknownError(f"{type(error).__name__}: {error}", []))
            left[id(part)] -= len(some)
            if not left[id(part)]:
                self._came_back(part)
        if (self._small or self._large) and not self._is_scheduled:
            self._flush()

    def _came_back(self, part: _Part) -> None:
        """Take note that nothing of a part is under way any more."""
        job = part.job
        self._parts -= 1
        self._bytes -= part.size
        job.in_flight -= 1
        self._settle_if_over(job)

    def _pop(self, jobs: deque[Job]) -> None:
        jobs.popleft().queued = False

    def _settle_if_over(self, job: Job) -> None:
        if not (job.in_flight or job.queued or job.sending_ended):
            self._settle(job)

    def _sent(self, job: Job, messages: Sequence[TaskMessage]) -> None:
        self._reached = True
        self.published += len(messages)
        recent, unknown, uncertain = self.recent, job.unknown, job.uncertain
        for message in messages:
            task_id = message.id
            unknown.discard(task_id)
            uncertain.pop(task_id, None)
            recent[task_id] = message.template.queue
        if len(recent) > MAX_RECENT + PORTION:
            for task_id in list(islice(recent, len(recent) - MAX_RECENT)):
                del recent[task_id]

    def _failed(self, part: _Part, messages: Sequence[TaskMessage], error: PublishFailure) -> None:
        part.job.failure = error
        part.job.halted = part.job.halted or not error.refused
        if isinstance(error, PublishError):
            part.job.unknown.difference_update(part.new.intersection(map(_id_of, messages)))

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
                    self._loop.call_at(job.retry_until - _GIVE_UP, self._give_up, job)
            self._loop.call_later(seconds, self._again, job)
        else:
            self._finish(job, job.publish_error(reason))

    def _may_retry(self, job: Job, seconds: float) -> bool:
        if self._is_closed or job.withdrawn or self._loop.time() + seconds >= job.retry_until:
            return False
        if isinstance(job.failure, PublishError):
            # A client that never reached the broker has most likely been told a wrong address: say so at once.
            return not job.failure.refused and (self._reached or bool(job.unknown))
        return True

    def _again(self, job: Job) -> None:
        if job.sending_ended:
            return
        job.note_answered()  # During the pause, too.
        if job.is_sent:
            self._finish(job, None)
            return
        self.retries += 1
        job.again = list(job.uncertain.values())
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
        self._unfinished.discard(job)
        left = len(job.uncertain) + len(job.messages) - job.next
        was_tried = job.next > 0 or job.failure is not None
        job.span.end(sent=len(job.messages) - left, failed=left if was_tried else 0, error=error)


def _by_part(messages: Sequence[TaskMessage], owners: dict[int, _Part]) -> Iterable[tuple[_Part, list[TaskMessage]]]:
    """Group messages by what they are parts of."""
    groups: dict[int, tuple[_Part, list[TaskMessage]]] = {}
    for message in messages:
        part = owners[id(message)]
        groups.setdefault(id(part), (part, []))[1].append(message)
    return groups.values()
