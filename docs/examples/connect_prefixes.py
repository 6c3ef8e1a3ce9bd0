"""Share a Redis with others: every key has a prefix, the same as in the worker's settings."""

import asyncio

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient(queue="proj", broker_prefix="shop:", result_prefix="shop:") as celery:
        print(await celery.call("proj.tasks.add", (2, 3), timeout=5))


asyncio.run(main())

# Prints:
# 5
