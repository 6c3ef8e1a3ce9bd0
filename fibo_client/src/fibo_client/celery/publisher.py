"""The one task that publishes for everybody.

Whoever sends leaves parcels here. All that were left in one iteration of the event loop go out together, one command
a route. No publish runs in its caller's task: a caller that is cancelled before the command leaves takes its parcels
back; after that, the command is completed and its outcome is known.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from fibo_client.celery.backoff import pause
from fibo_client.errors import PublishError, PublishUnknownError
from fibo_client.telemetry.recorder import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.celery.brokers.base import Broker, Parcel
    from fibo_client.telemetry.recorder import Sending

logger: Final = logging.getLogger("fibo_client")

MAX_PARCELS: Final = 500
"""The most messages in one command."""

MAX_BYTES: Final = 1024 * 1024
"""The most bytes in one command, unless a single message has more."""

MAX_RECENT: Final = 1000
"""How many ids are remembered of what was sent, for `diagnose`."""

Failure = PublishError | PublishUnknownError

_WITHDRAWN: Final = "it was withdrawn"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LAST_TRY: Final = 0.1


@dataclass(slots=True, eq=False)
class Publication:
    """Parcels that are sent, and answered for, together.

    Attributes:
        parcels: The parcels.
        on_done: Called once: with None when all have been sent, or with the error.
        retry_until: Send again after a failure until then, by the loop's clock. None is not at all.
        sending: Is told how it ended.
        remaining: What has not been sent for certain, by task id.
        unknown: The ids among them that may have been sent.
        in_flight: Whether it is part of a flush that is under way.
        withdrawn: Whether its sender wants no more of it to be sent.
        over: Whether nothing more will be sent of it.
        attempts: How often it was tried.
        failure: Why the last attempt did not succeed.
    """

    parcels: Sequence[Parcel]
    on_done: Callable[[Failure | None], None]
    retry_until: float | None = None
    sending: Sending = SILENCE
    remaining: dict[str, Parcel] = field(init=False)
    unknown: set[str] = field(default_factory=set)
    in_flight: bool = False
    withdrawn: bool = False
    over: bool = False
    attempts: int = 0
    failure: Failure | None = None

    def __post_init__(self) -> None:
        self.remaining = {parcel.task_id: parcel for parcel in self.parcels}

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
        self.recent: deque[str] = deque(maxlen=MAX_RECENT)
        """The ids of the tasks that were sent last."""
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
        """Leave parcels to be sent.

        Args:
            publication: The parcels, and whom to tell.
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
        return len(publication.unsent) == len(publication.parcels)

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
        down: Failure | None = None
        for route, command in _commands(publications):
            shares = [share for share in command if not share.publication.withdrawn]
            if not shares:
                continue
            failure = await self._publish(route, shares) if down is None else PublishError(down.reason)
            if failure is None:
                continue
            for share in shares:
                share.publication.failure = failure
            if not (isinstance(failure, PublishError) and failure.refused):
                down = failure  # The next command would fail like this one, and perhaps as slowly.
        for publication in publications:
            publication.in_flight = False
            if not publication.over:
                self._conclude(publication)

    async def _publish(self, route: str, shares: Sequence[_Share]) -> Failure | None:
        # Noted beforehand: a client that closes cancels this task in the middle.
        doubtful = []
        for publication, parcels in shares:
            task_ids = {parcel.task_id for parcel in parcels}
            doubtful.append((publication, task_ids, task_ids - publication.unknown))
            publication.unknown |= task_ids
        try:
            await self._broker.publish(route, [parcel for share in shares for parcel in share.parcels])
        except PublishError as error:
            for publication, _, new in doubtful:
                publication.unknown -= new
            return error
        except PublishUnknownError as error:
            return error
        except Exception as error:
            logger.exception("publishing failed")
            return PublishUnknownError(f"{type(error).__name__}: {error}")
        self._reached = True
        self.published += sum(len(task_ids) for _, task_ids, _ in doubtful)
        for publication, task_ids, _ in doubtful:
            publication.unknown -= task_ids
            self.recent.extend(task_ids)
            for task_id in task_ids:
                del publication.remaining[task_id]
        return None

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
            # A client that never reached Redis has most likely been told a wrong address: say so at once.
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
        publication.sending.end(
            sent=len(publication.parcels) - left, failed=left if publication.attempts else 0, error=error
        )


class _Share(NamedTuple):
    """What a command carries of one publication."""

    publication: Publication
    parcels: list[Parcel]


def _commands(publications: Sequence[Publication]) -> Iterator[tuple[str, list[_Share]]]:
    """Sort parcels by route, in order, into commands of bounded size."""
    routes: dict[str, list[_Share]] = {}
    for publication in publications:
        shares: dict[str, list[Parcel]] = {}
        for parcel in publication.remaining.values():
            shares.setdefault(parcel.route, []).append(parcel)
        for route, parcels in shares.items():
            routes.setdefault(route, []).append(_Share(publication, parcels))
    for route, whole in routes.items():
        command: list[_Share] = []
        count = size = 0
        for publication, parcels in whole:
            start = 0
            for index, parcel in enumerate(parcels):
                length = len(parcel.payload)
                if count and (count == MAX_PARCELS or size + length > MAX_BYTES):
                    if index > start:
                        command.append(_Share(publication, parcels[start:index]))
                    yield route, command
                    command, count, size, start = [], 0, 0, index
                count += 1
                size += length
            command.append(_Share(publication, parcels[start:]))
        yield route, command
