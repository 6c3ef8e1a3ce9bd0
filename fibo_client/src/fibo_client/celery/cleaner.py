"""The one task that cleans up for everybody: revokes what nobody awaits any more, deletes what has been read.

Both are rationed. A worker looks up and stores a result for every id that it is told to revoke, and thousands at once
hold it up for seconds. What is not revoked expires by the deadline that it carries. What is to be terminated goes
first: it keeps a worker's process busy.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.protocol.groups import is_result
from fibo_client.celery.stats import RevocationCounts
from fibo_client.celery.timer import Timer
from fibo_client.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker

logger: Final = logging.getLogger("fibo_client")

MAX_REVOKED: Final = 100
"""The most ids in one revocation."""

REVOKE_PAUSE: Final = 0.1
"""Seconds between two revocations."""

LAST_COMMAND_TIMEOUT: Final = 2.0
"""The most seconds that a client which closes waits for one answer. A server that takes longer is held to be silent."""

LAST_REVOCATIONS: Final = 1.0
"""The most seconds that a client which closes spends on revocations. What is left expires."""

DELETE_DELAY: Final = 1.0
"""Seconds between the arrival of a result and its deletion: they are deleted in batches."""

DELETE_WINDOW: Final = 0.5
"""Seconds within which what is to be deleted goes into one command: each costs as much as a call."""

CLOCK_SLACK: Final = 0.001
"""Seconds by which something may be done before its time."""

MAX_DELETED: Final = 500
"""The most ids in one deletion."""

MAX_BACKLOG: Final = 100_000
"""The most ids that wait to be revoked, and to be deleted. Beyond, expiry does the work."""


class _Deletion(NamedTuple):
    """What is to be deleted, and when, by the loop's clock."""

    moment: float
    name: str
    named: bool
    again: float


