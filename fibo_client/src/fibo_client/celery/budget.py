"""How long a loop over many things may hold the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, MutableSequence

T = TypeVar("T")

SECONDS: Final = 0.0002
"""Seconds after which the event loop gets its turn."""

EACH: Final = 16
"""How many things a loop does between two looks at the clock. A look costs as much as some of them."""

PIECE: Final = 256
"""The most results that one step begins to await, or leaves."""


class Budget:
    """Tells a loop when the event loop should have its turn, and gives it."""

    __slots__ = ("_count", "_end")

    def __init__(self) -> None:
        self._count = 0
        self._end = time.perf_counter() + SECONDS

    def is_spent(self, count: int = 1) -> bool:
        """Count things that were done; tell whether the time is up. Call it once for each thing, or for some."""
        self._count += count
        if self._count < EACH:
            return False
        self._count = 0
        return time.perf_counter() > self._end

    async def pause(self) -> None:
        """Give the event loop its turn, and begin anew."""
        await asyncio.sleep(0)
        self._count = 0
        self._end = time.perf_counter() + SECONDS


async def free(things: MutableSequence[Any]) -> None:
    """Empty a list that is no longer needed. Many things at once would take their time."""
    budget = Budget()
    while things:
        del things[-EACH:]
        if budget.is_spent(EACH):
            await budget.pause()


async def in_turns(steps: Generator[None, None, T], weight: int = 1, budget: Budget | None = None) -> T:
    """Take steps until they are done. The event loop gets its turn now and then.

    Args:
        steps: Yields after each.
        weight: For how many things each counts. See `Budget.is_spent`.
        budget: The caller's, who does this many times.

    Returns:
        What the steps return.
    """
    budget = budget or Budget()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        if budget.is_spent(weight):
            await budget.pause()


def cancel_in_turns(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel many tasks. The event loop gets its turn now and then."""
    budget = Budget()
    while tasks:
        tasks.pop().cancel()
        if tasks and budget.is_spent():
            asyncio.get_running_loop().call_soon(cancel_in_turns, tasks, context=contextvars.Context())
            return


def at_once(steps: Generator[None, None, T]) -> T:
    """Take steps until they are done, all of them now."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
