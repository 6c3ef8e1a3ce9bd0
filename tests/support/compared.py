"""An app that is protected or as Celery makes it, to compare what its worker does with empty tasks and short ones.

``celery -A support.compared worker``, with CELERY_BROKER_URL and CELERY_RESULT_BACKEND as Celery reads them,
COMPARED_CONF with more of Celery's settings as JSON, COMPARED_IS with ``stock`` for an app without the guard, and
COMPARED_WITHOUT with the protections to leave out. Celery and the guard alone need to be installed.
"""

import json
import os
import time

from celery import Celery

app = Celery("compared", broker="redis://localhost", backend="redis://localhost")
if os.environ["COMPARED_IS"] != "stock":
    from fibo_worker.guard import protect

    app = protect(app, without=os.environ.get("COMPARED_WITHOUT", "").split())
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("COMPARED_CONF") or "{}"))


@app.task(name="compared.nothing")
def nothing():
    """Do nothing, which leaves what the worker itself costs."""


@app.task(name="compared.rest")
def rest(seconds):
    """Keep a process of the worker, but no processor."""
    time.sleep(seconds)  # This is the work that the bench asks for.


@app.task(name="compared.echo")
def echo(*args, **kwargs):
    """Return what came, as it came."""
    return [args, kwargs]
