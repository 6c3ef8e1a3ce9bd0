"""The one place that reads results for everybody: it polls, and has results pushed where it can.

A caller enters a `Wait` here and awaits its future. No result is read in a caller's task, so a caller who is cancelled
leaves no half-read answer behind. While nobody waits, not a single command is sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.backoff import pause
from fibo_client.celery.budget import EACH, Budget, in_turns
from fibo_client.celery.pending import PendingTasks
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.meta import decode_meta, decode_meta_in_slices
from fibo_client.celery.schedule import AFTER_PUSH, MAX_TAKEN, Schedule
from fibo_client.celery.timer import Timer
from fibo_client.errors import FiboError, ReadError, ResultTooLargeError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fibo_client.celery.backends.base import Backend, Stored, Subscription
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.jobs import Job
    from fibo_client.celery.pending import PendingTask, Wait
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.meta import TaskMeta

logger: Final = logging.getLogger("fibo_client")

SLICE: Final = 64
"""The most deadlines that are passed, and empty answers that are taken, between two looks at the clock."""

MAX_ADDED: Final = 250
"""The most ids in one SUBSCRIBE."""

MAX_STALE: Final = 64
"""How many ids that nobody awaits any more may stay subscribed to before they are dropped."""

STALE_FOR: Final = 1.0
"""The most seconds that one stays so: they are dropped together, not each with a command of its own."""

LARGE_REPLY: Final = 4 * 1024
"""After a reply of so many bytes, there is a look at the clock."""

LARGE_ANSWER: Final = 1024 * 1024
"""An answer of so many bytes is decoded in slices: at once, it would hold up the event loop for 15 ms and more."""

_FIRST_READ_WHEN_SUBSCRIBING: Final = 0.05
"""Seconds until the first read of what is about to be subscribed to. It comes sooner with the confirmation."""

_PAUSE_AFTER_FAILURE: Final = (0.02, 0.5)

_LOST_TWICE_WITHIN: Final = 10.0
_PUSH_RETRY_AFTER: Final = 60.0
"""Where push is refused, or lost twice within so many seconds, it is not tried for so many. Results are polled."""


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
        self._bounds: dict[str, Any] = {
            "max_bytes": config.max_result_bytes,
            "max_decompressed": config.max_decompressed_bytes,
            "max_depth": config.max_json_depth,
            "types": types,
        }
        self._large: deque[tuple[PendingTask, bytes, float | None]] = deque()  # Answers that are to be decoded.
        self._decoding: asyncio.Task[None] | None = None
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
        self._to_subscribe: dict[str, PendingTask] = {}
        self._subscribed: dict[str, PendingTask] = {}
        self._stale: dict[str, None] = {}
        self._drop_at = math.inf
        self._wanted = asyncio.Event()
        self._subscription: Subscription | None = None
        self._gone: asyncio.Future[TransportError]
        self._is_update_scheduled = False
        self._unconfirmed = 0  # How many updates have not been confirmed.
        self._update_timer = Timer(self._update)
        self._context = contextvars.Context()  # What is done for all is not done in the context of one.

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        self._loop = asyncio.get_running_loop()
        loops = [self._read_forever()]
        if self._config.push:
            loops.append(self._stay_subscribed())
        # An empty context: the tasks serve everybody, and must not carry on the trace of whoever opened the client.
        self._tasks = [
            self._loop.create_task(each, name="fibo_client.reader", context=contextvars.Context()) for each in loops
        ]

    async def aclose(self, error: Exception) -> None:
        """Stop the tasks. Whoever still waits gets an error."""
        await self._fail_all(error)
        self._deadline_timer.cancel()
        self._read_timer.cancel()
        self._update_timer.cancel()
        tasks = [*self._tasks, *([self._decoding] if self._decoding else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
            for task in new:
                task.is_new = not sent
            if self._config.push:
                # Others may look at some of them at this moment, and have not subscribed.
                if len(new) < len(wait.missing):
                    new = [task for task in wait.missing.values() if not self._has_push(task)]
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
            self._begin(filter(None, map(self.awaited.get, job.awaits)), first=None)

    def leave(self, wait: Wait) -> None:
        """Let a caller wait no longer, over or not."""
        self._forget(self.awaited.leave(wait))

    def fail(self, waits: Iterable[Wait], error: Exception) -> None:
        """End waits with an error."""
        self._forget(self.awaited.fail(waits, error))

    async def _fail_all(self, error: Exception) -> None:
        """End all waits with an error, the oldest first."""
        budget = Budget()
        for _ in range(len(self.awaited)):
            self.fail(self.awaited.first_waits, error)
            if budget.is_spent(EACH):
                await budget.pause()

    # Reading.

    def _begin(self, tasks: Iterable[PendingTask], first: float | None) -> None:
        now, soonest = self._loop.time(), math.inf
        for place, task in enumerate(tasks):
            moment = first
            if task.is_pushed:  # What nobody has looked at since may have been there for long.
                moment = self._config.longest_poll if task.last_read > -math.inf else first or AFTER_PUSH
            elif (
                first is None
                and self._subscription is not None
                and (task.id in self._to_subscribe or self._subscribed.get(task.id) is task)
            ):
                moment = _FIRST_READ_WHEN_SUBSCRIBING
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
                    more = batch
                    while len(more) == MAX_TAKEN:
                        await asyncio.sleep(0)  # To choose so many takes its time.
                        more = self._schedule.take(now, len(batch))
                        batch = [*batch, *more]
                    await self._read(batch, now)
                    self._reading.set()  # More may be due.
                else:
                    self._read_timer.set_by(self._schedule.next_due())
            except Exception as error:
                logger.exception("the reader of results failed; everybody who waits is told")
                told = ReadError(f"{type(error).__name__}: {error}")
                told.__cause__ = error
                await self._fail_all(told)
                await asyncio.sleep(_PAUSE_AFTER_FAILURE[1])
                self._reading.set()

    async def _read(self, batch: list[PendingTask], began: float) -> None:
        self.polls += 1
        self.retries += self._failures > 0
        if len(batch) > SLICE:
            await asyncio.sleep(0)  # To choose them took its time, and so does what follows.
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
        if len(absent) < len(batch):
            unfinished = await self._settle(batch, replies, began)
        else:
            unfinished = []
            self._schedule.arrived(len(batch), 0, 0, self._loop.time())
        if len(batch) > SLICE:
            await asyncio.sleep(0)
        budget = Budget()
        for tasks, is_absent in ((absent, True), (unfinished, False)):
            for start in range(0, len(tasks), SLICE):
                some = tasks[start : start + SLICE]
                self._forget(self.awaited.note_read(some, began, absent=is_absent))
                self._schedule.missed(some, self._loop.time())
                if budget.is_spent(len(some)):
                    await budget.pause()
        self._advance()

    async def _settle(
        self, batch: Sequence[PendingTask], replies: Sequence[bytes | ResultTooLargeError | None], began: float
    ) -> list[PendingTask]:
        """Settle what came; return the tasks whose state is not final."""
        count = size = 0
        unfinished = []
        budget = Budget()
        for task, payload in zip(batch, replies, strict=True):
            if payload is None:
                continue
            length = self._config.max_result_bytes if isinstance(payload, ResultTooLargeError) else len(payload)
            if budget.is_spent(EACH if length >= LARGE_REPLY else 1):
                await budget.pause()
            count += 1
            size += length
            self._arrive(task.id, payload, began)
            if self.awaited.has(task) and not task.is_decoding:
                unfinished.append(task)
        self._schedule.arrived(len(batch), count, size, self._loop.time())
        return unfinished

    def _arrive(self, task_id: str, payload: bytes | ResultTooLargeError, began: float | None = None) -> None:
        """Give what came to all who wait for it. It was read by a command that began then, or else pushed just now."""
        task = self.awaited.get(task_id)
        if task is None:
            return
        if isinstance(payload, ResultTooLargeError):
            self._give(task, payload, began)
        elif len(payload) >= LARGE_ANSWER:
            if not task.is_decoding:  # A read may show once more what was pushed.
                task.is_decoding = True
                self._large.append((task, payload, began))
                if self._decoding is None:
                    self._decoding = self._loop.create_task(
                        self._decode_large(), name="fibo_client.decoding", context=contextvars.Context()
                    )
        else:
            try:
                answer: TaskMeta | Exception = decode_meta(payload, task_id, **self._bounds)
            except FiboError as error:
                answer = error
            self._give(task, answer, began)

    async def _decode_large(self) -> None:
        """Decode large answers, one after the other, while the event loop and the reading of others go on."""
        try:
            while self._large:
                task, payload, began = self._large.popleft()
                if self.awaited.has(task):
                    answer = await self._decode(task.id, payload)
                    task.is_decoding = False
                    if self.awaited.has(task):
                        self._give(task, answer, began)
                    if self.awaited.has(task):  # Its state is not final.
                        now = self._loop.time()
                        self._forget(self.awaited.note_read([task], now if began is None else began))
                        self._schedule.missed([task], now)
                    self._advance()
        finally:
            self._decoding = None

    async def _decode(self, task_id: str, payload: bytes) -> TaskMeta | Exception:
        try:
            return await in_turns(decode_meta_in_slices(payload, task_id, **self._bounds))
        except FiboError as error:
            return error
        except Exception as error:
            logger.exception("decoding a large answer failed; who waits for it is told")
            return ReadError(f"{type(error).__name__}: {error}")

    def _give(self, task: PendingTask, answer: TaskMeta | Exception, began: float | None) -> None:
        if isinstance(answer, FiboError):
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
            self._to_subscribe.pop(task.id, None)
            if task.id in self._subscribed:
                self._stale[task.id] = None
        if len(self._stale) >= MAX_STALE:
            self._schedule_update()
        elif self._stale and self._drop_at == math.inf:
            self._drop_at = self._loop.time() + STALE_FOR
            self._update_timer.set_by(self._drop_at)

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

    # Push.

    def _has_push(self, task: PendingTask) -> bool:
        return task.id in self._to_subscribe or self._subscribed.get(task.id) is task

    def _subscribe(self, tasks: Sequence[PendingTask]) -> None:
        """Have the results of tasks pushed, if there is room for all of them."""
        awaited = len(self._to_subscribe) + len(self._subscribed) - len(self._stale)
        if awaited + len(tasks) > self._config.push_limit:
            return
        for task in tasks:
            before = self._subscribed.get(task.id)
            if before is None:
                self._to_subscribe[task.id] = task
            else:  # It is awaited again.
                task.is_pushed, task.subscribed_at = before.is_pushed, before.subscribed_at
                self._subscribed[task.id] = task
                self._stale.pop(task.id, None)
        if self._subscription is None:
            self._wanted.set()
        elif self._to_subscribe:
            if self._unconfirmed:
                self._schedule_update()
            elif not self._is_update_scheduled:
                self._update()  # A turn of the event loop is saved. Those who come while it looks go together.

    def _schedule_update(self) -> None:
        if not self._is_update_scheduled:
            self._is_update_scheduled = True
            self._loop.call_soon(self._update, context=self._context)

    def _update(self) -> None:
        """Tell the subscription what is awaited, and what no more."""
        self._is_update_scheduled = False
        subscription = self._subscription
        if subscription is None:
            return
        now = self._loop.time()
        drop: list[str] = []
        if len(self._stale) >= MAX_STALE or now >= self._drop_at:
            drop = list(self._stale)
            self._stale.clear()
            self._drop_at = math.inf
            for task_id in drop:
                del self._subscribed[task_id]
        elif self._stale:  # The timer went off for others, which were dropped before, or a moment early.
            self._update_timer.set_by(self._drop_at)
        else:  # They are awaited again.
            self._drop_at = math.inf
        add = self._to_subscribe
        if len(add) > MAX_ADDED:
            add = dict(islice(add.items(), MAX_ADDED))
            for task_id in add:
                del self._to_subscribe[task_id]
            self._schedule_update()
        else:
            self._to_subscribe = {}
        if not add and not drop:
            return
        self._subscribed |= add
        new: list[str] = []
        old: list[str] = []  # Much may be stored of these: they are read apart, as much as is good at a time.
        for task_id, task in add.items():
            task.subscribed_at = now
            (new if task.is_new else old).append(task_id)
        self._unconfirmed += bool(new) + bool(old)
        try:
            if new or drop:
                subscription.update(new, drop, look=True)
            if old:
                subscription.update(old, (), look=False)
        except TransportError as error:
            self.lost(error)

    def subscribed(self, task_ids: Sequence[str], stored: Sequence[Stored] | None) -> None:
        """See `Subscriber.subscribed`."""
        if self._subscription is None:
            return  # It is lost, or was refused.
        self._unconfirmed -= 1
        now = self._loop.time()
        if stored is None:
            for task_id in task_ids:
                if task := self._subscribed.get(task_id):
                    self._schedule.set_pushed(task, now, pushed=True)
            self._read_timer.set_by(self._schedule.next_due())
            return
        self.polls += 1
        absent = []
        for task_id, payload in zip(task_ids, stored, strict=True):
            task = self._subscribed.get(task_id)
            if task is None:
                continue
            self._schedule.set_pushed(task, now, pushed=True, looked=True)
            if payload is None:
                absent.append(task)
            else:
                self._arrive(task_id, payload, task.subscribed_at)
        if absent and (free := self.awaited.note_read(absent, absent[0].subscribed_at, absent=True)):
            self._forget(free)

    def pushed(self, task_id: str, payload: bytes) -> None:
        """See `Subscriber.pushed`."""
        self.pushes += 1
        self._arrive(task_id, payload)

    def lost(self, error: TransportError) -> None:
        """See `Subscriber.lost`. Everything that was pushed is read, now and often, until there is another."""
        if self._subscription is None:
            return
        self._subscription = None
        self._unconfirmed = 0
        self._gone.set_result(error)
        now = self._loop.time()
        for task_id, task in self._subscribed.items():
            task.is_new = False
            if task_id not in self._stale:
                self._to_subscribe[task_id] = task
                self._schedule.set_pushed(task, now, pushed=False)
        self._subscribed.clear()
        self._stale.clear()
        self._drop_at = math.inf
        self._reading.set()

    async def _stay_subscribed(self) -> None:
        """Make a subscription whenever one is wanted, and there is none."""
        failures, lost_at = 0, -math.inf
        while True:
            await self._wanted.wait()
            away = 0.0
            try:
                subscription = await self._backend.subscribe(self)
                began = self._loop.time()
                self._subscription, self._gone = subscription, self._loop.create_future()
                self._update()
                try:
                    error = await self._gone
                finally:
                    subscription.abort()
                failures = 0 if self._loop.time() > began + _LOST_TWICE_WITHIN else failures + 1
                if error.refused or self._loop.time() < lost_at + _LOST_TWICE_WITHIN:
                    away = _PUSH_RETRY_AFTER
                lost_at = self._loop.time()
                self._note_loss(error, is_first=error.refused)
            except TransportError as error:
                failures += 1
                self._note_loss(error, is_first=error.refused and failures == 1)
            except Exception:
                failures += 1
                logger.exception("the subscription to results failed, polling meanwhile")
            await asyncio.sleep(away or pause(failures + 1, *_PAUSE_AFTER_FAILURE))
            if not self._to_subscribe:
                self._wanted.clear()

    def _note_loss(self, error: TransportError, *, is_first: bool) -> None:
        # Outages are logged by ServerHealth; refusals only here.
        level = logging.WARNING if is_first else logging.DEBUG
        logger.log(level, "the subscription to results is gone, polling meanwhile: %s", error)
