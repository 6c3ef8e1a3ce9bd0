"""Plain Celery tasks. Nothing here knows of fibo."""

import os
import time

from celery import Celery

# Results go where tasks come from. Where CELERY_RESULT_BACKEND is set, Celery itself lets it win.
REDIS = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")

app = Celery("proj", broker=REDIS, backend=REDIS)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "proj"  # of its own: who takes from "celery" may not know these tasks


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def divide(x: float, y: float) -> float:
    return x / y


@app.task(bind=True)
def resize(self, pictures: int) -> str:
    for done in range(1, pictures + 1):
        time.sleep(0.1)  # in place of the work
        self.update_state(state="PROGRESS", meta={"done": done, "total": pictures})
    return f"{pictures} pictures resized"
