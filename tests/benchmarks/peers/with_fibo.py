"""This project's client, over the plain Celery worker: one task a value, as the others."""

import asyncio

import harness
import redis.asyncio
from with_celery import TASK, number, worker

from fibo_client.celery import CeleryClient, RemoteTask

FIB = RemoteTask(TASK)


class Fibo(harness.Peer):
    packages = ("fibo-client", "redis", "hiredis")

    def __init__(self, url, tasks):
        super().__init__(url, tasks)
        self.workers, self.environment = worker(url)

    async def open(self):
        self.client = await CeleryClient(self.url).open()

    async def close(self):
        await self.client.aclose()

    async def submit(self, count):
        return await self.client.send_many([FIB(harness.N)] * count)

    async def collect(self, sent):
        return [number(answer) for answer in await self.client.gather(sent, timeout=harness.TIMEOUT)]

    async def call(self):
        return number(await self.client.call(FIB, (harness.N,), timeout=harness.TIMEOUT))

    async def many_calls(self, count):
        return await asyncio.gather(*(self.call() for _ in range(count)))

    async def forget(self):
        async with redis.asyncio.Redis.from_url(self.url) as connection:
            await connection.flushdb()


if __name__ == "__main__":
    harness.main(Fibo)
