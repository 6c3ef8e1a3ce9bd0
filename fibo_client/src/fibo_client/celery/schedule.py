"""Which results to read, and when. Pure: the time is handed in.

Every awaited result has a moment at which it is due for reading. It is `poll_min` away at first, and after each read
that shows nothing the pause grows by a quarter, up to `poll_max`: an answer is noticed within a quarter of the time
that it took. Four things bend that rule:

- The first read of a lone result comes after the pause that lately sufficed, a few milliseconds later at most. A read
  that is too early takes time from a worker on the same machine, and the event loop's clock has steps of a millisecond.
- A result that is pushed needs reading only as a safety net: first after `poll_max`, then less and less often.
- When results arrive, their neighbours are likely to be next, because workers take tasks in order: the oldest
  ones are pulled forward. So a long batch is followed closely at its head, at the cost of a few reads.
- Moments lie on a grid that is coarser for longer pauses, so that many results are read in one command.

When more is due than one read takes, the longest overdue go first: neither the old nor the young can starve.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fibo_client.celery.pending import PendingTask

GROWTH: Final = 1.25
"""What a pause is multiplied by after a read that showed nothing."""

PACE: Final = 0.01
"""Seconds between two reads of the oldest results while results are arriving."""

LONGEST_FIRST: Final = 0.005
"""The longest pause before the first read of a result, in seconds."""

AFTER_PUSH: Final = 0.005
"""Seconds between the beginning of push and the one read that makes up for what was stored before it."""

MAX_TAKEN: Final = 250
"""The most results that are chosen, and outdated plans that are dropped, before the event loop gets its turn."""

RECHECK: Final = 5.0
"""Seconds after which a plan is looked at, though its time may come later."""

PUSHED_LONGER: Final = 5
"""The longest pause of a pushed result is this many times ``poll_max``. It grows to that, too."""

MOST_PULLED: Final = 256
"""The most results that are pulled forward at a time."""

MAX_WIDTH: Final = 1000
"""The most results in one read."""

_REPLY_BYTES: Final = 4 * 1024 * 1024
"""The bytes of a read, if as many results are there as usual."""

_MOST_BYTES: Final = 16 * _REPLY_BYTES
"""The bytes of a read, if all results are there."""

_HEAD: Final = 8
_SMOOTHING: Final = 0.2
_SOONER: Final = 0.98  # What the pause before a first read is multiplied by after one that showed an answer,
_LATER: Final = 1.06  # and after one that did not: in balance, three of four do.


class Schedule:
    """When each awaited result is to be read. That is kept in its `PendingTask`.

    Args:
        tasks: All that are awaited, in the order in which somebody began to.
        poll_min: The shortest pause, in seconds.
        poll_max: The longest pause, in seconds.
    """

    def __init__(self, tasks: Iterable[PendingTask], *, poll_min: float, poll_max: float) -> None:
        self._tasks = tasks
        self._poll_min = poll_min
        self._poll_max = poll_max
        self._heap: list[tuple[float, int, float, PendingTask]] = []
        self._count = itertools.count()
        self._asked_bytes = 0.0
        self._answer_bytes = 0.0
        self._first = poll_min

    @property
    def width(self) -> int:
        """How many results the next read may ask for: fewer, the larger the replies and the answers have been."""
        usual, most = _REPLY_BYTES / max(self._asked_bytes, 1.0), _MOST_BYTES / max(self._answer_bytes, 1.0)
        return max(1, min(MAX_WIDTH, int(usual), int(most)))

    def add(self, task: PendingTask, now: float, *, first: float | None = None, place: int = 0) -> None:
        """Begin to read a result.

        Args:
            task: The task.
            now: The present.
            first: Seconds until the first read. None is what has been learnt.
            place: How many were sent together with it, before it. Workers will come to it after those, so the more
                there are, the longer its first pauses.
        """
        if task.due is None:
            task.pause = min(self._poll_min * (1 + place / _HEAD), self._poll_max)
            task.is_first_read = first is None and not place
            if first is None:
                first = task.pause if place else self._first
            self._plan(task, now + first, now)

    def remove(self, task: PendingTask) -> None:
        """Stop reading a result."""
        if task.is_first_read and task.due == math.inf:  # It is being read, and it is there.
            self._first = max(self._first * _SOONER, self._poll_min)
        task.due = None

    def hurry(self, task: PendingTask, now: float) -> None:
        """Read a result at the next opportunity, also one whose task may not have been sent yet."""
        self.add(task, now, first=0.0)
        if task.due is not None and task.due > now:
            self._plan(task, now, now)

    def set_pushed(self, task: PendingTask, now: float, *, pushed: bool, looked: bool = False) -> None:
        """Tell whether a result is pushed. It is read once more, for it may have been stored before.

        At once if it is not pushed; if it is, after a moment in which most of them come by push, or sooner if that is
        planned; and as a safety net only, if it was read since it is pushed.
        """
        task.is_pushed = pushed
        if task.due is not None:
            task.is_first_read = False
            task.pause = self._poll_max if looked else self._poll_min
            due = now + (self._poll_max if looked else AFTER_PUSH) if pushed else now
            if looked or due < task.due:
                self._plan(task, due, now)

    def take(self, now: float, taken: int = 0) -> list[PendingTask]:
        """Choose what the next read asks for.

        Args:
            now: The present.
            taken: How many were chosen for it before.

        Returns:
            Tasks, the longest overdue first; none when nothing is due. Each must be given back to `missed`, unless it
            is removed.
        """
        batch: list[PendingTask] = []
        heap = self._heap
        if not heap or heap[0][0] > now:
            return batch
        width = min(self.width - taken, MAX_TAKEN)
        for _ in range(MAX_TAKEN):
            if not heap or heap[0][0] > now or len(batch) >= width:
                break
            _, _, due, task = heapq.heappop(heap)
            if task.due != due:
                continue  # It is gone, or planned anew.
            if due <= now:
                task.due = math.inf
                batch.append(task)
            else:
                self._plan(task, due, now)
        return batch

    def missed(self, tasks: Iterable[PendingTask], now: float) -> None:
        """Plan the next read of results that are not there yet."""
        for task in tasks:
            if task.due != math.inf:  # Gone, or planned anew while it was being read.
                continue
            longest = self._poll_max
            if task.is_pushed:
                task.pause = max(task.pause, self._poll_max)
                longest *= PUSHED_LONGER
            if task.is_first_read:
                task.is_first_read = False
                self._first = min(self._first * _LATER, max(LONGEST_FIRST, self._poll_min), self._poll_max)
            self._plan(task, _on_grid(now + task.pause, task.pause), now)
            task.pause = min(task.pause * GROWTH, longest)

    def arrived(self, asked: int, count: int, size: int, now: float) -> None:
        """Learn from a read: fit the width to what came, and pull the oldest of the others forward.

        Args:
            asked: How many results were asked for.
            count: How many came.
            size: How many bytes they had together.
            now: The present.
        """
        self._asked_bytes += _SMOOTHING * (size / asked - self._asked_bytes)
        if not count:
            return
        self._answer_bytes += _SMOOTHING * (size / count - self._answer_bytes)
        pace = min(PACE, self._poll_max)
        due = math.ceil(now / pace + 1) * pace  # The same for all that are pulled forward meanwhile: one read for many.
        for task in itertools.islice(self._tasks, min(2 * count + _HEAD, MOST_PULLED)):
            if task.is_pushed or task.due is None:
                continue
            task.pause = min(task.pause, pace)
            if due < task.due < math.inf:
                self._plan(task, due, now)

    def next_due(self) -> float | None:
        """Tell when `take` is to be asked next. None is never."""
        heap = self._heap
        for _ in range(MAX_TAKEN):
            if not heap or heap[0][3].due == heap[0][2]:
                break
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _plan(self, task: PendingTask, due: float, now: float) -> None:
        task.due = due
        # What is outdated stays in the heap until its time comes, which is soon: so nothing is ever swept in one go.
        heapq.heappush(self._heap, (min(due, now + RECHECK), next(self._count), due, task))


def _on_grid(moment: float, pause: float) -> float:
    """Move a moment up to the next point of a grid of an eighth to a quarter of the pause."""
    step = math.ldexp(1.0, math.frexp(pause)[1] - 3)
    return math.ceil(moment / step) * step
