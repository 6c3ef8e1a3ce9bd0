"""Send now; collect in another process, by the tasks' ids."""

import asyncio

from fibo_client import FIBONACCI, FiboClient


async def send():
    async with FiboClient() as client:
        handles = await client.submit_many([4, 3, 8])
        return [handle.id for handle in handles]  # text: keep it in a database, or a cookie


async def collect(ids):
    async with FiboClient() as client:
        handles = [client.celery.result(task_id, FIBONACCI) for task_id in ids]
        return await client.celery.gather(handles, timeout=5)


ids = asyncio.run(send())
print(asyncio.run(collect(ids)))

# Prints:
# [3, 2, 21]
