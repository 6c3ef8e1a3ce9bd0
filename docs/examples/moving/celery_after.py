"""With fibo-client: every get awaits."""

import asyncio

from fibo_client import ResultTimeoutError, TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

add = RemoteTask[[int, int], int]("proj.tasks.add")
divide = RemoteTask[[float, float], float]("proj.tasks.divide")


async def main():
    async with CeleryClient(queue="proj") as celery:
        result = await celery.send_task(add, (2, 3), expires=30)
        print(await result.get(timeout=10))

        later = celery.result(result.id)
        print(await later.ready(), await later.state())

        print(await celery.call_many([add(n, n) for n in range(5)], timeout=10))

        try:
            await celery.call(divide(1, 0), timeout=10)
        except TaskFailedError as error:  # the worker's class is not imported
            print(*error.exc_args)

        try:
            await celery.call(add(2, 3), queue="nobody-serves-this", timeout=0.3)
        except ResultTimeoutError:
            print("no answer yet")


asyncio.run(main())

# Prints:
# 5
# True SUCCESS
# [0, 2, 4, 6, 8]
# division by zero
# no answer yet
