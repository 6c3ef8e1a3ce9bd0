"""Another app on the same Redis: a plain Celery worker that knows none of `support.stock`.

``celery -A support.other_app worker``, with the variables of `support.stock`.
"""

import json
import os

from celery import Celery

app = Celery("stranger")
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("STOCK_CONF") or "{}"))


@app.task(name="stranger.hello", shared=False)
def hello():
    return "hello"
