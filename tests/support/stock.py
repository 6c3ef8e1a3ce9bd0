"""A plain Celery app that knows nothing of this project: two plain tasks, and every way a task can end.

``celery -A support.stock worker``, with CELERY_BROKER_URL and CELERY_RESULT_BACKEND as Celery reads them, and
STOCK_CONF with more of Celery's settings as JSON.
"""

import datetime as dt
import decimal
import functools
import json
import math
import os
import time
import uuid

from celery import Celery, group
from celery.exceptions import Ignore, Reject

app = Celery("stock", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("STOCK_CONF") or "{}"))
# Not shared: tests import this beside other apps, to which Celery would add its tasks.
task = functools.partial(app.task, shared=False)


@task(name="tasks.fibo_task", bind=True)
def fibo_task(self, value):
    a, b = 0, 1
    for _ in range(value):
        a, b = b, a + b
    return value, f"The Fibonacci calculated with task id {self.request.id} was {a}"


@task(name="tasks.sqrt_task")
def sqrt_task(value):
    return math.sqrt(value)


@task(name="stock.add")
def add(x, y):
    return x + y


@task(name="stock.total")
def total(numbers, more=0):
    return sum(numbers) + more


@task(name="stock.hand_over")
def hand_over(kind):
    """Send other tasks, and return their handle."""
    adding = [add.s(1, n) for n in range(2)]
    return adding[0].delay() if kind == "task" else group(adding).apply_async()


@task(name="stock.replaced", bind=True)
def replaced(self, x):
    """Put a group in one's own place: the result is the list of theirs."""
    return self.replace(group(add.s(x, n) for n in range(2)))


@task(name="stock.added", bind=True)
def added(self, x):
    """Put one more task into the chord that one is in the header of."""
    self.add_to_chord(add.s(x, 100))
    return x


@task(name="stock.echo")
def echo(*args, **kwargs):
    return [args, kwargs]


@task(name="stock.request", bind=True)
def request(self, *names):
    return {name: self.request.get(name) for name in names}


@task(name="stock.fail")
def fail(*args):
    raise ValueError(*args)


class UnpicklableError(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.function = lambda: None

    def __reduce__(self):
        raise TypeError("cannot be pickled")


@task(name="stock.unpicklable")
def unpicklable():
    raise UnpicklableError("no pickle")


@task(name="stock.retry_in", bind=True)
def retry_in(self, queue):
    raise self.retry(queue=queue, countdown=0)


@task(name="stock.retry_once", bind=True)
def retry_once(self):
    if self.request.retries == 0:
        raise self.retry(exc=ValueError("once more"), countdown=0.1)
    return self.request.retries


@task(name="stock.sleep")
def sleep(seconds):
    time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return seconds


@task(name="stock.negated")
def negated(value, seconds=0):
    if seconds:
        time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return -value


@task(name="stock.progress", bind=True)
def progress(self, steps, name="current"):
    for step in range(1, steps + 1):
        self.update_state(state="PROGRESS", meta={name: step, "total": steps})
        time.sleep(0.05)  # So long that who follows it can see each step.
    return steps


@task(name="stock.autoretried", autoretry_for=(ValueError,), default_retry_delay=0, max_retries=3)
def autoretried(value):
    raise ValueError(value)


@task(name="stock.limited", time_limit=1, rate_limit="1/h")
def limited(seconds):
    time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return seconds


@task(name="stock.late", acks_late=True)
def late(seconds):
    time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return seconds


@task(name="stock.ignored")
def ignored():
    raise Ignore


@task(name="stock.forgetful", ignore_result=True)
def forgetful(answer=None):
    return {1} if answer is None else answer  # JSON has no sets.


@task(name="stock.hand_set", bind=True)
def hand_set(self, state, meta):
    self.update_state(state=state, meta=meta)
    raise Ignore


@task(name="stock.reject", acks_late=True)
def reject():
    raise Reject("no", requeue=False)


@task(name="stock.requeue", bind=True, acks_late=True)
def requeue(self):
    """Give the message back once, and then store nothing of it."""
    if self.request.delivery_info.get("redelivered"):
        raise Ignore
    raise Reject("later", requeue=True)


@task(name="stock.exit")
def exit_process(code):
    os._exit(code)


@task(name="stock.unserialisable")
def unserialisable():
    return {1, 2, 3}


TYPES = [
    dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    dt.date(2026, 1, 2),
    dt.time(3, 4, 5),
    decimal.Decimal("1.50"),
    uuid.UUID(int=5),
    b"abc",
    b"\xff\x00",
]


@task(name="stock.types")
def types():
    return TYPES


@task(name="stock.big")
def big(size):
    return "x" * size
