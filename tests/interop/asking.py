"""Asks a worker in JavaScript: python asking.py redis://localhost:6379/0 queue"""

import asyncio
import sys

from fibo_client.celery import CeleryClient, RemoteTask

add = RemoteTask[[int, int], int]("js.add")
factorial = RemoteTask[[int], int]("js.factorial", decode=lambda text: int(text, 16))


async def main(url: str, queue: str) -> None:
    async with CeleryClient(url, queue=queue, timeout=10) as celery:
        print(await celery.call(add, (2, 3)))
        print(await celery.call(factorial, (30,)))


asyncio.run(main(*sys.argv[1:]))
