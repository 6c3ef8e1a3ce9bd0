"""The one task that publishes for everybody.

Whoever sends leaves parcels here. All that were left in one iteration of the event loop go out together, one command
a route. No publish runs in its caller's task: a caller that is cancelled before the command leaves takes its parcels
back; after that, the command is completed and its outcome is known.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fibo_client.errors import PublishError, PublishUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.celery.transport.base import Broker, Parcel

logger = logging.getLogger("fibo_client")

MAX_PARCELS: Final = 500
"""The most messages in one command."""

MAX_BYTES: Final = 1024 * 1024
"""The most bytes in one command, unless a single message has more."""

Failure = PublishError | PublishUnknownError

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


@dataclass(slots=True, eq=False)
class Publication:
    """Parcels that are sent, and answered for, together.

    Attributes:
        parcels: What is still to be sent.
        on_done: Called once: with None when all have been sent, or with the error.
        retry_until: Send again after a failure until then, by the loop's clock. None is not at all.
        in_flight: Whether a command with parcels of it is under way.
        maybe_sent: Whether any of it has been, or may have been, sent.
        over: Whether nothing more will be sent of it.
        attempts: How often it was tried.
        failure: Why the last attempt did not succeed.
    """

    parcels: Sequence[Parcel]
    on_done: Callable[[Failure | None], None]
    retry_until: float | None = None
    in_flight: bool = False
    maybe_sent: bool = False
    over: bool = False
    attempts: int = 0
    failure: Failure | None = None

    def failed(self, reason: str) -> Failure:
        """Make the error that tells what is known of it.

        Args:
            reason: What went wrong.

        Returns:
            The error.
        """
        task_ids = [parcel.task_id for parcel in self.parcels]
        if self.in_flight or self.maybe_sent:
            return PublishUnknownError(reason, task_ids)
        return PublishError(reason, task_ids)


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
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for publication in list(self._unfinished):
            self._fail(publication, reason)

    def put(self, publication: Publication) -> None:
        """Leave parcels to be sent.

        Args:
            publication: The parcels, and whom to tell.
        """
        self._unfinished.add(publication)
        self._queue.append(publication)
        self._work.set()

    def withdraw(self, publication: Publication) -> bool:
        """Stop sending. A command that is under way is completed all the same.

        Args:
            publication: From `put`.

        Returns:
            Whether nothing of it was, or will be, sent.
        """
        if not publication.in_flight:
            publication.over = True
            self._unfinished.discard(publication)
        return publication.over and not publication.maybe_sent

    async def _publish_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            publications = [publication for publication in self._queue if not publication.over]
            self._queue.clear()
            for publication in publications:
                publication.in_flight = True
                publication.attempts += 1
            await self._flush(publications)

    async def _flush(self, publications: Sequence[Publication]) -> None:
        failures: dict[str, Failure] = {}
        down: Failure | None = None
        for route, shares in _commands(publications):
            if down is None:
                failure = await self._publish(route, shares)
                if failure is None:
                    continue
                if not (isinstance(failure, PublishError) and failure.refused):
                    down = failure  # The next command would fail like this one, and perhaps as slowly.
            else:
                failure = PublishError(down.reason)
            failures |= dict.fromkeys((parcel.task_id for _, parcel in shares), failure)
        for publication in publications:
            publication.in_flight = False
            self._conclude(publication, failures)

    async def _publish(self, route: str, shares: Sequence[tuple[Publication, Parcel]]) -> Failure | None:
        maybe_sent = True
        failure: Failure | None = None
        try:
            await self._broker.publish(route, [parcel for _, parcel in shares])
            self._reached = True
        except PublishError as error:
            failure, maybe_sent = error, False
        except PublishUnknownError as error:
            failure = error
        except Exception as error:
            logger.exception("publishing failed")
            failure = PublishUnknownError(f"{type(error).__name__}: {error}")
        finally:
            # Also when the task is cancelled in the middle, by a client that closes.
            if maybe_sent:
                for publication, _ in shares:
                    publication.maybe_sent = True
        return failure

    def _conclude(self, publication: Publication, failures: dict[str, Failure]) -> None:
        """Everything of it was tried once: tell its sender, or try again what failed."""
        if publication.over:
            return
        rest = [parcel for parcel in publication.parcels if parcel.task_id in failures] if failures else []
        publication.parcels = rest
        if not rest:
            publication.failure = None
            self._finish(publication, None)
            return
        publication.failure = failure = failures[rest[0].task_id]
        pause = min(_FIRST_PAUSE * 2.0 ** min(publication.attempts - 1, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        if self._may_retry(publication, failure, pause):
            if publication.attempts == 1:
                logger.warning("sending tasks failed, trying again: %s", failure)
            self._loop.call_later(pause, self._again, publication)
        else:
            self._fail(publication, failure.reason)

    def _may_retry(self, publication: Publication, failure: Failure, pause: float) -> bool:
        if publication.retry_until is None or self._loop.time() + pause >= publication.retry_until:
            return False
        if isinstance(failure, PublishError):
            # A client that never reached Redis has most likely been told a wrong address: say so at once.
            return not failure.refused and (self._reached or publication.maybe_sent)
        return True

    def _again(self, publication: Publication) -> None:
        if not publication.over:
            self._queue.append(publication)
            self._work.set()

    def _fail(self, publication: Publication, reason: str) -> None:
        self._finish(publication, publication.failed(reason))

    def _finish(self, publication: Publication, error: Failure | None) -> None:
        publication.over = True
        self._unfinished.discard(publication)
        publication.on_done(error)


def _commands(publications: Sequence[Publication]) -> Iterator[tuple[str, list[tuple[Publication, Parcel]]]]:
    """Sort parcels by route, in order, into commands of bounded size."""
    routes: dict[str, list[tuple[Publication, Parcel]]] = {}
    for publication in publications:
        for parcel in publication.parcels:
            routes.setdefault(parcel.route, []).append((publication, parcel))
    for route, shares in routes.items():
        command: list[tuple[Publication, Parcel]] = []
        size = 0
        for share in shares:
            length = len(share[1].payload)
            if command and (len(command) == MAX_PARCELS or size + length > MAX_BYTES):
                yield route, command
                command, size = [], 0
            command.append(share)
            size += length
        yield route, command
