"""A Celery task that awaits others, of another queue: ``celery -A loops.tasks worker``."""

import asyncio
import os

from celery import Celery

from fibo_client import LoopLocal
from fibo_client.celery import CeleryClient, RemoteTask

REDIS = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")

app = Celery("loops", broker=REDIS, backend=REDIS)
app.conf.task_default_queue = "loops"

celery = LoopLocal(CeleryClient)  # of all processes and threads of the worker
sqrt = RemoteTask[[float], float]("tasks.sqrt_task")


async def roots(numbers):
    client = await celery.get()
    return await client.call_many([sqrt(x) for x in numbers], timeout=20)


@app.task
def sum_of_roots(numbers):
    return sum(asyncio.run(roots(numbers)))
