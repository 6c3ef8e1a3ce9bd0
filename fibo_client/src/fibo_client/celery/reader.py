"""The tasks that read results for everybody: one polls, one listens to what is pushed.

Whoever waits enters a `Waiter` here and awaits a future of its own; no result is read in a caller's task, so a
cancelled caller leaves no half-read answer behind. Both tasks are parked, without a single command, while
nobody waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import math
from typing import TYPE_CHECKING, Final

from fibo_client.celery.backends.base import Confirmed, Pushed
from fibo_client.celery.backoff import pause
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.meta import decode_meta
from fibo_client.celery.registry import Registry, Waiter, last_look
from fibo_client.celery.schedule import Schedule
from fibo_client.celery.timer import Timer
from fibo_client.errors import FiboError, ReadError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fibo_client.celery.backends.base import Backend, Subscription
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.meta import TaskMeta

logger: Final = logging.getLogger("fibo_client")

SLICE: Final = 256
"""The most waiters that are settled before the event loop gets its turn."""

PING_AFTER: Final = 15.0
"""Seconds of silence on the subscription after which it is asked for a sign of life."""

MAX_STALE: Final = 64
"""How many ids that nobody waits for any more may stay subscribed to before they are dropped."""

STALE_FOR: Final = 1.0
"""The most seconds that one stays so: they are dropped together, not each with a command of its own."""

LARGE_REPLY: Final = 64 * 1024
"""A reply of so many bytes is decoded in an iteration of the loop of its own."""

_FIRST_READ_WHEN_SUBSCRIBING: Final = 0.05
"""Seconds until the first read of what is about to be subscribed to. It comes sooner with the confirmation."""

_PAUSE_AFTER_FAILURE: Final = (0.02, 0.5)


class Reader:
    """Waits for results on behalf of everybody who holds the client.

    Args:
        backend: Where results are.
        config: How to poll, whether to subscribe, and how large a result may be.
        on_late: Called when somebody's time is nearly up, and no answer is there.
        types: The types that results may have.
    """

    def __init__(
        self, backend: Backend, config: CeleryConfig, on_late: Callable[[], None], types: JSONCodec = CELERY_JSON
    ) -> None:
        self._backend = backend
        self._types = types
        self._config = config
        self._on_late = on_late
        self._registry = Registry()
        self._schedule = Schedule(poll_min=config.poll_min, poll_max=config.longest_poll)
        self._loop: asyncio.AbstractEventLoop
        self._tasks: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()
        self._due = Timer(self._work.set)
        self._deadline = Timer(self._expire)
        self._failures = 0
        self.trouble: str | None = None
        """Why results cannot be read at present; None while they can."""
        self.polls: int = 0
        self.pushes: int = 0
        self.answers: int = 0
        self.retries: int = 0
        self.decode_failures: int = 0
        # Push: the ids that shall be, and those that are, subscribed to.
        self._wanted: dict[str, None] = {}
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._drop_at = math.inf
        self._listening = asyncio.Event()
        self._subscription: Subscription | None = None
        self._heard = 0.0
        self._pinged = False

    def start(self) -> None:
        """Start the two tasks on the running event loop."""
        self._loop = asyncio.get_running_loop()
        loops = [self._poll_forever()] + ([self._listen_forever()] if self._config.push else [])
        # An empty context: the tasks serve everybody, and must not carry on the trace of whoever opened the client.
        self._tasks = [
            self._loop.create_task(each, name="fibo_client.reader", context=contextvars.Context()) for each in loops
        ]

    async def aclose(self, error: Exception) -> None:
        """Stop the tasks. Whoever still waits gets an error.

        Args:
            error: The error.
        """
        self._forget(self._registry.fail(self._registry.everybody(), error))
        self._deadline.cancel()
        self._due.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What callers use. All of it is synchronous: entering and leaving cannot be interrupted.

    def enter(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | None,
        on_over: Callable[[], None],
        on_change: Callable[[TaskMeta], None] | None = None,
        on_answer: Callable[[str, TaskMeta | Exception], None] | None = None,
        once: bool = False,
        end_on_failure: bool = False,
        bulky: bool = False,
        begun: bool = True,
    ) -> Waiter:
        """Begin to wait for results.

        Args:
            task_ids: The ids; at least one.
            timeout: Seconds until the wait ends. None is no limit.
            on_over: Called once, when all answers are there or the wait ends without them.
            on_change: Called with each new state that is not final.
            on_answer: Called with each answer, as it comes: with the task's id, and its meta or an error.
            once: Whether a single read of each is enough, whatever it shows.
            end_on_failure: Whether the wait is over as soon as one task has failed.
            bulky: Whether large answers are expected, which are better polled than pushed.
            begun: Whether the tasks have been sent. If not, nothing is read until `begin` says that they have.

        Returns:
            The waiter, to be handed to `leave` in the end.
        """
        now = self._loop.time()
        deadline = math.inf if timeout is None else now + timeout
        read_from = now if once or timeout is None else last_look(timeout, now, deadline)
        waiter = Waiter(
            deadline, read_from, dict.fromkeys(task_ids), on_over, once, end_on_failure, bulky, on_change, on_answer
        )
        new = self._registry.add(waiter)
        if once:
            self._begin(waiter, first=0.0)
            for task_id in waiter.missing:
                self._schedule.hurry(task_id, now)
            self._work.set()
        else:
            if new and not bulky and self._config.push and len(self._wanted) + len(new) <= self._config.push_limit:
                self._wanted.update(dict.fromkeys(new))
                self._listening.set()
                self._work.set()
            if begun:
                self._begin(waiter, first=0.0)  # It may have been there for long.
            self._wake()  # Also what has not begun gets a last look.
        self._plan_deadline()
        return waiter

    def begin(self, waiter: Waiter) -> None:
        """Read from now on what a waiter waits for: its tasks have just been sent.

        Args:
            waiter: From `enter` with ``begun=False``.
        """
        if not waiter.over:
            self._begin(waiter, first=None)

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting, over or not.

        Args:
            waiter: From `enter`.
        """
        self._forget(self._registry.discard(waiter))

    def fail(self, waiter: Waiter, error: Exception) -> None:
        """End a waiter with an error.

        Args:
            waiter: From `enter`.
            error: The error.
        """
        self._forget(self._registry.fail([waiter], error))

    @property
    def pending(self) -> int:
        """How many results are waited for."""
        return len(self._registry)

    def awaits(self, task_id: str) -> bool:
        """Tell whether somebody waits for a result.

        Args:
            task_id: The task's id.

        Returns:
            Whether somebody does.
        """
        return task_id in self._registry

    # Reading.

    def _begin(self, waiter: Waiter, first: float | None) -> None:
        now = self._loop.time()
        for place, task_id in enumerate(waiter.missing):
            subscribing = first is None and task_id in self._wanted and self._subscription is not None
            in_how_long = _FIRST_READ_WHEN_SUBSCRIBING if subscribing else first
            self._schedule.add(task_id, now, first=in_how_long, place=place, bulky=waiter.bulky)
            if task_id in self._confirmed:
                self._schedule.set_pushed(task_id, now, pushed=True)
        self._wake()

    def _wake(self) -> None:
        """Have the polling task look at the schedule again, if it sleeps longer than it now should."""
        if not self._work.is_set():
            self._due.set_by(self._next_due())

    def _next_due(self) -> float | None:
        moments = [self._schedule.next_due(), self._registry.next_look()]
        if self._subscription is not None and self._asked:
            moments.append(self._drop_at)
            moments.append(self._heard + PING_AFTER + (self._config.io_timeout if self._pinged else 0.0))
        return min((moment for moment in moments if moment is not None), default=None)

    async def _poll_forever(self) -> None:
        while True:
            try:
                await self._poll()
            except Exception as error:
                logger.exception("the reader of results failed; everybody who waits is told")
                told = ReadError(f"{type(error).__name__}: {error}")
                told.__cause__ = error
                self._forget(self._registry.fail(self._registry.everybody(), told))
                await asyncio.sleep(_PAUSE_AFTER_FAILURE[1])

    async def _poll(self) -> None:
        while True:
            due = self._next_due()
            now = self._loop.time()
            if due is None or due > now:
                self._work.clear()
                if due is not None:
                    self._due.set(due)
                if not self._subscription_changes():
                    await self._work.wait()
            now = self._loop.time()
            await self._tend_subscription(now)
            last_looks, late = self._registry.last_looks(now)
            for task_id in last_looks:
                self._schedule.add(task_id, now, first=0.0)
                self._schedule.hurry(task_id, now)
            if late:
                self._on_late()
            batch = self._schedule.take(now)
            if batch:
                await self._read(batch, now)

    async def _read(self, batch: list[str], began: float) -> None:
        self.polls += 1
        self.retries += self._failures > 0
        try:
            replies = await self._backend.get_many(batch)
        except TransportError as error:
            await self._reading_failed(batch, error)
            return
        if self._failures:
            self._failures = 0
            self.trouble = None
            logger.debug("results can be read again")
        absent = [task_id for task_id, payload in zip(batch, replies, strict=True) if payload is None]
        unfinished = await self._settle_all(batch, replies) if len(absent) < len(batch) else []
        self._forget(self._registry.looked(absent, began, absent=True))
        self._forget(self._registry.looked(unfinished, began))
        now = self._loop.time()
        self._schedule.missed(absent, now)
        self._schedule.missed(unfinished, now)
        self._expire()

    async def _settle_all(self, batch: Sequence[str], replies: Sequence[bytes | None]) -> list[str]:
        """Settle what came, in slices; return the ids whose state is not final."""
        count = size = 0
        unfinished = []
        for task_id, payload in zip(batch, replies, strict=True):
            if payload is None:
                continue
            large = len(payload) >= LARGE_REPLY
            if count and (large or count % SLICE == 0):
                await asyncio.sleep(0)
            count += 1
            size += len(payload)
            self._arrive(task_id, payload)
            if task_id in self._registry:
                unfinished.append(task_id)
        self._schedule.arrived(count, size, self._loop.time())
        return unfinished

    def _arrive(self, task_id: str, payload: bytes) -> None:
        if task_id not in self._registry:
            return
        try:
            answer: TaskMeta | Exception = decode_meta(
                payload,
                task_id,
                max_bytes=self._config.max_result_bytes,
                max_decompressed=self._config.max_decompressed_bytes,
                max_depth=self._config.max_json_depth,
                types=self._types,
            )
        except FiboError as error:
            answer = error
            self.decode_failures += 1
        self._forget(self._registry.arrive(task_id, answer))
        self.answers += task_id not in self._registry

    async def _reading_failed(self, batch: list[str], error: TransportError) -> None:
        self._failures += 1
        self.trouble = str(error)
        if self._failures == 1:
            logger.debug("results cannot be read, trying again: %s", error)
        self._forget(self._registry.unreadable(batch, error))
        await asyncio.sleep(pause(self._failures, *_PAUSE_AFTER_FAILURE))
        self._schedule.missed(batch, self._loop.time())
        self._expire()

    def _forget(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._schedule.remove(task_id)
            self._wanted.pop(task_id, None)
        stale = len(self._asked) - len(self._wanted)
        if stale >= MAX_STALE:
            self._work.set()
        elif stale > 0 and self._drop_at == math.inf:
            self._drop_at = self._loop.time() + STALE_FOR
            self._wake()

    # Deadlines.

    def _plan_deadline(self) -> None:
        self._deadline.set_by(self._registry.next_deadline())

    def _expire(self) -> None:
        free, more = self._registry.expire(self._loop.time(), SLICE)
        self._forget(free)
        if more:
            self._deadline.set(self._loop.time())
        else:
            self._plan_deadline()

    # Push.

    def _subscription_changes(self) -> bool:
        if self._subscription is None:
            return False
        return not self._wanted.keys() <= self._asked or len(self._asked) - len(self._wanted) >= MAX_STALE

    async def _tend_subscription(self, now: float) -> None:
        """Subscribe, unsubscribe, and ask for a sign of life when it has been silent for long."""
        subscription = self._subscription
        if subscription is None:
            return
        try:
            if self._subscription_changes() or now >= self._drop_at:
                add = [task_id for task_id in self._wanted if task_id not in self._asked]
                drop = self._stale(now)
                self._asked.update(add)
                self._asked.difference_update(drop)
                self._confirmed.difference_update(drop)
                await subscription.update(add, drop)
            if self._asked and now >= self._heard + PING_AFTER:
                if not self._pinged:
                    self._pinged = True
                    await subscription.ping()
                elif now >= self._heard + PING_AFTER + self._config.io_timeout:
                    raise TransportError("the subscription does not answer")
        except TransportError:
            self._lose(subscription)
            await subscription.abort()  # So that the listening task learns of it, and makes a new one.

    def _stale(self, now: float) -> list[str]:
        """Choose what to drop now: what nobody waits for any more, once it is much or old enough."""
        stale = [task_id for task_id in self._asked if task_id not in self._wanted]
        if len(stale) >= MAX_STALE or now >= self._drop_at:
            self._drop_at = math.inf
            return stale
        if stale:
            self._drop_at = min(self._drop_at, now + STALE_FOR)
        return []

    def _lose(self, subscription: Subscription) -> None:
        """Read everything that was pushed by it, now and often, until there is another."""
        if self._subscription is subscription:
            self._subscription = None
            self._asked = set()
            self._confirmed.clear()
            self._drop_at = math.inf
            now = self._loop.time()
            for task_id in self._wanted:
                self._schedule.set_pushed(task_id, now, pushed=False)
            self._work.set()

    async def _listen_forever(self) -> None:
        failures = 0
        while True:
            await self._listening.wait()
            try:
                subscription = await self._backend.subscribe()
                try:
                    self._subscription = subscription
                    self._heard, self._pinged = self._loop.time(), False
                    self._work.set()
                    for count in itertools.count(1):
                        event = await subscription.receive()
                        self._take_event(event)
                        failures = 0
                        if count % SLICE == 0 or (isinstance(event, Pushed) and len(event.payload) >= LARGE_REPLY):
                            await asyncio.sleep(0)
                finally:
                    self._lose(subscription)
                    await subscription.aclose()
            except TransportError as error:
                failures += 1
                # That a server is gone is said elsewhere, once for all; that it refuses, nobody else would learn.
                level = logging.WARNING if error.refused and failures == 1 else logging.DEBUG
                logger.log(level, "the subscription to results is gone, polling meanwhile: %s", error)
            except Exception:
                failures += 1
                logger.exception("the subscription to results failed, polling meanwhile")
            await asyncio.sleep(pause(failures + 1, *_PAUSE_AFTER_FAILURE))
            if not self._wanted:
                self._listening.clear()

    def _take_event(self, event: Confirmed | Pushed | None) -> None:
        now = self._loop.time()
        self._heard, self._pinged = now, False
        match event:
            case Pushed(task_id, payload):
                self.pushes += 1
                self._arrive(task_id, payload)
            case Confirmed(task_ids):
                for task_id in task_ids:
                    if task_id in self._asked:
                        self._confirmed.add(task_id)
                    if task_id in self._wanted:
                        self._schedule.set_pushed(task_id, now, pushed=True)
                self._wake()
