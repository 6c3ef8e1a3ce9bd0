"""What a worker of each version hosts: the tasks of `support.stock`, and some more that depend on Celery alone.

``celery -A versions.hosted worker``. It needs nothing of this project.
"""

import datetime as dt
import decimal
import time
import uuid
from pathlib import Path

from support.stock import app, task

__all__ = ["app"]


@task(name="fibo.fibonacci_chunk")
def fibonacci_chunk(numbers):
    """What `fibo_client.contract.FIBONACCI_CHUNK` says, as somebody else would write it."""
    return [f"{fibonacci(n):x}" if n < 1000 else {"error": ["ValueError", f"{n} is too large"]} for n in numbers]


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


class OutOfStockError(Exception):
    """An exception that the client's side does not know."""


@task(name="hosted.order")
def order(*items):
    raise OutOfStockError(*items)


@task(name="hosted.retry", bind=True)
def retry(self, times, countdown=0.05):
    """Fail so many times before it answers. It gives up after the second retry."""
    if self.request.retries < times:
        raise self.retry(exc=OutOfStockError("tea", self.request.retries), countdown=countdown, max_retries=2)
    return self.request.retries


@task(name="hosted.kinds")
def kinds(*values):
    """Tell of what types the worker takes values to be."""
    return [type(value).__name__ for value in values]


@task(name="hosted.typed")
def typed():
    return [dt.date(2026, 1, 2), decimal.Decimal("1.50"), uuid.UUID(int=5)]


@task(name="hosted.begun")
def begun():
    """Tell when it began."""
    return time.time()


@task(name="hosted.hold", bind=True)
def hold(self, path):
    """Tell that it has begun, and go on until a file is there."""
    self.update_state(state="PROGRESS", meta={"until": path})
    while not Path(path).exists():
        time.sleep(0.01)  # The test, in another process, has no other way to let it end.
    return path
