"""Connect to two Redis servers: tasks go to one, results come from the other."""

import asyncio
import os

from fibo_client.celery import CeleryClient

TASKS = os.environ["TASKS_URL"]  # such as redis://queues.example:6379/0
RESULTS = os.environ["RESULTS_URL"]  # such as redis://results.example:6379/1


async def main():
    async with CeleryClient(TASKS, RESULTS, queue="proj") as celery:
        print(await celery.call("proj.tasks.add", (2, 3), timeout=5))


asyncio.run(main())

# Prints:
# 5
