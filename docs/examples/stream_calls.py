"""Calls of your own tasks for a source of any length, in bounded memory."""

import asyncio

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

add = RemoteTask[[int, int], int]("proj.tasks.add", chunkable=True)
divide = RemoteTask[[float, float], float]("proj.tasks.divide")


async def orders():
    """What comes in: it never ends."""
    n = 0
    while True:
        yield n, 2 * n
        n += 1
        await asyncio.sleep(0)


async def main():
    async with CeleryClient(queue="proj") as celery:
        # In the order of the source. Leaving the block stops the source and revokes what is unfinished.
        async with celery.stream(lambda pair: add(*pair), orders(), ordered=True) as answers:
            async for pair, total in answers:
                if total > 20:
                    break
        print(pair, total)

        # As they are answered. 500 calls share a message, because `add` is declared as chunkable.
        most = 0
        async with celery.stream(lambda n: add(n, 1), range(10_000), chunk_size=500) as answers:
            async for _n, total in answers:
                most = max(most, total)
        print(most)

        # One that fails gives its error in place of an answer.
        async with celery.stream(lambda n: divide(6, n), [2, 0, 3], ordered=True, return_exceptions=True) as answers:
            async for n, answer in answers:
                print(n, answer.exc_type if isinstance(answer, TaskFailedError) else answer)


asyncio.run(main())

# Prints:
# (7, 14) 21
# 10000
# 2 3.0
# 0 ZeroDivisionError
# 3 2.0
