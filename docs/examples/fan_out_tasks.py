"""Many of your own tasks at once. One that fails, fails alone."""

import asyncio

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

add = RemoteTask[[int, int], int]("proj.tasks.add", chunkable=True)
divide = RemoteTask[[float, float], float]("proj.tasks.divide")


async def main():
    async with CeleryClient(queue="proj") as celery:
        # Send and wait.
        print(await celery.call_many([add(n, n) for n in range(5)], timeout=10))

        # One that fails would end the call. Keep its error in its place instead.
        answers = await celery.call_many([divide(6, 2), divide(1, 0)], timeout=10, return_exceptions=True)
        for answer in answers:
            print(answer.exc_type if isinstance(answer, TaskFailedError) else answer)

        # Send now, collect later. gather waits for all of them with one deadline.
        handles = await celery.send_many([add(1, 2), add(3, 4)])
        print(await celery.gather(handles, timeout=10))

        # Or take each as it ends.
        handles = await celery.send_many(add(n, n) for n in range(100))
        async for handle in celery.as_completed(handles, timeout=10):
            assert await handle in range(0, 200, 2)

        # Small ones share messages: here, 500 calls each.
        print(len(await celery.call_many([add(n, n) for n in range(5_000)], chunk_size=500, timeout=10)))


asyncio.run(main())

# Prints:
# [0, 2, 4, 6, 8]
# 3.0
# ZeroDivisionError
# [3, 7]
# 5000
