"""streaQ: two worker processes.

Answers are pushed, so there is no poll to shorten. A wait holds one connection and needs a second one. With the few
that the client makes by default, some hundred callers block each other for ever, so this script allows it many.
"""

import asyncio
import os

import harness
from streaq import Worker

URL = os.environ.get("BENCH_REDIS", "redis://localhost")
MOST_CALLERS = 2500


def make(url):
    return Worker(redis_url=url, redis_kwargs={"max_connections": 2 * MOST_CALLERS})


async def fib(n):
    return harness.fibonacci(n)


worker = make(URL)
worker.task(name="fib")(fib)


class Streaq(harness.Peer):
    packages = ("streaq", "coredis")
    workers = ((harness.program("streaq"), "run", "with_streaq:worker", "--workers", "2"),)

    async def open(self):
        self.client = await make(self.url).__aenter__()
        self.fib = self.client.task(name="fib")(fib)

    async def close(self):
        await self.client.__aexit__(None, None, None)

    async def submit(self, count):
        tasks = [self.fib.enqueue(harness.N) for _ in range(count)]
        await self.client.enqueue_many(tasks)
        return tasks

    async def collect(self, sent):
        return await asyncio.gather(*(self.answer(task) for task in sent))

    async def call(self):
        return await self.answer(await self.fib.enqueue(harness.N))

    async def answer(self, task):
        return (await task.result(timeout=harness.TIMEOUT)).result

    async def forget(self):
        await self.client.redis.flushdb()


if __name__ == "__main__":
    harness.main(Streaq)
