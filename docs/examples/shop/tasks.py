"""The tasks of a shop, on a worker that is hard to stop."""

import os

from celery import Celery

from fibo_worker.guard import protect

REDIS = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")

app = protect(Celery("shop", broker=REDIS, backend=REDIS))
app.conf.task_default_queue = "shop"
app.conf.task_time_limit = 60
app.conf.broker_transport_options = {"visibility_timeout": 120}  # longer than every task may take


@app.task
def total(prices):
    return sum(prices)


@app.task
def catalogue(pages):
    """Draw a catalogue: a kilobyte a page."""
    return len(bytearray(pages * 1024))
