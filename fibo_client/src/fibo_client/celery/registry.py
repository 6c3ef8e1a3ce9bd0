"""Who waits for which results, and until when. Pure: the time is handed in, and so is what came.

Every result settles its waiters exactly once, however often and from wherever it comes. A waiter ends when all that
it waits for is there, or at its deadline; but a deadline counts only after a last read that began shortly before it
(`LAST_LOOK`), so that no time-out is raised over an answer that is there. If that read itself does not come back,
the waiter ends `GRACE` later all the same.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fibo_client.celery.protocol.meta import pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fibo_client.celery.protocol.meta import TaskMeta

LAST_LOOK: Final = 0.05
"""How long before a deadline the last read begins, in seconds; with a shorter timeout, after half of it."""

GRACE: Final = 0.04
"""How long after a deadline a last read that is under way is waited for, in seconds."""


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody who waits for results.

    Attributes:
        deadline: When to give up. Infinity is never.
        read_from: A read that began at or after this counts as the last look.
        missing: The ids that have no answer yet, in order.
        arrived: The answers by id: the task's meta, or the error in its place.
        once: Whether a single read of each id is enough, whatever it shows.
        end_on_failure: Whether it is over as soon as one answer is a failure.
        bulky: Whether large answers are expected.
        on_over: Called once, when the waiter is over.
        on_change: Called with each new state that is not final.
        on_answer: Called with each answer, as it comes.
        timed_out: Whether it ended by its deadline.
        error: Why it ended without all answers, if not by its deadline.
        looks: How often missing results were read.
    """

    deadline: float
    read_from: float
    missing: dict[str, None]
    on_over: Callable[[], None]
    once: bool = False
    end_on_failure: bool = False
    bulky: bool = False
    on_change: Callable[[TaskMeta], None] | None = None
    on_answer: Callable[[str, TaskMeta | Exception], None] | None = None
    arrived: dict[str, TaskMeta | Exception] = field(default_factory=dict)
    timed_out: bool = False
    error: Exception | None = None
    over: bool = False
    looks: int = 0
    number: int = 0
    """Its place among those with a deadline; 0 is none."""


@dataclass(slots=True)
class _Awaited:
    """A result that somebody waits for."""

    waiters: list[Waiter] = field(default_factory=list)
    seen: TaskMeta | None = None
    looked: float = -math.inf
    """When the last read that came back began."""


