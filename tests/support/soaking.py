"""An app of one's own for the soak of workers: each task writes down that it has begun.

With SOAKING_IS=stock it goes without the guard, but with the settings of one that is protected.
"""

from __future__ import annotations

import os
import time

from celery import Celery

VISIBILITY_TIMEOUT = 12
TIME_LIMIT = 8

app = Celery("soaking")
if os.environ.get("SOAKING_IS") != "stock":
    from fibo_worker.guard import protect

    app = protect(app)
app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_time_limit=TIME_LIMIT,
    worker_prefetch_multiplier=2,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 1.0,
        "unacked_restore_throttle": 1,
    },
    result_expires=600,
)


@app.task(name="soaking.add", bind=True)
def add(task, x, y, seconds=0.0):
    """Add, slowly."""
    began = os.open(os.environ["SOAKING_BEGAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(began, f"{task.request.id}\n".encode())  # One write: those of several processes do not mix.
    finally:
        os.close(began)
    time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return x + y
