"""Which results to read, and when. Pure: the time is handed in.

Every awaited result has a moment at which it is due for reading. It is `poll_min` away at first, and after each read
that shows nothing the pause grows by a quarter, up to `poll_max`: an answer is noticed within a quarter of the time
that it took. Four things bend that rule:

- The first read of a lone result comes when answers have lately come, a few milliseconds later at most. A read that is
  too early takes time from a worker on the same machine, and the event loop's clock has steps of a millisecond.
- A result that is pushed needs reading only as a safety net, every `poll_max`.
- When results arrive, their neighbours are likely to be next, because workers take tasks in order: the oldest
  ones are pulled forward. So a long batch is followed closely at its head, at the cost of a few reads.
- Moments lie on a grid that is coarser for longer pauses, so that many results are read in one command.

When more is due than one read takes, the longest overdue go first: neither the old nor the young can starve.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

GROWTH: Final = 1.25
"""What a pause is multiplied by after a read that showed nothing."""

PACE: Final = 0.01
"""Seconds between two reads of the oldest results while results are arriving."""

LONGEST_FIRST: Final = 0.005
"""The longest pause before the first read of a result, in seconds."""

AFTER_PUSH: Final = 0.005
"""Seconds between the beginning of push and the one read that makes up for what was stored before it."""

MAX_WIDTH: Final = 500
"""The most results in one read."""

_REPLY_BYTES: Final = 4 * 1024 * 1024
_HEAD: Final = 8
_SMOOTHING: Final = 0.2
_SOONER: Final = 0.98  # What the pause before a first read is multiplied by after one that showed an answer,
_LATER: Final = 1.06  # and after one that did not: in balance, three of four do.


@dataclass(slots=True)
class _Slot:
    due: float
    pause: float
    bulky: bool
    pushed: bool = False
    first: bool = False
    """Whether the next read is the first one, from which there is something to learn."""


class Schedule:
    """When each awaited result is to be read.

    Args:
        poll_min: The shortest pause, in seconds.
        poll_max: The longest pause, in seconds.
    """

    def __init__(self, *, poll_min: float, poll_max: float) -> None:
        self._poll_min = poll_min
        self._poll_max = poll_max
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._heap: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        self._bytes = 0.0
        self._first = poll_min
        self._bulky = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def width(self) -> int:
        """How many results the next read may ask for: fewer, the larger the answers have been."""
        return max(1, min(MAX_WIDTH, int(_REPLY_BYTES / max(self._bytes, 1.0))))

    def add(self, task_id: str, now: float, *, first: float | None = None, place: int = 0, bulky: bool = False) -> None:
        """Begin to read a result.

        Args:
            task_id: The task's id.
            now: The present.
            first: Seconds until the first read. None is what has been learnt.
            place: How many were sent together with it, before it. Workers will come to it after those, so the more
                there are, the longer its first pauses.
            bulky: Whether a large answer is expected. Then all of that kind that are awaited already count as before
                it: their tasks take long.
        """
        if task_id not in self._slots:
            ahead = self._bulky if bulky else place
            self._bulky += bulky
            pause = min(self._poll_min * (1 + ahead / _HEAD), self._poll_max)
            self._slots[task_id] = slot = _Slot(now, pause, bulky, first=first is None and not ahead)
            if first is None:
                first = pause if ahead else self._first
            self._plan(task_id, slot, now + first)

    def remove(self, task_id: str) -> None:
        """Stop reading a result.

        Args:
            task_id: The task's id.
        """
        slot = self._slots.pop(task_id, None)
        if slot is not None:
            self._bulky -= slot.bulky
            if slot.first and slot.due == math.inf:  # It is being read, and it is there.
                self._first = max(self._first * _SOONER, self._poll_min)
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._slots):
            self._sweep()

    def hurry(self, task_id: str, now: float) -> None:
        """Read a result at the next opportunity.

        Args:
            task_id: The task's id.
            now: The present.
        """
        slot = self._slots.get(task_id)
        if slot is not None and slot.due > now:
            self._plan(task_id, slot, now)

    def set_pushed(self, task_id: str, now: float, *, pushed: bool) -> None:
        """Tell whether a result is pushed. Either way it is read once more, for it may have been stored before.

        At once if it is not pushed; and if it is, after a moment in which most of them come by push.

        Args:
            task_id: The task's id.
            now: The present.
            pushed: Whether a subscription to it is in force.
        """
        slot = self._slots.get(task_id)
        if slot is not None:
            slot.pushed = pushed
            slot.first = False
            slot.pause = self._poll_min
            self._plan(task_id, slot, now + AFTER_PUSH if pushed else now)

    def take(self, now: float) -> list[str]:
        """Choose what the next read asks for.

        Args:
            now: The present.

        Returns:
            Ids, the longest overdue first; none when nothing is due. Each must be given back to `missed`, unless it
            is removed.
        """
        batch: list[str] = []
        width = self.width
        while self._heap and self._heap[0][0] <= now and len(batch) < width:
            due, _, task_id = heapq.heappop(self._heap)
            slot = self._slots.get(task_id)
            if slot is not None and slot.due == due:
                slot.due = math.inf
                batch.append(task_id)
        return batch

    def missed(self, task_ids: Iterable[str], now: float) -> None:
        """Plan the next read of results that are not there yet.

        Args:
            task_ids: The ids.
            now: The present.
        """
        for task_id in task_ids:
            slot = self._slots.get(task_id)
            if slot is None or slot.due != math.inf:  # Gone, or planned anew while it was being read.
                continue
            if slot.pushed:
                slot.pause = self._poll_max
            if slot.first:
                slot.first = False
                self._first = min(self._first * _LATER, max(LONGEST_FIRST, self._poll_min), self._poll_max)
            self._plan(task_id, slot, _on_grid(now + slot.pause, slot.pause))
            slot.pause = min(slot.pause * GROWTH, self._poll_max)

    def arrived(self, count: int, size: int, now: float) -> None:
        """Learn from results that came: pull the oldest of the others forward, and fit the width to their size.

        Args:
            count: How many came.
            size: How many bytes they had together.
            now: The present.
        """
        self._bytes += _SMOOTHING * (size / count - self._bytes)
        pace = min(PACE, self._poll_max)
        due = math.ceil(now / pace + 1) * pace  # The same for all that are pulled forward meanwhile: one read for many.
        for task_id, slot in itertools.islice(self._slots.items(), 2 * count + _HEAD):
            if slot.pushed:
                continue
            slot.pause = min(slot.pause, pace)
            if due < slot.due < math.inf:
                self._plan(task_id, slot, due)

    def next_due(self) -> float | None:
        """Tell when the next read is due.

        Returns:
            The moment, or None when there is nothing to read.
        """
        while self._heap:
            due, _, task_id = self._heap[0]
            slot = self._slots.get(task_id)
            if slot is not None and slot.due == due:
                return due
            heapq.heappop(self._heap)
        return None

    def _plan(self, task_id: str, slot: _Slot, due: float) -> None:
        slot.due = due
        heapq.heappush(self._heap, (due, next(self._count), task_id))

    def _sweep(self) -> None:
        """Drop what is outdated, so that the heap stays in proportion to what is awaited."""
        self._heap = [
            (slot.due, next(self._count), task_id) for task_id, slot in self._slots.items() if slot.due != math.inf
        ]
        heapq.heapify(self._heap)


def _on_grid(moment: float, pause: float) -> float:
    """Move a moment up to the next point of a grid of an eighth to a quarter of the pause."""
    step = math.ldexp(1.0, math.frexp(pause)[1] - 3)
    return math.ceil(moment / step) * step
