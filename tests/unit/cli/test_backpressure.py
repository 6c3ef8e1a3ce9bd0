"""A source of numbers is held back while too many bytes of answers are under way."""

from __future__ import annotations

import asyncio

from support.clock import virtual

from fibo_client.batching.packing import reply_bytes
from fibo_client.cli.backpressure import Backpressure


@virtual
async def test_a_source_is_held_back_until_answers_are_written():
    size = reply_bytes(10_000)
    backpressure = Backpressure(2 * size)
    numbers = backpressure.limit(iter([10_000, 10_000, 10_000, 10_000, 100_000]))
    assert [await anext(numbers), await anext(numbers)] == [10_000, 10_000]
    waiting = asyncio.ensure_future(anext(numbers))
    await asyncio.sleep(1)
    assert not waiting.done()
    backpressure.release(10_000)
    assert await waiting == 10_000
    # One that is over the limit by itself waits until it is alone.
    backpressure.release(10_000)
    backpressure.release(10_000)
    assert await anext(numbers) == 10_000
    waiting = asyncio.ensure_future(anext(numbers))
    await asyncio.sleep(1)
    assert not waiting.done()
    backpressure.release(10_000)
    assert await waiting == 100_000


async def test_a_source_that_is_left_is_closed():
    closed = []

    async def source():
        try:
            yield 1
        finally:
            closed.append(True)

    numbers = Backpressure().limit(source())
    assert await anext(numbers) == 1
    await numbers.aclose()
    assert closed == [True]
