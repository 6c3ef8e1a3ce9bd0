"""arq. Two workers, as each has one process.

A user who cares for the time of one call shortens arq's two polls (0.5 s each): the worker's for jobs, the caller's for
the answer. So does this script, to 5 ms; but many callers at once, and the one who collects many, keep the caller's
default, which serves them better.
"""

import asyncio
import os

import harness
from arq import create_pool
from arq.connections import RedisSettings

POLL = 0.005


async def fib(ctx, n):
    return harness.fibonacci(n)


class WorkerSettings:
    functions = (fib,)
    redis_settings = RedisSettings.from_dsn(os.environ.get("BENCH_REDIS", "redis://localhost"))
    poll_delay = POLL
    keep_result = 600


class Arq(harness.Peer):
    packages = ("arq", "redis", "hiredis")
    workers = ((harness.program("arq"), "with_arq.WorkerSettings"),) * 2

    async def open(self):
        self.pool = await create_pool(RedisSettings.from_dsn(self.url))

    async def close(self):
        await self.pool.aclose()

    async def submit(self, count):
        return await asyncio.gather(*(self.pool.enqueue_job("fib", harness.N) for _ in range(count)))

    async def collect(self, sent):
        return await asyncio.gather(*(job.result(timeout=harness.TIMEOUT) for job in sent))

    async def call(self):
        job = await self.pool.enqueue_job("fib", harness.N)
        return await job.result(timeout=harness.TIMEOUT, poll_delay=POLL)

    async def call_among_many(self):
        job = await self.pool.enqueue_job("fib", harness.N)
        return await job.result(timeout=harness.TIMEOUT)

    async def forget(self):
        await self.pool.flushdb()


if __name__ == "__main__":
    harness.main(Arq)
