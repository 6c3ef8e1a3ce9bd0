"""The client on uvloop's event loop, whose timers and transports are not asyncio's."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import eventually
from support.worker import NOTHING, leftovers

from fibo_client import FiboClient, ResultTimeoutError

uvloop = pytest.importorskip("uvloop", reason="uvloop does not run here")


def on_uvloop(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def test_numbers_are_answered_alone_together_and_in_streams(worker):
    async def main():
        async with FiboClient(worker.url) as client:
            assert await client.fibonacci_many([4, 3, 8, 6, 10], timeout=20) == [3, 2, 21, 8, 55]
            # More than travel at once, so that some are held back until others have arrived.
            numbers = [n % 300 for n in range(20_000)]
            alone = await asyncio.gather(*(client.fibonacci(n, timeout=30) for n in numbers))
            assert alone == await client.fibonacci_many(numbers, timeout=30)
            async with client.stream(range(3000), timeout=30) as results:
                assert sorted([n async for n, _ in results]) == list(range(3000))
            assert leftovers(client) == NOTHING

    on_uvloop(main())


def test_calls_that_are_cancelled_or_late_leave_nothing(redis_url):
    async def main():
        async with FiboClient(redis_url) as client:
            with pytest.raises(ResultTimeoutError):
                await client.fibonacci(5, timeout=0.2)
            calls = [asyncio.create_task(client.celery.call("tasks.sqrt_task", (n,), timeout=20)) for n in range(200)]
            calls += [asyncio.create_task(client.fibonacci(n, timeout=20)) for n in range(200)]
            await eventually(lambda: client.stats().published >= 201)
            for call in calls:
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []
            assert leftovers(client) == NOTHING

    on_uvloop(main())
