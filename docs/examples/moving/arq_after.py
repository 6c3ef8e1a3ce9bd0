"""With a Celery worker (``celery -A proj.tasks worker``) and fibo-client."""

import asyncio

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient(queue="proj") as celery:
        result = await celery.send_task("proj.tasks.add", (2, 3))
        print(await result.get(timeout=10))


asyncio.run(main())

# Prints:
# 5
