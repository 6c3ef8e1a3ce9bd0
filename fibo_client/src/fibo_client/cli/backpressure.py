"""Backpressure by bytes: a few long numbers take as much memory as very many short ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from inspect import isasyncgen
from typing import TYPE_CHECKING, Final

from fibo_client.batching.packing import reply_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

__all__ = ["MAX_BYTES", "Backpressure"]

MAX_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of answers, as they are sent, that are requested and not yet written."""


class Backpressure:
    """Holds a source back while the answers under way have too many bytes. A single answer of any size passes.

    Args:
        max_bytes: The most bytes.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._in_flight = 0
        self._room = asyncio.Event()

    async def limit(
        self, source: Iterable[int] | AsyncIterable[int], on_pull: Callable[[], object] = lambda: None
    ) -> AsyncIterator[int]:
        """Pass numbers on, each once there is room for its answer. `on_pull` is called for each."""
        numbers = aiter(source) if isinstance(source, AsyncIterable) else _each(source)
        try:
            async for n in numbers:
                size = reply_bytes(n)
                while self._in_flight and self._in_flight + size > self._max_bytes:
                    self._room.clear()
                    await self._room.wait()
                self._in_flight += size
                on_pull()
                yield n
        finally:
            if isasyncgen(numbers):
                await numbers.aclose()

    def release(self, n: int) -> None:
        """Free the room of a number whose answer is written."""
        self._in_flight -= reply_bytes(n)
        self._room.set()


async def _each(source: Iterable[int]) -> AsyncIterator[int]:
    for n in source:
        yield n
