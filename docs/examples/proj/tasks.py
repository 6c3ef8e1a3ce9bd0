"""Plain Celery tasks. Nothing here knows of fibo."""

import time

from celery import Celery

# CELERY_BROKER_URL and CELERY_RESULT_BACKEND win over these two.
app = Celery("proj", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(x, y):
    return x + y


@app.task
def divide(x, y):
    return x / y


@app.task(bind=True)
def resize(self, pictures):
    for done in range(1, pictures + 1):
        time.sleep(0.1)  # in place of the work
        self.update_state(state="PROGRESS", meta={"done": done, "total": pictures})
    return f"{pictures} pictures resized"
