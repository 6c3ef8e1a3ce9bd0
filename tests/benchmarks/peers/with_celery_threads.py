"""Celery's own client in threads, as in a service with an event loop: `asyncio.to_thread` for each call."""

import asyncio

import harness
from with_celery import TASK, Blocking, number


class Threads(Blocking):
    async def submit(self, count):
        return await asyncio.gather(*(asyncio.to_thread(self.app.send_task, TASK, (harness.N,)) for _ in range(count)))

    async def collect(self, sent):
        return await asyncio.gather(*(asyncio.to_thread(self.wait, result) for result in sent))

    def wait(self, result):
        return number(result.get(timeout=harness.TIMEOUT))

    def blocking_call(self):
        return number(self.app.send_task(TASK, (harness.N,)).get(timeout=harness.TIMEOUT))

    async def call(self):
        return await asyncio.to_thread(self.blocking_call)

    async def many_calls(self, count):
        return await asyncio.gather(*(self.call() for _ in range(count)))


if __name__ == "__main__":
    harness.main(Threads)
