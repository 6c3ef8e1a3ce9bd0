"""How many bytes of answers may be under way: a few long numbers take as much memory as very many short ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from inspect import isasyncgen
from typing import TYPE_CHECKING, Final

from fibo_client.packing import reply_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

__all__ = ["BYTES", "Budget"]

BYTES: Final = 64 * 1024 * 1024
"""What answers that are asked for and not yet written may be long altogether, as they travel."""


class Budget:
    """Holds a source back while the answers to what was taken from it are too long altogether.

    One is let through, however long it is.

    Args:
        limit: The most bytes.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self._limit = limit
        self._spent = 0
        self._room = asyncio.Event()

    async def spend(self, source: Iterable[int] | AsyncIterable[int]) -> AsyncIterator[int]:
        """Give the numbers of a source, each once there is room for its answer.

        Args:
            source: The numbers.

        Yields:
            Each of them.
        """
        numbers = aiter(source) if isinstance(source, AsyncIterable) else _each(source)
        try:
            async for n in numbers:
                size = reply_bytes(n)
                while self._spent and self._spent + size > self._limit:
                    self._room.clear()
                    await self._room.wait()
                self._spent += size
                yield n
        finally:
            if isasyncgen(numbers):
                await numbers.aclose()

    def give_back(self, n: int) -> None:
        """Note that an answer is out of memory.

        Args:
            n: The number.
        """
        self._spent -= reply_bytes(n)
        self._room.set()


async def _each(source: Iterable[int]) -> AsyncIterator[int]:
    for n in source:
        yield n
