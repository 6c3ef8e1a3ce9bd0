"""The one task that publishes for everybody.

Callers leave jobs here. The messages of all that were left in one iteration of the event loop go to the broker
together. No publish runs in its caller's task: a caller who leaves before takes the messages back; after that,
publishing is completed, and its outcome is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from fibo_client.celery.backoff import pause
from fibo_client.errors import PublishError, PublishUnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.jobs import Job, PublishFailure
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.reader import Reader

logger: Final = logging.getLogger("fibo_client")

MAX_MESSAGES: Final = 500
"""The most messages that the broker is given at a time."""

MAX_BYTES: Final = 1024 * 1024
"""The most bytes in their bodies, unless a single one has more."""

MAX_RECENT: Final = 1000
"""How many ids are remembered of what was sent, for `diagnose`."""

_Run: TypeAlias = "tuple[Job, Sequence[TaskMessage]]"
"""Messages of one job."""

_id_of: Final = attrgetter("id")
_queue_of: Final = attrgetter("template.queue")
_WITHDRAWN: Final = "it was withdrawn"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LAST_TRY: Final = 0.1


class Publisher:
    """Sends task messages on behalf of everybody who holds the client.

    Args:
        broker: Where they go.
        reader: Is told which tasks have been sent, and which cannot be.
    """

    def __init__(self, broker: Broker, reader: Reader) -> None:
        self._broker = broker
        self._reader = reader
        self._queue: list[Job] = []
        self._unfinished: set[Job] = set()
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._reached = False
        self.published: int = 0
        self.recent: dict[str, str] = {}
        """The queues of the tasks that were sent last, by id."""
        self.retries: int = 0

    def start(self) -> None:
        """Start the task on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(
            self._publish_forever(), name="fibo_client.publisher", context=contextvars.Context()
        )

    async def aclose(self, reason: str) -> None:
        """Stop the task. Callers whose messages have not been sent for certain get an error."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            for job in list(self._unfinished):
                self._finish(job, job.publish_error(reason))

    def put(self, job: Job) -> None:
        """Leave a job's messages to be sent."""
        self._unfinished.add(job)
        self._queue.append(job)
        self._work.set()

    def withdraw(self, job: Job) -> None:
        """Send no more of a job. A command that is under way is completed all the same."""
        job.withdrawn = True
        if not job.in_flight and not job.sending_ended:
            self._end(job, job.failure or job.publish_error(_WITHDRAWN))

    @property
    def unsent(self) -> int:
        """How many messages have not been sent for certain, and may yet be."""
        return sum(len(job.remaining) for job in self._unfinished)

    async def _publish_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._flush()
            except Exception as error:
                logger.exception("publishing failed")
                reason = f"{type(error).__name__}: {error}"
                for job in [each for each in self._unfinished if each.in_flight]:
                    job.in_flight = False
                    self._finish(job, job.publish_error(reason))

    async def _flush(self) -> None:
        jobs, self._queue = self._queue, []
        for job in jobs:
            job.in_flight = not job.sending_ended
            job.attempts += 1
        down: str | None = None
        for runs in _batches(jobs):
            if down is None:
                down = await self._publish(runs)
            else:  # The broker would say the same again, and perhaps as slowly.
                for job, _ in runs:
                    job.failure = PublishError(down)
        for job in jobs:
            if job.in_flight:
                job.in_flight = False
                if job.remaining:
                    self._try_again(job)
                else:
                    self._finish(job, None)

    async def _publish(self, runs: Sequence[_Run]) -> str | None:
        """Publish messages; return why the broker cannot be reached, where that is so."""
        new: dict[Job, set[str]] = {}
        for job, messages in runs:
            ids = set(map(_id_of, messages))
            new[job] = ids - job.unknown
            job.unknown |= ids  # Beforehand: a client that closes cancels this task in the middle.
        down: str | None = None
        try:
            published = runs[0][1] if len(runs) == 1 else [message for _, some in runs for message in some]
            # By identity: two callers may have given their tasks the same id.
            owners = {id(message): job for job, some in runs for message in some} if len(runs) > 1 else {}
            async with contextlib.aclosing(self._broker.publish(published)) as outcomes:
                async for messages, error in outcomes:
                    for job, some in _by_job(messages, owners) if owners else ((runs[0][0], messages),):
                        if error is None:
                            self._sent(job, some)
                        else:
                            down = self._failed(job, some, error, new[job]) or down
        except Exception as error:
            logger.exception("publishing failed")
            down = f"{type(error).__name__}: {error}"
            for job, _ in runs:
                job.failure = PublishUnknownError(down)
        return down

    def _sent(self, job: Job, messages: Sequence[TaskMessage]) -> None:
        self._reached = True
        self.published += len(messages)
        ids = list(map(_id_of, messages))
        job.unknown.difference_update(ids)
        for task_id in ids:
            del job.remaining[task_id]
        recent = self.recent
        recent.update(zip(ids, map(_queue_of, messages), strict=True))
        if len(recent) > MAX_RECENT:
            for task_id in list(islice(recent, len(recent) - MAX_RECENT)):
                del recent[task_id]

    def _failed(self, job: Job, messages: Sequence[TaskMessage], error: PublishFailure, new: set[str]) -> str | None:
        job.failure = error
        unsent = isinstance(error, PublishError)
        if unsent:
            job.unknown.difference_update(new.intersection(map(_id_of, messages)))
        return None if unsent and error.refused else error.reason

    def _try_again(self, job: Job) -> None:
        """Send again what has failed of a job, after a pause; or tell its caller, if that is not to be."""
        job.note_answered()
        if not job.remaining:
            self._finish(job, None)
            return
        reason = job.failure.reason if job.failure else _WITHDRAWN
        seconds = pause(job.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        left = job.retry_until - self._loop.time() - _LAST_TRY  # There is a last try shortly before time is up.
        seconds = min(seconds, left) if left > _LAST_TRY else seconds
        if self._may_retry(job, seconds):
            if job.attempts == 1:
                logger.debug("sending tasks failed, trying again: %s", reason)
            self._loop.call_later(seconds, self._again, job)
        else:
            self._finish(job, job.publish_error(reason))

    def _may_retry(self, job: Job, seconds: float) -> bool:
        if job.withdrawn or self._loop.time() + seconds >= job.retry_until:
            return False
        if isinstance(job.failure, PublishError):
            # A client that never reached the broker has most likely been told a wrong address: say so at once.
            return not job.failure.refused and (self._reached or bool(job.unknown))
        return True

    def _again(self, job: Job) -> None:
        if job.sending_ended:
            return
        job.note_answered()  # During the pause, too.
        if not job.remaining:
            self._finish(job, None)
        else:
            self.retries += 1
            self._queue.append(job)
            self._work.set()

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
        left = len(job.remaining)
        job.span.end(sent=len(job.messages) - left, failed=left if job.attempts else 0, error=error)


def _batches(jobs: Sequence[Job]) -> Iterator[list[_Run]]:
    """Divide what is to be sent, in order, into batches of bounded size."""
    runs: list[_Run] = []
    room, size = MAX_MESSAGES, 0
    for job in jobs:
        if job.sending_ended:
            continue
        messages: list[TaskMessage] = []
        for message in list(job.remaining.values()):
            length = len(message.body)
            if (messages or runs) and (not room or size + length > MAX_BYTES):
                yield [*runs, (job, messages)] if messages else runs
                runs, messages = [], []
                room, size = MAX_MESSAGES, 0
            if job.withdrawn:
                break
            messages.append(message)
            room -= 1
            size += length
        if messages:
            runs.append((job, messages))
    if runs:
        yield runs


def _by_job(messages: Sequence[TaskMessage], owners: Mapping[int, Job]) -> Iterable[_Run]:
    """Group messages by their jobs."""
    groups: dict[Job, list[TaskMessage]] = {}
    for message in messages:
        groups.setdefault(owners[id(message)], []).append(message)
    return groups.items()
