"""The worker of fibo-worker with its defaults, and a count of the values that it computes.

``celery -A tests.benchmarks.counted worker``. The count is in memory that the worker's processes share. It is asked for
by the control command ``computed``.
"""

import multiprocessing

from celery.signals import task_prerun
from celery.worker.control import inspect_command

from fibo_client.contract import FIBONACCI_CHUNK
from fibo_worker.app import app

__all__ = ["app"]

# Made before the worker forks, so that its processes share them.
values = multiprocessing.get_context("fork").Value("q", 0)
tasks = multiprocessing.get_context("fork").Value("q", 0)


@task_prerun.connect
def count(task=None, args=(), **_):
    # Before the task, so that whoever has the answer finds it counted.
    with values.get_lock():
        values.value += len(args[0]) if task.name == FIBONACCI_CHUNK.name else 1
        tasks.value += 1


@inspect_command()
def computed(state):
    with values.get_lock():
        return {"values": values.value, "tasks": tasks.value}
