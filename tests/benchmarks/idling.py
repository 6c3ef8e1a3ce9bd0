"""What waiting costs while nothing happens, and what importing the client costs."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

from support.servers import RedisServer
from tests.benchmarks import imports
from tests.benchmarks.bench import N
from tests.benchmarks.report import Row

from fibo_client import FIBO_TASK, FiboClient

if TYPE_CHECKING:
    import redis as redis_py
    from tests.benchmarks.bench import Bench

REPEATS = 2
IMPORTS = 5
SETTLE = 3
"""Seconds until the first polls, which are quicker, are over."""


def pending(here: Bench) -> list[Row]:
    """Wait for results that do not come, on a Redis that serves nobody else, and count the commands."""
    count, seconds = here.sizes.pending, here.sizes.watched
    row = Row(
        f"{count:,} pending results, nothing finishing",
        "commands/s",
        "less",
        goal=2,
        beside=None,
        note="one waiter a result, with push; a Redis of its own, whose own count is read before and after "
        f"{seconds:g} seconds; the bench's own INFO is not counted.",
    )
    repeats = min(here.repeats, REPEATS)
    for repeat in range(repeats):
        with RedisServer() as server, server.client() as redis:
            row.add(here.run(commands(server.url, redis, count, seconds)))
        here.tell(row, repeat, repeats)
    return [row]


async def commands(url: str, redis: redis_py.Redis, count: int, seconds: float) -> float:
    """Give the commands a second while results are waited for."""
    async with FiboClient(url) as client:
        handles = await client.submit_many([N] * count, task=FIBO_TASK)
        waiters = [asyncio.create_task(handle.get(timeout=None)) for handle in handles]
        await asyncio.sleep(SETTLE)
        before, began = counted(redis), time.monotonic()
        await asyncio.sleep(seconds)
        rate = (counted(redis) - before) / (time.monotonic() - began)
        for waiter in waiters:
            if waiter.done():
                raise RuntimeError("a result came, or its waiter failed")
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
    return rate


def counted(redis: redis_py.Redis) -> int:
    """Count the commands that the server has run, INFO apart."""
    stats = redis.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")


def importing(here: Bench) -> list[Row]:
    """Import the client, and redis.asyncio, which it needs."""
    beside = "import redis.asyncio"
    whole = Row("python -c 'import fibo_client.client'", "ms", "less", beside=beside)
    alone = Row(
        "import fibo_client.client",
        "ms",
        "less",
        goal=1.1,
        beside=beside,
        note="the median of five fresh interpreters of each, in turns, less the time that one takes to import nothing.",
    )
    for repeat in range(here.repeats):
        ours, theirs = (statistics.median(times) * 1e3 for times in imports.import_times(IMPORTS))
        nothing = statistics.median(imports.lifetime("sys") for _ in range(IMPORTS)) * 1e3
        whole.add(ours, theirs)
        alone.add(ours - nothing, theirs - nothing)
        here.tell(alone, repeat, here.repeats)
    return [alone, whole]
