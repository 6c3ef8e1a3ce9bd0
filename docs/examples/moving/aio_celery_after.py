"""With fibo-client, over Redis."""

import asyncio

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient() as celery:  # CELERY_BROKER_URL
        result = await celery.send_task("proj.tasks.add", (2, 3), queue="proj")
        print(await result.get(timeout=10))
        print(await result.state())


asyncio.run(main())

# Prints:
# 5
# SUCCESS
