"""A dispatcher written against Celery alone: ``dispatcher.py URL``."""

import sys
import time

from celery import Celery

VALUES = [4, 3, 8, 6, 10]

app = Celery("tasks", broker=sys.argv[1], backend=sys.argv[1])

waiting = [(value, app.send_task("tasks.fibo_task", args=(value,))) for value in VALUES]
deadline = time.monotonic() + 10
while waiting:
    pending = []
    for value, result in waiting:
        if result.ready():
            answered, message = result.get(timeout=1)
            print(f"Value [{answered}] -> {message}", flush=True)
        else:
            print(f"Task [{result.id}] is not ready", flush=True)
            pending.append((value, result))
    waiting = pending
    if waiting and time.monotonic() > deadline:
        sys.exit(f"{len(waiting)} of {len(VALUES)} values have no answer after 10 seconds")
    time.sleep(0.02)  # It polls, as programs do that Celery's documentation shows: that is what is served here.

print(app.send_task("tasks.sqrt_task", args=(4,)).get(timeout=5), flush=True)