class Cleaner:
    """Revokes and deletes on behalf of everybody who holds the client.

    Args:
        broker: Where revocations go.
        backend: Where results are deleted.

    Attributes:
        revocations: What became of what was revoked.
    """

    def __init__(self, broker: Broker, backend: Backend) -> None:
        self._broker = broker
        self._backend = backend
        self.revocations: RevocationCounts = RevocationCounts()
        self._revoked: deque[str] = deque()
        self._terminated: deque[str] = deque()
        self._deleted: list[_Deletion] = []
        self._next_revocation = 0.0
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._timer = Timer(self._work.set)
        self._closed = False

    def start(self) -> None:
        """Start the task on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(
            self._clean_forever(), name="fibo_client.cleaner", context=contextvars.Context()
        )

    async def aclose(self, seconds: float) -> None:
        """Do once what is left to do, then stop.

        After a deletion without an answer, no more deletions are sent; nor are revocations after such a one.

        Args:
            seconds: The most time to spend on it.
        """
        self._closed = True
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._timer.cancel()
        if not self._broker.health.reached:
            return  # Nothing can have been sent, and closing would wait for a connection once more.
        # Both at once: where the server is silent, it is waited for once.
        await asyncio.gather(self._delete_the_last(seconds), self._revoke_the_last(min(seconds, LAST_REVOCATIONS)))
        self.revocations.unsent += self._backlog

    @property
    def _backlog(self) -> int:
        """How many ids wait to be revoked."""
        return len(self._revoked) + len(self._terminated)

    async def _delete_the_last(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            # Also those whose time has not come: nobody will be there when it does. Deleting what is not stored
            # yet does no harm; it expires.
            while self._deleted and await _in_time(self._delete(math.inf)):
                pass

    async def _revoke_the_last(self, seconds: float) -> None:
        before = self._backlog
        with anyio.move_on_after(seconds) as limit:
            going = bool(before)
            while going:
                going = await _in_time(self._revoke()) and bool(self._backlog)
                await asyncio.sleep(REVOKE_PAUSE if going else 0.0)
        if limit.cancelled_caught and self._backlog == before:
            self.revocations.reason = f"{self._broker}: no answer within {seconds:g} s"

    def revoke(self, task_ids: Iterable[str], *, terminate: bool = False) -> None:
        """Have tasks revoked: not run if they have not begun.

        Args:
            task_ids: Their ids.
            terminate: Whether to end them even while they run.
        """
        if self._closed:
            return
        more = list(task_ids)
        taken = more[: max(0, MAX_BACKLOG - self._backlog)]
        (self._terminated if terminate else self._revoked).extend(taken)
        self.revocations.unsent += len(more) - len(taken)
        self._work.set()

    def delete(
        self, task_ids: Iterable[str], delay: float = DELETE_DELAY, *, named: bool = False, again: float = 0.0
    ) -> None:
        """Have results deleted.

        Args:
            task_ids: The ids of the tasks.
            delay: Seconds from now.
            named: Whether these are names of what is stored beside results, as for `Backend.discard`.
            again: Seconds from now until they are deleted once more: something may be stored after the first time. 0 is
                never.
        """
        if self._closed:
            return
        moment, last = self._moment(delay), self._moment(again) if again else 0.0
        for task_id in islice(task_ids, max(0, MAX_BACKLOG - len(self._deleted))):
            heapq.heappush(self._deleted, _Deletion(moment, task_id, named, last))
        self._plan()

    def _moment(self, delay: float) -> float:
        return math.ceil((self._loop.time() + delay) / DELETE_WINDOW) * DELETE_WINDOW

    def _plan(self) -> None:
        if self._deleted:
            self._timer.set_by(self._deleted[0][0])
        if self._backlog:
            self._timer.set_by(self._next_revocation)

    async def _clean_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            # A timer may go off a little early: the loop's clock has a resolution. What is due then is done.
            now = self._loop.time() + CLOCK_SLACK
            try:
                if self._backlog and now >= self._next_revocation:
                    await self._revoke()
                    self._next_revocation = self._loop.time() + REVOKE_PAUSE
                while self._deleted and self._deleted[0][0] <= now and await self._delete(now):
                    pass
            except Exception:
                logger.exception("cleaning up failed; what is left expires")
                await asyncio.sleep(REVOKE_PAUSE)
            if self._deleted or self._backlog:
                self._plan()

    async def _revoke(self) -> bool:
        queue = self._terminated or self._revoked
        task_ids = list(islice(queue, MAX_REVOKED))
        arguments = {"task_id": task_ids, **({"terminate": True} if queue is self._terminated else {})}
        try:
            listening = await self._broker.broadcast(ControlRequest(method="revoke", arguments=arguments))
        except TransportError as error:
            logger.info("%d tasks could not be revoked: %s", len(task_ids), error)
            self.revocations.unsent += len(task_ids)
            self.revocations.reason = str(error)
            return False
        except asyncio.CancelledError:
            task_ids.clear()  # By a client that closes, which does it once more: twice does no harm.
            raise
        finally:
            for _ in task_ids:
                queue.popleft()
        if listening is None or listening:  # Not every broker counts them.
            self.revocations.delivered += len(task_ids)
        else:
            self.revocations.undelivered += len(task_ids)
        return True

    async def _delete(self, until: float) -> bool:
        entries: list[_Deletion] = []
        while self._deleted and len(entries) < MAX_DELETED and self._deleted[0].moment <= until:
            entries.append(heapq.heappop(self._deleted))
        try:
            if results := [each.name for each in entries if not each.named]:
                await self._backend.delete_many(results)
            names = [each.name for each in entries if each.named]
            # Redis may allow a user to delete either kind, and not both in one command.
            for some in ([each for each in names if is_result(each)], [each for each in names if not is_result(each)]):
                if some:
                    await self._backend.discard(some)
        except TransportError as error:
            logger.info("%d results could not be deleted; they expire: %s", len(entries), error)
            return False
        except asyncio.CancelledError:
            for entry in entries:
                heapq.heappush(self._deleted, entry)
            raise
        finally:
            if not self._closed:
                for moment, name, named, again in entries:
                    if again > moment:
                        heapq.heappush(self._deleted, _Deletion(again, name, named, again))
        return True


async def _in_time(step: Awaitable[bool]) -> bool:
    """Do a step of the last cleaning. Give what it gives, and False where that cannot be had."""
    try:
        with anyio.move_on_after(LAST_COMMAND_TIMEOUT):
            return await step
    except Exception:
        logger.exception("cleaning up failed; what is left expires")
    return False