class Registry:
    """All waiters of a client."""

    def __init__(self) -> None:
        self._awaited: dict[str, _Awaited] = {}
        # Those with a deadline, by a number. The heaps have the numbers only: one that is over stays in them for a
        # while, and must not keep its answers alive.
        self._timed: dict[int, Waiter] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._looks: list[tuple[float, int]] = []
        self._overdue: deque[int] = deque()
        self._count = itertools.count(1)

    def __len__(self) -> int:
        """Count the results that somebody waits for."""
        return len(self._awaited)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._awaited

    def add(self, waiter: Waiter) -> list[str]:
        """Enter a waiter.

        Args:
            waiter: It waits for everything in its `missing`.

        Returns:
            The ids among them that nobody waited for until now.
        """
        new = []
        for task_id in waiter.missing:
            awaited = self._awaited.get(task_id)
            if awaited is None:
                awaited = self._awaited[task_id] = _Awaited()
                new.append(task_id)
            awaited.waiters.append(waiter)
            if awaited.seen is not None and waiter.on_change is not None:
                waiter.on_change(awaited.seen)
        if waiter.deadline < math.inf:
            if len(self._deadlines) > 64 and len(self._deadlines) > 4 * len(self._timed):
                self._sweep()
            waiter.number = next(self._count)
            self._timed[waiter.number] = waiter
            heapq.heappush(self._deadlines, (waiter.deadline, waiter.number))
            heapq.heappush(self._looks, (waiter.read_from, waiter.number))
        return new

    def discard(self, waiter: Waiter) -> list[str]:
        """Forget a waiter, over or not. It is not called any more.

        Args:
            waiter: The waiter.

        Returns:
            The ids that nobody waits for any more.
        """
        return [] if waiter.over else self._end(waiter)

    def arrive(self, task_id: str, answer: TaskMeta | Exception) -> list[str]:
        """Take what came for a task. An answer that is not final leaves the waiters waiting.

        Args:
            task_id: The task's id.
            answer: Its meta, or the error with which reading it failed.

        Returns:
            The ids that nobody waits for any more.
        """
        awaited = self._awaited.get(task_id)
        if awaited is None:
            return []
        if isinstance(answer, Exception) or answer.ready:
            del self._awaited[task_id]
            free = [task_id]
            for waiter in awaited.waiters:
                free += self._settle(waiter, task_id, answer)
            return free
        if answer != awaited.seen:
            awaited.seen = answer
            for waiter in awaited.waiters:
                if waiter.on_change is not None:
                    waiter.on_change(answer)
        return []

    def looked(self, task_ids: Iterable[str], began: float, *, absent: bool = False) -> list[str]:
        """Take note that results were read, and are not final.

        Args:
            task_ids: The ids.
            began: When the read began.
            absent: Whether nothing is stored for them.

        Returns:
            The ids that nobody waits for any more, because one look was all they wanted.
        """
        free = []
        for task_id in task_ids:
            awaited = self._awaited.get(task_id)
            if awaited is None:
                continue
            awaited.looked = began
            for waiter in awaited.waiters:
                waiter.looks += 1
            content = [waiter for waiter in awaited.waiters if waiter.once and began >= waiter.read_from]
            for waiter in content:
                awaited.waiters.remove(waiter)
                seen = None if absent else awaited.seen
                free += self._settle(waiter, task_id, seen or pending(task_id))
            if not awaited.waiters:
                del self._awaited[task_id]
                free.append(task_id)
        return free

    def unreadable(self, task_ids: Iterable[str], error: Exception) -> list[str]:
        """Take note that results could not be read. Those who wanted one look only are told so.

        Args:
            task_ids: The ids.
            error: Why.

        Returns:
            The ids that nobody waits for any more.
        """
        content = {
            id(waiter): waiter
            for task_id in task_ids
            if (awaited := self._awaited.get(task_id)) is not None
            for waiter in awaited.waiters
            if waiter.once
        }
        return self.fail(content.values(), error)

    def fail(self, waiters: Iterable[Waiter], error: Exception) -> list[str]:
        """End waiters with an error.

        Args:
            waiters: The waiters.
            error: Why.

        Returns:
            The ids that nobody waits for any more.
        """
        free: list[str] = []
        for waiter in waiters:
            if not waiter.over:
                waiter.error = error
                free += self._end(waiter)
                waiter.on_over()
        return free

    def everybody(self) -> list[Waiter]:
        """List all waiters.

        Returns:
            The waiters, each once.
        """
        return list({id(waiter): waiter for awaited in self._awaited.values() for waiter in awaited.waiters}.values())

    def last_looks(self, now: float) -> tuple[list[str], bool]:
        """Tell which results must be read now, because somebody's deadline is near.

        Args:
            now: The present.

        Returns:
            The ids, and whether one of those whose time is nearly up has waited, rather than asked for a single read.
        """
        ids: dict[str, None] = {}
        waited = False
        while self._looks and (self._looks[0][1] not in self._timed or self._looks[0][0] <= now):
            waiter = self._timed.get(heapq.heappop(self._looks)[1])
            if waiter is not None:
                ids.update(waiter.missing)
                waited = waited or not waiter.once
        return list(ids), waited

    def expire(self, now: float, limit: int) -> tuple[list[str], bool]:
        """End the waiters whose deadline has passed.

        Args:
            now: The present.
            limit: The most to end at a time.

        Returns:
            The ids that nobody waits for any more, and whether there is more to do at once.
        """
        while self._deadlines and (self._deadlines[0][1] not in self._timed or self._deadlines[0][0] <= now):
            self._overdue.append(heapq.heappop(self._deadlines)[1])
        free: list[str] = []
        for _ in range(len(self._overdue)):
            waiter = self._timed.get(self._overdue.popleft())
            if waiter is None:
                continue
            if now < waiter.deadline + GRACE and not self._has_looked(waiter):
                self._overdue.append(waiter.number)
                continue
            waiter.timed_out = True
            free += self._end(waiter)
            waiter.on_over()
            limit -= 1
            if not limit:
                return free, bool(self._overdue)
        return free, False

    def next_deadline(self) -> float | None:
        """Tell when `expire` has something to do.

        Returns:
            The moment, or None while nobody waits with a deadline.
        """
        while self._deadlines and self._deadlines[0][1] not in self._timed:
            heapq.heappop(self._deadlines)
        moments = [self._timed[number].deadline + GRACE for number in self._overdue if number in self._timed]
        if self._deadlines:
            moments.append(self._deadlines[0][0])
        return min(moments, default=None)

    def next_look(self) -> float | None:
        """Tell when `last_looks` has something to say.

        Returns:
            The moment, or None.
        """
        while self._looks and self._looks[0][1] not in self._timed:
            heapq.heappop(self._looks)
        return self._looks[0][0] if self._looks else None

    def _sweep(self) -> None:
        """Drop the deadlines of waiters that are over, so that memory follows what is awaited now."""
        for heap in (self._deadlines, self._looks):
            heap[:] = [entry for entry in heap if entry[1] in self._timed]
            heapq.heapify(heap)

    def _has_looked(self, waiter: Waiter) -> bool:
        return all(self._awaited[task_id].looked >= waiter.read_from for task_id in waiter.missing)

    def _settle(self, waiter: Waiter, task_id: str, answer: TaskMeta | Exception) -> list[str]:
        del waiter.missing[task_id]
        waiter.arrived[task_id] = answer
        if waiter.on_answer is not None:
            waiter.on_answer(task_id, answer)
        if not waiter.missing:
            waiter.over = True
            self._timed.pop(waiter.number, None)
            waiter.on_over()
        elif waiter.end_on_failure and (isinstance(answer, Exception) or answer.failure is not None):
            free = self._end(waiter)
            waiter.on_over()
            return free
        return []

    def _end(self, waiter: Waiter) -> list[str]:
        waiter.over = True
        self._timed.pop(waiter.number, None)
        free = []
        for task_id in waiter.missing:
            awaited = self._awaited[task_id]
            awaited.waiters.remove(waiter)
            if awaited.seen is not None:
                waiter.arrived[task_id] = awaited.seen  # The last state seen, for the error to tell.
            if not awaited.waiters:
                del self._awaited[task_id]
                free.append(task_id)
        return free


def last_look(timeout: float, now: float, deadline: float) -> float:
    """Tell from when on a read counts as the last look.

    Args:
        timeout: How long is waited, in seconds.
        now: The present.
        deadline: When the wait ends.

    Returns:
        The moment: `LAST_LOOK` before the deadline, or half-way if the wait is shorter than twice that.
    """
    return max(deadline - LAST_LOOK, now + timeout / 2)
