"""taskiq with taskiq-redis: its stream broker, two processes.

A user who cares for the time of one call shortens the caller's poll for the answer (0.2 s). So does this script, to 5
ms; but many callers at once, and the one who collects many, keep the default, which serves them better.
"""

import asyncio
import os

import harness
import redis.asyncio
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

POLL = 0.005
URL = os.environ.get("BENCH_REDIS", "redis://localhost")


def make(url):
    return RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url, result_ex_time=600))


async def fib(n):
    return harness.fibonacci(n)


broker = make(URL)
broker.register_task(fib, task_name="fib")


class Taskiq(harness.Peer):
    packages = ("taskiq", "taskiq-redis", "redis", "hiredis")
    workers = ((harness.program("taskiq"), "worker", "with_taskiq:broker", "--workers", "2"),)

    async def open(self):
        self.broker = make(self.url)
        self.fib = self.broker.register_task(fib, task_name="fib")
        await self.broker.startup()

    async def close(self):
        await self.broker.shutdown()

    async def submit(self, count):
        return await asyncio.gather(*(self.fib.kiq(harness.N) for _ in range(count)))

    async def collect(self, sent):
        return await asyncio.gather(*(self.wait(task) for task in sent))

    async def call(self):
        return await self.wait(await self.fib.kiq(harness.N), check_interval=POLL)

    async def call_among_many(self):
        return await self.wait(await self.fib.kiq(harness.N))

    async def wait(self, task, **options):
        return (await task.wait_result(timeout=harness.TIMEOUT, **options)).return_value

    async def forget(self):
        async with redis.asyncio.Redis.from_url(self.url) as connection:
            await connection.flushdb()
        # Its consumer group went, too.
        await self.broker.shutdown()
        await self.open()


if __name__ == "__main__":
    harness.main(Taskiq)
