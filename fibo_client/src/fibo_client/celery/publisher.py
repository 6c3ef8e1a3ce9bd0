"""The one task that publishes for everybody.

Whoever sends leaves messages here. All that were left in one iteration of the event loop go to the broker together. No
publish runs in its caller's task: a caller that is cancelled before takes its messages back; after that, publishing is
completed and its outcome is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from fibo_client.celery.backoff import pause
from fibo_client.errors import PublishError, PublishUnknownError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.telemetry.tracer import SendSpan

logger: Final = logging.getLogger("fibo_client")

MAX_MESSAGES: Final = 500
"""The most messages that the broker is given at a time."""

MAX_BYTES: Final = 1024 * 1024
"""The most bytes in their bodies, unless a single one has more."""

MAX_RECENT: Final = 1000
"""How many ids are remembered of what was sent, for `diagnose`."""

Failure = PublishError | PublishUnknownError

_WITHDRAWN: Final = "it was withdrawn"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LAST_TRY: Final = 0.1


@dataclass(slots=True, eq=False)
class Publication:
    """Messages that are sent, and answered for, together.

    Attributes:
        messages: The messages.
        on_done: Called once: with None when all have been sent, or with the error.
        retry_until: Send again after a failure until then, by the loop's clock. None is not at all.
        span: The span of the messages, which ends when they are over.
        remaining: What has not been sent for certain, by task id.
        unknown: The ids among them that may have been sent.
        in_flight: Whether the broker has it, or is about to.
        withdrawn: Whether its sender wants no more of it to be sent.
        over: Whether nothing more will be sent of it.
        attempts: How often it was tried.
        failure: Why the last attempt did not succeed.
    """

    messages: Sequence[TaskMessage]
    on_done: Callable[[Failure | None], None]
    retry_until: float | None = None
    span: SendSpan = NOOP_SPAN
    remaining: dict[str, TaskMessage] = field(init=False)
    unknown: set[str] = field(default_factory=set)
    in_flight: bool = False
    withdrawn: bool = False
    over: bool = False
    attempts: int = 0
    failure: Failure | None = None

    def __post_init__(self) -> None:
        self.remaining = {message.id: message for message in self.messages}

    @property
    def unsent(self) -> set[str]:
        """The ids that have certainly not been sent."""
        return self.remaining.keys() - self.unknown

    def failed(self, reason: str) -> Failure:
        """Make the error that tells what is known of it.

        Args:
            reason: What went wrong.

        Returns:
            The error. It names what has not been sent for certain.
        """
        if self.unknown:
            return PublishUnknownError(reason, list(self.remaining))
        refused = self.failure is not None and self.failure.refused
        return PublishError(reason, list(self.remaining), refused=refused)


class Publisher:
    """Sends task messages on behalf of everybody who holds the client.

    Args:
        broker: Where they go.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._queue: deque[Publication] = deque()
        self._unfinished: set[Publication] = set()
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
        """Stop the task. What has not been sent for certain is given back to its senders with an error.

        Args:
            reason: Why.
        """
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            for publication in list(self._unfinished):
                self._finish(publication, publication.failed(reason))

    def put(self, publication: Publication) -> None:
        """Leave messages to be sent.

        Args:
            publication: The messages, and whom to tell.
        """
        self._unfinished.add(publication)
        self._queue.append(publication)
        self._work.set()

    def withdraw(self, publication: Publication) -> bool:
        """Send no more of it. A command that is under way is completed all the same.

        Args:
            publication: From `put`.

        Returns:
            Whether nothing of it was, or will be, sent.
        """
        publication.withdrawn = True
        if not publication.in_flight and not publication.over:
            self._end(publication, publication.failure or publication.failed(_WITHDRAWN))
        return len(publication.unsent) == len(publication.messages)

    @property
    def unsent(self) -> int:
        """How many messages have not been sent for certain, and may yet be."""
        return sum(len(publication.remaining) for publication in self._unfinished)

    async def _publish_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            # Kept in no variable here: it would hold the last flush, messages and all, until there is another one.
            await self._flush(self._take())

    def _take(self) -> list[Publication]:
        publications = [publication for publication in self._queue if not publication.over]
        self._queue.clear()
        for publication in publications:
            publication.in_flight = True
            publication.attempts += 1
        return publications

    async def _flush(self, publications: Sequence[Publication]) -> None:
        down: str | None = None
        for batch in _batches(publications):
            wanted = [(owner, message) for owner, message in batch if not owner.withdrawn]
            if down is not None:  # The broker would say the same again, and perhaps as slowly.
                for owner, _ in wanted:
                    owner.failure = PublishError(down)
            elif wanted:
                down = await self._publish(wanted)
        for publication in publications:
            publication.in_flight = False
            if not publication.over:
                self._conclude(publication)

    async def _publish(self, batch: Sequence[tuple[Publication, TaskMessage]]) -> str | None:
        """Publish messages; return why the broker cannot be reached, where that is so."""
        # By identity: two senders may have given their tasks the same id.
        owners = {id(message): owner for owner, message in batch}
        new = {id(message) for owner, message in batch if message.id not in owner.unknown}
        for owner, message in batch:  # Noted beforehand: a client that closes cancels this task in the middle.
            owner.unknown.add(message.id)
        down: str | None = None
        try:
            async with contextlib.aclosing(self._broker.publish([message for _, message in batch])) as outcomes:
                async for messages, error in outcomes:
                    if error is None:
                        self._sent(owners, messages)
                    else:
                        down = self._failed(owners, new, messages, error) or down
        except Exception as error:
            logger.exception("publishing failed")
            down = f"{type(error).__name__}: {error}"
            for owner, _ in batch:
                owner.failure = PublishUnknownError(down)
        return down

    def _sent(self, owners: dict[int, Publication], messages: Sequence[TaskMessage]) -> None:
        self._reached = True
        self.published += len(messages)
        for message in messages:
            owner = owners[id(message)]
            owner.unknown.discard(message.id)
            del owner.remaining[message.id]
            self.recent[message.id] = message.queue
        for task_id in list(islice(self.recent, max(0, len(self.recent) - MAX_RECENT))):
            del self.recent[task_id]

    def _failed(
        self, owners: dict[int, Publication], new: set[int], messages: Sequence[TaskMessage], error: Failure
    ) -> str | None:
        unsent = isinstance(error, PublishError)
        for message in messages:
            owner = owners[id(message)]
            owner.failure = error
            if unsent and id(message) in new:
                owner.unknown.discard(message.id)
        return None if unsent and error.refused else error.reason

    def _conclude(self, publication: Publication) -> None:
        """Everything of it was tried once: tell its sender, or try again what failed."""
        if not publication.remaining:
            publication.failure = None
            self._finish(publication, None)
            return
        reason = publication.failure.reason if publication.failure else _WITHDRAWN
        seconds = pause(publication.attempts, _FIRST_PAUSE, _LONGEST_PAUSE)
        if publication.retry_until is not None:  # There is a last try shortly before time is up.
            left = publication.retry_until - self._loop.time() - _LAST_TRY
            seconds = min(seconds, left) if left > _LAST_TRY else seconds
        if self._may_retry(publication, seconds):
            if publication.attempts == 1:
                logger.debug("sending tasks failed, trying again: %s", reason)
            self._loop.call_later(seconds, self._again, publication)
        else:
            self._finish(publication, publication.failed(reason))

    def _may_retry(self, publication: Publication, seconds: float) -> bool:
        until = publication.retry_until
        if publication.withdrawn or until is None or self._loop.time() + seconds >= until:
            return False
        if isinstance(publication.failure, PublishError):
            # A client that never reached its broker has most likely been told a wrong address: say so at once.
            return not publication.failure.refused and (self._reached or bool(publication.unknown))
        return True

    def _again(self, publication: Publication) -> None:
        if not publication.over:
            self.retries += 1
            self._queue.append(publication)
            self._work.set()

    def _finish(self, publication: Publication, error: Failure | None) -> None:
        self._end(publication, error)
        try:
            publication.on_done(error)
        except Exception:  # A bug of one sender's is not to stop the others, nor to keep a client from closing.
            logger.exception("telling how sending ended failed")

    def _end(self, publication: Publication, error: Failure | None) -> None:
        publication.over = True
        self._unfinished.discard(publication)
        left = len(publication.remaining)
        publication.span.end(
            sent=len(publication.messages) - left, failed=left if publication.attempts else 0, error=error
        )


def _batches(publications: Sequence[Publication]) -> Iterator[list[tuple[Publication, TaskMessage]]]:
    """Divide what is to be sent, in order, into batches of bounded size."""
    batch: list[tuple[Publication, TaskMessage]] = []
    size = 0
    for publication in publications:
        for message in list(publication.remaining.values()):
            length = len(message.body)
            if batch and (len(batch) == MAX_MESSAGES or size + length > MAX_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((publication, message))
            size += length
    if batch:
        yield batch
