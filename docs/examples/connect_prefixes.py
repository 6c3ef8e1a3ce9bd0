"""Share a Redis with others: every key has a prefix, the same as in the worker's settings."""

import asyncio

from fibo_client.celery import CeleryClient, RedisOptions


async def main():
    prefixes = RedisOptions(broker_prefix="shop:", result_prefix="shop:")
    async with CeleryClient(queue="proj", redis=prefixes) as celery:
        print(await celery.call("proj.tasks.add", (2, 3), timeout=5))


asyncio.run(main())

# Prints:
# 5
