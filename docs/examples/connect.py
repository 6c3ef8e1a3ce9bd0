"""Connect to one Redis, which has both the tasks and the results."""

import asyncio
import os

from fibo_client import FiboClient


async def main():
    async with FiboClient() as client:  # CELERY_BROKER_URL, else redis://localhost:6379/0
        print(await client.fibonacci(10, timeout=5))

    url = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
    async with FiboClient(url) as client:  # the URL wins over the environment
        print(await client.fibonacci(11, timeout=5))


asyncio.run(main())

# Prints:
# 55
# 89
