"""The tasks that read results for everybody: one polls, one subscribes, one listens to what is pushed.

A caller enters a `Wait` here and awaits its future. No result is read in a caller's task, so a caller who is cancelled
leaves no half-read answer behind. All three are parked, without a single command, while nobody waits.
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
from fibo_client.celery.pending import PendingTasks
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.meta import decode_meta
from fibo_client.celery.schedule import AFTER_PUSH, Schedule
from fibo_client.celery.timer import Timer
from fibo_client.errors import FiboError, ReadError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fibo_client.celery.backends.base import Backend, Subscription
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.jobs import Job
    from fibo_client.celery.pending import PendingTask, Wait
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.meta import TaskMeta

logger: Final = logging.getLogger("fibo_client")

SLICE: Final = 256
"""The most answers, and the most deadlines, that are settled before the event loop gets its turn."""

PING_AFTER: Final = 15.0
"""Seconds of silence on the subscription after which it is asked for a sign of life."""

MAX_STALE: Final = 64
"""How many ids that nobody awaits any more may stay subscribed to before they are dropped."""

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
        on_late: Called when the deadline of a wait is near, and no answer is there.
        types: The types that results may have.

    Attributes:
        awaited: What is awaited.
    """

    def __init__(
        self, backend: Backend, config: CeleryConfig, on_late: Callable[[], None], types: JSONCodec = CELERY_JSON
    ) -> None:
        self._backend = backend
        self._types = types
        self._config = config
        self._on_late = on_late
        self.awaited: PendingTasks = PendingTasks()
        self._schedule = Schedule(self.awaited, poll_min=config.poll_min, poll_max=config.longest_poll)
        self._loop: asyncio.AbstractEventLoop
        self._tasks: list[asyncio.Task[None]] = []
        self._reading = asyncio.Event()
        self._read_timer = Timer(self._read_if_due)
        self._deadline_timer = Timer(self._advance)
        self._failures = 0
        self.unreadable_reason: str | None = None
        """Why results cannot be read at present; None while they can."""
        self.polls: int = 0
        self.pushes: int = 0
        self.answers: int = 0
        self.retries: int = 0
        self.decode_failures: int = 0
        # Push: what is to be subscribed to, what is subscribed to, and what nobody awaits any more of the latter.
        self._unsubscribed: dict[str, PendingTask] = {}
        self._subscribed: dict[str, PendingTask] = {}
        self._stale: dict[str, None] = {}
        self._drop_at = math.inf
        self._listening = asyncio.Event()
        self._subscribing = asyncio.Event()
        self._subscription_timer = Timer(self._subscribing.set)
        self._subscription: Subscription | None = None
        self._heard = 0.0
        self._pinged = False

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        self._loop = asyncio.get_running_loop()
        loops = [self._read_forever()]
        if self._config.push:
            loops += [self._subscribe_forever(), self._listen_forever()]
        # An empty context: the tasks serve everybody, and must not carry on the trace of whoever opened the client.
        self._tasks = [
            self._loop.create_task(each, name="fibo_client.reader", context=contextvars.Context()) for each in loops
        ]

    async def aclose(self, error: Exception) -> None:
        """Stop the tasks. Whoever still waits gets an error."""
        self.fail(self.awaited.waits, error)
        self._deadline_timer.cancel()
        self._read_timer.cancel()
        self._subscription_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What callers use. All of it is synchronous: entering and leaving cannot be interrupted.

    def enter(self, wait: Wait, task_ids: Iterable[str], *, sent: bool = True) -> None:
        """Let a caller wait for results.

        Args:
            wait: The caller's.
            task_ids: The ids of the tasks.
            sent: Whether they have been sent. If not, nothing is read until `begin` says that they have.
        """
        new = self.awaited.enter(wait, task_ids)
        if wait.once:
            now = self._loop.time()
            for task in wait.missing.values():
                self._schedule.hurry(task, now)
            self._reading.set()
        else:
            if self._config.push:
                # Others may look at some of them at this moment, and have not subscribed.
                if len(new) < len(wait.missing):
                    new = [task for task in wait.missing.values() if not self._is_subscribed(task)]
                if new:
                    self._subscribe(new)
            if sent:
                self._begin(wait.missing.values(), first=0.0)  # They may have been there for long.
        if wait.deadline < math.inf:
            self._deadline_timer.set_by(wait.read_from)

    def begin(self, job: Job) -> None:
        """Read from now on what a job awaits: its messages have just been sent."""
        if not job.awaits:
            self.awaited.finish(job)
        else:  # By id: who sent them may have left meanwhile, and somebody else may wait.
            self._begin([task for task_id in job.awaits if (task := self.awaited.get(task_id))], first=None)

    def leave(self, wait: Wait) -> None:
        """Let a caller wait no longer, over or not."""
        self._forget(self.awaited.leave(wait))

    def fail(self, waits: Iterable[Wait], error: Exception) -> None:
        """End waits with an error."""
        self._forget(self.awaited.fail(waits, error))

    # Reading.

    def _begin(self, tasks: Iterable[PendingTask], first: float | None) -> None:
        now, soonest = self._loop.time(), math.inf
        for place, task in enumerate(tasks):
            moment = first
            if task.pushed:
                moment = AFTER_PUSH
            elif first is None and (task.id in self._unsubscribed or task.id in self._subscribed):
                moment = _FIRST_READ_WHEN_SUBSCRIBING if self._subscription is not None else None
            self._schedule.add(task, now, first=moment, place=place)
            soonest = min(soonest, task.due or soonest)
        self._read_timer.set_by(soonest)

    def _read_if_due(self) -> None:
        due = self._schedule.next_due()  # What was due may have been answered.
        if due is None:
            return
        if due <= self._loop.time():
            self._reading.set()
        else:
            self._read_timer.set_by(due)

    async def _read_forever(self) -> None:
        while True:
            try:
                await self._reading.wait()
                self._reading.clear()
                now = self._loop.time()
                if batch := self._schedule.take(now):
                    await self._read(batch, now)
                    self._reading.set()  # More may be due.
                else:
                    self._read_timer.set_by(self._schedule.next_due())
            except Exception as error:
                logger.exception("the reader of results failed; everybody who waits is told")
                told = ReadError(f"{type(error).__name__}: {error}")
                told.__cause__ = error
                self.fail(self.awaited.waits, told)
                await asyncio.sleep(_PAUSE_AFTER_FAILURE[1])
                self._reading.set()

    async def _read(self, batch: list[PendingTask], began: float) -> None:
        self.polls += 1
        self.retries += self._failures > 0
        try:
            replies = await self._backend.get_many([task.id for task in batch])
        except TransportError as error:
            await self._reading_failed(batch, error)
            return
        if self._failures:
            self._failures = 0
            self.unreadable_reason = None
            logger.debug("results can be read again")
        absent = [task for task, payload in zip(batch, replies, strict=True) if payload is None]
        unfinished = await self._settle(batch, replies, began) if len(absent) < len(batch) else []
        self._forget(self.awaited.looked(absent, began, absent=True))
        self._forget(self.awaited.looked(unfinished, began))
        now = self._loop.time()
        self._schedule.missed(absent, now)
        self._schedule.missed(unfinished, now)
        self._advance()

    async def _settle(
        self, batch: Sequence[PendingTask], replies: Sequence[bytes | None], began: float
    ) -> list[PendingTask]:
        """Settle what came, in slices; return the tasks whose state is not final."""
        count = size = 0
        unfinished = []
        for task, payload in zip(batch, replies, strict=True):
            if payload is None:
                continue
            large = len(payload) >= LARGE_REPLY
            if count and (large or count % SLICE == 0):
                await asyncio.sleep(0)
            count += 1
            size += len(payload)
            self._arrive(task.id, payload, began)
            if self.awaited.has(task):
                unfinished.append(task)
        self._schedule.arrived(count, size, self._loop.time())
        return unfinished

    def _arrive(self, task_id: str, payload: bytes, began: float | None = None) -> None:
        """Give what came to all who wait for it. It was read by a command that began then, or else pushed just now."""
        task = self.awaited.get(task_id)
        if task is None:
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
        if began is None:
            began = task.pushed_at = self._loop.time()
        if free := self.awaited.arrive(task, answer, began):
            self.answers += 1
            self._forget(free)

    async def _reading_failed(self, batch: list[PendingTask], error: TransportError) -> None:
        self._failures += 1
        self.unreadable_reason = str(error)
        if self._failures == 1:
            logger.debug("results cannot be read, trying again: %s", error)
        self._forget(self.awaited.unreadable(batch, error))
        await asyncio.sleep(pause(self._failures, *_PAUSE_AFTER_FAILURE))
        self._schedule.missed(batch, self._loop.time())
        self._advance()

    def _forget(self, tasks: Iterable[PendingTask]) -> None:
        """Read no more of what nobody awaits any more."""
        for task in tasks:
            self._schedule.remove(task)
            self._unsubscribed.pop(task.id, None)
            if task.id in self._subscribed:
                self._stale[task.id] = None
        if len(self._stale) >= MAX_STALE:
            self._subscribing.set()
        elif self._stale and self._drop_at == math.inf:
            self._drop_at = self._loop.time() + STALE_FOR
            self._subscription_timer.set_by(self._drop_at)

    # Deadlines.

    def _advance(self) -> None:
        """Begin last looks, and end the waits whose deadline has passed."""
        now = self._loop.time()
        due = self.awaited.advance(now, SLICE)
        for task in due.last_looks:
            self._schedule.hurry(task, now)
        if due.last_looks:
            self._reading.set()
        if due.is_late:
            self._on_late()
        self._forget(due.free)
        if due.more:
            self._deadline_timer.set(now)
        else:
            self._deadline_timer.set_by(self.awaited.next_moment())
            self._deadline_timer.set_by(self.awaited.next_grace())

    # Push.

    def _is_subscribed(self, task: PendingTask) -> bool:
        return task.id in self._unsubscribed or self._subscribed.get(task.id) is task

    def _subscribe(self, tasks: Sequence[PendingTask]) -> None:
        """Have the results of tasks pushed, if there is room for all of them."""
        awaited = len(self._unsubscribed) + len(self._subscribed) - len(self._stale)
        if awaited + len(tasks) > self._config.push_limit:
            return
        for task in tasks:
            before = self._subscribed.get(task.id)
            if before is None:
                self._unsubscribed[task.id] = task
            else:  # It is awaited again.
                task.pushed = before.pushed
                self._subscribed[task.id] = task
                self._stale.pop(task.id, None)
        self._listening.set()
        self._subscribing.set()

    async def _subscribe_forever(self) -> None:
        """Subscribe, unsubscribe, and ask for a sign of life when the subscription has been silent for long."""
        while True:
            await self._subscribing.wait()
            self._subscribing.clear()
            subscription = self._subscription
            if subscription is None:
                continue
            now = self._loop.time()
            add, drop = self._unsubscribed, []
            if len(self._stale) >= MAX_STALE or now >= self._drop_at:
                drop = list(self._stale)
                self._drop_at = math.inf
            self._unsubscribed = {}
            for task_id in drop:
                del self._subscribed[task_id], self._stale[task_id]
            self._subscribed |= add
            try:
                if add or drop:
                    await subscription.update(list(add), drop)
                if self._subscribed and now >= self._heard + PING_AFTER:
                    await self._check_alive(subscription, now)
            except Exception as error:
                if not isinstance(error, TransportError):
                    logger.exception("the subscription to results failed, polling meanwhile")
                self._lose(subscription)
                await subscription.abort()  # So that the listening task learns of it, and makes a new one.
            if self._subscribed:
                silent_at = self._heard + PING_AFTER + (self._config.io_timeout if self._pinged else 0.0)
                self._subscription_timer.set_by(min(silent_at, self._drop_at))

    async def _check_alive(self, subscription: Subscription, now: float) -> None:
        """Ask a silent subscription for a sign of life, and give it up if it gave none."""
        if not self._pinged:
            self._pinged = True
            await subscription.ping()
        elif now >= self._heard + PING_AFTER + self._config.io_timeout:
            raise TransportError("the subscription does not answer")

    def _lose(self, subscription: Subscription) -> None:
        """Read everything that was pushed by it, now and often, until there is another."""
        if self._subscription is subscription:
            self._subscription = None
            now = self._loop.time()
            for task_id, task in self._subscribed.items():
                if task_id not in self._stale:
                    self._unsubscribed[task_id] = task
                    self._schedule.set_pushed(task, now, pushed=False)
            self._subscribed.clear()
            self._stale.clear()
            self._drop_at = math.inf
            self._reading.set()

    async def _listen_forever(self) -> None:
        failures = 0
        while True:
            await self._listening.wait()
            try:
                subscription = await self._backend.subscribe()
                try:
                    self._subscription = subscription
                    self._heard, self._pinged = self._loop.time(), False
                    self._subscribing.set()
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
                # Outages are logged by ServerHealth; refusals only here.
                level = logging.WARNING if error.refused and failures == 1 else logging.DEBUG
                logger.log(level, "the subscription to results is gone, polling meanwhile: %s", error)
            except Exception:
                failures += 1
                logger.exception("the subscription to results failed, polling meanwhile")
            await asyncio.sleep(pause(failures + 1, *_PAUSE_AFTER_FAILURE))
            if not self._unsubscribed:
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
                    if task := self._subscribed.get(task_id):
                        self._schedule.set_pushed(task, now, pushed=True)
                        self._read_timer.set_by(task.due)
