"""Without threads: a wait is a future, and ten thousand of them share one connection."""

import asyncio

from fibo_client.celery import CeleryClient, RemoteTask

add = RemoteTask[[int, int], int]("proj.tasks.add")


async def main():
    async with CeleryClient(queue="proj") as celery:
        print(await celery.call(add(2, 3), timeout=10))

        calls = [celery.call(add(n, n), timeout=10) for n in range(5)]
        print(await asyncio.gather(*calls))


asyncio.run(main())

# Prints:
# 5
# [0, 2, 4, 6, 8]
