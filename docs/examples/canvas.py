"""Tasks that follow each other on the workers: they go on although this program ends."""

import asyncio

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group

add = RemoteTask[..., int]("proj.tasks.add")
divide = RemoteTask[..., float]("proj.tasks.divide")


async def main():
    async with CeleryClient(queue="proj") as celery:
        # One after the other. Each gets the result of the one before as its first argument.
        print(await celery.call(chain(add(1, 1), add.s(2), add.s(3)), timeout=10))
        print(await celery.call(add(1, 1) | add.s(2) | add(5, 5).immutable(), timeout=10))

        # Beside each other.
        print(await celery.call(group(add(n, n) for n in range(3)), timeout=10))

        # And then one that gets all their results in a list. celery.accumulate is a task of every worker.
        collect = RemoteTask[..., list[int]]("celery.accumulate")
        print(await celery.call(chord([add(1, 1), add(2, 2)], collect.s(index=0)), timeout=10))

        # Handed out, and followed.
        result = await celery.send(chain(add(1, 1), group(add.s(10), add.s(20))))
        print(await result.get(timeout=10), await result.states())

        # The first that fails ends the wait. The error names it.
        try:
            await celery.call(chain(divide(1, 0), add.s(2)), timeout=10)
        except TaskFailedError as error:
            print(error.task, error.exc_type)


asyncio.run(main())

# Prints:
# 7
# 10
# [0, 2, 4]
# [2, 4]
# [12, 22] ['SUCCESS', 'SUCCESS', 'SUCCESS']
# proj.tasks.divide ZeroDivisionError
