"""Harm a protected worker, and see that it goes on."""

import asyncio
import os

from redis import Redis

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient
from fibo_worker.guard import DeadLetter, DeadLetters

REDIS = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")


async def main():
    redis = Redis.from_url(REDIS)
    async with CeleryClient(REDIS, queue="shop", timeout=10) as celery:
        redis.lpush("shop", '["not", "a", "task"]')  # ends a stock worker
        try:
            await celery.call("shop.tasks.catalogue", (10**9,))  # so does its MemoryError
        except TaskFailedError as error:
            print(error.exc_type)
        print(await celery.call("shop.tasks.total", ([3, 4],)))
    for each in DeadLetters(redis, "shop").stored():
        dead_letter = DeadLetter.decode(each)
        print(dead_letter.reason, dead_letter.raw)


asyncio.run(main())

# Prints:
# MemoryError
# 7
# it is not a JSON object b'["not", "a", "task"]'
