"""Call the tasks of proj.tasks by the stubs in remote.py, which `fibo stubs` wrote."""

import asyncio

import remote

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient() as celery:
        print(await celery.call(remote.add(2, y=3), timeout=10))  # an int, to a type checker, too
        calls = [remote.divide(x, 4) for x in (1, 2, 3)]
        print(await celery.call_many(calls, timeout=10))
        try:
            remote.add(2, z=3)
        except TypeError as error:
            print(error)


asyncio.run(main())

# Prints:
# 5
# [0.25, 0.5, 0.75]
# proj.tasks.add(x: int, y: int): missing a required argument: 'y'
