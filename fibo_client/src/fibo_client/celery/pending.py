"""Who waits for which tasks, and until when. Pure: the time is handed in, and so is what came.

Each awaited task has one record, a `PendingTask`, in one dict. Every caller who waits has one `Wait`, which ends when
all of its tasks have an answer, or at its deadline. A deadline counts only after a last read that began shortly before
it (`LAST_LOOK`), so that no timeout is raised over an answer that is there. If that read does not come back, the wait
ends `DEADLINE_GRACE` later all the same, unless an answer is there and is being decoded.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from fibo_client.celery.protocol.meta import pending
from fibo_client.celery.protocol.states import READY_STATES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator

    from fibo_client.celery.protocol.meta import TaskMeta

LAST_LOOK: Final = 0.05
"""How long before a deadline the last read begins, in seconds; with a shorter timeout, after half of it."""

MAX_LOOKS: Final = 500
"""About how many last reads are asked for before the event loop gets its turn."""

MAX_OVER: Final = 64
"""How many waits that are over are dropped in one go, in the order of their deadlines."""

DEADLINE_GRACE: Final = 0.04
"""How long after a deadline a last read that is under way is waited for, in seconds."""


_SHARDS: Final = 64


class PendingTask:
    """A task that somebody awaits: the one record of it.

    Attributes:
        id: The task's id.
        waits: Who awaits it.
        meta: The last state seen, which is not final. None while nothing was.
        last_read: When the last read of its result that came back began.
        due: When it is read next. Infinity while it is being read or decoded, None before it was sent.
        pause: Seconds until the read after that.
        is_first_read: Whether the next read is the first one, from which there is something to learn.
        is_new: Whether it is sent only now, so that there is not much to be read yet.
        is_decoding: Whether a large answer of it is there, and is being decoded.
        is_pushed: Whether its result is pushed.
        pushed_at: When a state of it was pushed last.
        subscribed_at: When its subscription left, with a read behind it.
        before: The one that somebody began to await before it, among those that are awaited still.
        after: The one after it.
    """

    __slots__ = (
        "after",
        "before",
        "due",
        "id",
        "is_decoding",
        "is_first_read",
        "is_new",
        "is_pushed",
        "last_read",
        "meta",
        "pause",
        "pushed_at",
        "subscribed_at",
        "waits",
    )

    def __init__(self, task_id: str) -> None:
        self.id: str = task_id
        self.waits: list[Wait] = []
        self.meta: TaskMeta | None = None
        self.last_read: float = -math.inf
        self.due: float | None = None
        self.pause: float = 0.0
        self.is_first_read: bool = False
        self.is_new: bool = False
        self.is_decoding: bool = False
        self.is_pushed: bool = False
        self.pushed_at: float = -math.inf
        self.subscribed_at: float = -math.inf
        self.before: PendingTask | None = None
        self.after: PendingTask | None = None


class Wait:
    """A caller who waits for tasks.

    Attributes:
        future: Done when something has happened: an answer that is wanted or a state came, or the wait is over. A
            caller who goes on to wait puts a new one in its place.
        deadline: When to give up, by the loop's clock. Infinity is never.
        read_from: A read that began at or after this counts as the last look.
        once: Whether a single read of each task is enough, whatever it shows.
        end_on_failure: Whether it is over as soon as one task has failed.
        failed: Whether one did, so that it is over.
        enough: The tasks whose answers are enough, and have not come. It is over when there are none. Several waits of
            one caller may share it. None is all tasks.
        changes: The states that are not final, as they come. None where nobody wants them.
        missing: The tasks that have no answer yet, by id, in order.
        arrived: The answers by id, as they came: the task's meta, or the error in its place.
        over: Whether it has ended.
        is_overdue: Whether its deadline has passed, and its last look is under way.
        timed_out: Whether its deadline ended it.
        error: Why it ended without all answers, if not by its deadline.
        looks: How often missing results were read.
    """

    __slots__ = (
        "arrived",
        "changes",
        "deadline",
        "end_on_failure",
        "enough",
        "error",
        "failed",
        "future",
        "is_overdue",
        "looks",
        "missing",
        "number",
        "once",
        "over",
        "read_from",
        "timed_out",
    )

    def __init__(
        self,
        future: asyncio.Future[None],
        now: float,
        timeout: float | None,
        *,
        once: bool = False,
        end_on_failure: bool = False,
        enough: set[str] | None = None,
        wants_changes: bool = False,
    ) -> None:
        self.future: asyncio.Future[None] = future
        self.deadline: float = math.inf if timeout is None else now + timeout
        # With a short timeout, the last look begins half-way.
        self.read_from: float = now if once or timeout is None else max(self.deadline - LAST_LOOK, now + timeout / 2)
        self.once: bool = once
        self.end_on_failure: bool = end_on_failure
        self.failed: bool = False
        self.enough: set[str] | None = enough
        self.changes: deque[TaskMeta] | None = deque() if wants_changes else None
        self.missing: dict[str, PendingTask] = {}
        self.arrived: dict[str, TaskMeta | Exception] = {}
        self.over: bool = False
        self.is_overdue: bool = False
        self.timed_out: bool = False
        self.error: Exception | None = None
        self.looks: int = 0
        self.number: int = 0
        """Its number among those with a deadline. 0 is none."""

    def wake(self) -> None:
        """Tell the caller that something has happened."""
        if not self.future.done():
            self.future.set_result(None)

    @property
    def has_enough(self) -> bool:
        """Whether the answers that are enough have come. False where all are wanted."""
        return self.enough is not None and not self.enough

    def has_looked(self) -> bool:
        """Tell whether every missing task was read at or after `read_from`."""
        return all(task.last_read >= self.read_from for task in self.missing.values())

    def is_decoding(self) -> bool:
        """Tell whether an answer of a missing task is there, and is being decoded."""
        return any(task.is_decoding for task in self.missing.values())


class _Stage(enum.IntEnum):
    """What becomes of a wait at a moment."""

    LAST_LOOK = 0
    DEADLINE = 1
    END = 2


class Due(NamedTuple):
    """What a moment brings.

    Attributes:
        last_looks: The tasks to read now, because the deadline of a wait is near.
        is_late: Whether one of these waits was to last, and was not a single read.
        free: The tasks that nobody awaits any more.
        more: Whether more is due at once.
    """

    last_looks: list[PendingTask]
    is_late: bool
    free: list[PendingTask]
    more: bool


class PendingTasks:
    """The tasks that somebody awaits, by id, and in the order in which somebody began to.

    Several dicts hold them: one with a hundred thousand would take milliseconds whenever it grows.
    """

    def __init__(self) -> None:
        self._shards: list[dict[str, PendingTask]] = [{} for _ in range(_SHARDS)]
        self._first: PendingTask | None = None
        self._last: PendingTask | None = None
        self._count = 0
        # Waits with a deadline by number, and when each is due: for its last look, then for its end. The heap has only
        # numbers: one that is over stays in it for a while, and must not keep its answers alive.
        self._timed: dict[int, Wait] = {}
        self._heap: list[tuple[float, int, _Stage]] = []
        self._looked: deque[Wait] = deque()  # Overdue ones whose last look may have come back.
        self._numbers = itertools.count(1)

    def get(self, task_id: str) -> PendingTask | None:
        """Give the record of a task; None if nobody awaits it."""
        return self._shards[hash(task_id) % _SHARDS].get(task_id)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PendingTask]:
        task = self._first
        while task is not None:
            yield task
            task = task.after

    def _add(self, task_id: str) -> PendingTask:
        task = self._shards[hash(task_id) % _SHARDS][task_id] = PendingTask(task_id)
        task.before = self._last
        if self._last is None:
            self._first = task
        else:
            self._last.after = task
        self._last = task
        self._count += 1
        return task

    def _remove(self, task: PendingTask) -> None:
        del self._shards[hash(task.id) % _SHARDS][task.id]
        before, after = task.before, task.after
        if before is None:
            self._first = after
        else:
            before.after = after
        if after is None:
            self._last = before
        else:
            after.before = before
        task.before = task.after = None
        self._count -= 1

    def has(self, task: PendingTask) -> bool:
        """Tell whether somebody awaits a task by this record. Since it was read, there may be another one of its id."""
        return self.get(task.id) is task

    def enter(self, wait: Wait, task_ids: Iterable[str]) -> list[PendingTask]:
        """Let a caller wait for tasks; return those that nobody awaited until now."""
        new = []
        for task_id in task_ids:
            task = self.get(task_id)
            if task is None:
                task = self._add(task_id)
                new.append(task)
            if task_id not in wait.missing:
                wait.missing[task_id] = task
                task.waits.append(wait)
                if wait.changes is not None and task.meta is not None:
                    wait.changes.append(task.meta)
        if wait.deadline < math.inf:
            if len(self._heap) > 64 and len(self._heap) > 4 * len(self._timed):
                self._heap = [entry for entry in self._heap if entry[1] in self._timed]
                heapq.heapify(self._heap)
            wait.number = next(self._numbers)
            self._timed[wait.number] = wait
            heapq.heappush(self._heap, (wait.read_from, wait.number, _Stage.LAST_LOOK))
        return new

    def leave(self, wait: Wait) -> list[PendingTask]:
        """Let a caller wait no longer; return the tasks that nobody awaits any more."""
        return [] if wait.over else self._end(wait)

    def arrive(self, task: PendingTask, answer: TaskMeta | Exception, began: float = math.inf) -> list[PendingTask]:
        """Give all who await a task what came by a read that began then; return the tasks nobody awaits any more."""
        if not isinstance(answer, Exception) and answer.state not in READY_STATES:
            # A read that began before the last push may show what was before that.
            if answer != task.meta and began >= task.pushed_at:
                task.meta = answer
                for wait in task.waits:
                    if wait.changes is not None:
                        wait.changes.append(answer)
                        wait.wake()
            return []
        self._remove(task)
        free = [task]
        waits, task.waits = task.waits, []  # It may stay subscribed to, and must not keep their answers alive.
        for wait in waits:
            free += self._settle(wait, task, answer)
        return free

    def note_read(self, tasks: Iterable[PendingTask], began: float, *, absent: bool = False) -> list[PendingTask]:
        """Take note of a read that showed nothing final; return the tasks of which only a look was wanted."""
        free = []
        overdue: dict[int, Wait] = {}
        for task in tasks:
            if self.get(task.id) is not task:
                continue
            task.last_read = began
            content = []
            for wait in task.waits:
                wait.looks += 1
                if wait.once and began >= wait.read_from:
                    content.append(wait)
                elif wait.is_overdue:
                    overdue[wait.number] = wait
            for wait in content:
                task.waits.remove(wait)
                free += self._settle(wait, task, pending(task.id) if absent or task.meta is None else task.meta)
            if not task.waits:
                self._remove(task)
                free.append(task)
        self._looked += overdue.values()
        return free

    def unreadable(self, tasks: Iterable[PendingTask], error: Exception) -> list[PendingTask]:
        """End the single looks at tasks that could not be read; return the tasks that nobody awaits any more."""
        looks = {id(wait): wait for task in tasks if self.has(task) for wait in task.waits if wait.once}
        return self.fail(looks.values(), error)

    def finish(self, wait: Wait) -> None:
        """End a wait that awaits no task, as what it was for is done."""
        wait.over = True
        self._timed.pop(wait.number, None)
        wait.wake()

    def fail(self, waits: Iterable[Wait], error: Exception) -> list[PendingTask]:
        """End waits with an error; return the tasks that nobody awaits any more."""
        free: list[PendingTask] = []
        for wait in waits:
            if not wait.over:
                wait.error = error
                free += self._end(wait)
                wait.wake()
        return free

    @property
    def first_waits(self) -> list[Wait]:
        """Those who wait for the task that is awaited longest."""
        return [] if self._first is None else list(self._first.waits)

    def advance(self, now: float, limit: int) -> Due:
        """Ask for the last looks that are due, and end the waits whose deadline has passed, at most so many at a time.

        Args:
            now: The present.
            limit: About how many tasks to go through.

        Returns:
            What is due.
        """
        last_looks: dict[str, PendingTask] = {}
        free: list[PendingTask] = []
        is_late = False
        while limit > 0 and self._looked:
            wait = self._looked.popleft()
            limit -= max(1, len(wait.missing))
            if not wait.over and wait.has_looked():
                free += self._time_out(wait)
        while (
            limit > 0 and (moment := self.next_moment()) is not None and moment <= now and len(last_looks) < MAX_LOOKS
        ):
            _, number, stage = heapq.heappop(self._heap)
            if number not in self._timed:  # The wait is over, as most are by then.
                limit -= 1
                continue
            wait = self._timed[number]
            limit -= max(1, len(wait.missing))
            if stage is _Stage.LAST_LOOK:
                last_looks |= wait.missing
                is_late = is_late or (bool(wait.missing) and not wait.once)
                heapq.heappush(self._heap, (wait.deadline, number, _Stage.DEADLINE))
            elif wait.has_looked() or (stage is _Stage.END and not wait.is_decoding()):
                free += self._time_out(wait)
            else:
                wait.is_overdue = True
                heapq.heappush(self._heap, (now + DEADLINE_GRACE, number, _Stage.END))
        moment = self.next_moment()
        return Due(
            list(last_looks.values()), is_late, free, more=bool(self._looked) or (moment is not None and moment <= now)
        )

    def next_moment(self) -> float | None:
        """Tell when to `advance`; None is never. Where very many are over, it may be sooner than something is due."""
        heap = self._heap
        for _ in range(MAX_OVER):
            if not heap or heap[0][1] in self._timed:
                break
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _time_out(self, wait: Wait) -> list[PendingTask]:
        wait.timed_out = True
        free = self._end(wait)
        wait.wake()
        return free

    def _settle(self, wait: Wait, task: PendingTask, answer: TaskMeta | Exception) -> list[PendingTask]:
        del wait.missing[task.id]
        wait.arrived[task.id] = answer
        if wait.end_on_failure and has_failed(answer):
            wait.failed = True
        is_news = wait.enough is None or task.id in wait.enough
        if wait.enough is not None and is_final(answer):
            wait.enough.discard(task.id)
        free: list[PendingTask] = []
        if not wait.missing:
            wait.over = True
            self._timed.pop(wait.number, None)
        elif wait.failed or wait.has_enough:
            free = self._end(wait)
        elif wait.is_overdue:
            self._looked.append(wait)
        if is_news or wait.over or wait.changes is not None:  # An earlier step of a flow need not wake its caller.
            wait.wake()
        return free

    def _end(self, wait: Wait) -> list[PendingTask]:
        wait.over = True
        self._timed.pop(wait.number, None)
        free = []
        for task in wait.missing.values():
            task.waits.remove(wait)
            if not task.waits and self.has(task):
                self._remove(task)
                free.append(task)
        return free


def is_final(answer: TaskMeta | Exception) -> bool:
    """Tell whether an answer, a meta or the error in its place, ends the wait for a task."""
    return isinstance(answer, Exception) or answer.ready


def has_failed(answer: TaskMeta | Exception) -> bool:
    """Tell whether a final answer is a failure."""
    return isinstance(answer, Exception) or answer.failure is not None
