"""An app of somebody's own, protected or as Celery makes it, with tasks that harm their worker.

``celery -A versions.shop worker``, with CELERY_BROKER_URL and CELERY_RESULT_BACKEND as Celery reads them, SHOP_CONF
with more of Celery's settings as JSON, SHOP_IS with ``stock`` for an app without the guard, and SHOP_WITHOUT with the
protections to leave out.
"""

import json
import os
import signal
import time
from pathlib import Path

from celery import Celery
from celery.concurrency.asynpool import AsynPool
from celery.exceptions import SoftTimeLimitExceeded

# Celery may miss the end of a process, and then checks every five seconds. There is no setting for that.
AsynPool.timers = property(lambda pool: {pool.maintain_pool: 0.1})

app = Celery("shop", broker="redis://localhost", backend="redis://localhost")
if os.environ.get("SHOP_IS") != "stock":
    from fibo_worker.guard import protect

    app = protect(app, without=os.environ.get("SHOP_WITHOUT", "").split())
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("SHOP_CONF") or "{}"))


@app.task(name="shop.add")
def add(x, y):
    return x + y


@app.task(name="shop.forget")
def forget():
    raise MemoryError


@app.task(name="shop.hoard")
def hoard(size):
    return len(bytearray(size))


@app.task(name="shop.pack")
def pack(path):
    """Note the beginning and the end, which is when another file says so."""
    note(path, "begins")
    while not Path(path).with_name("packed").exists():
        time.sleep(0.01)  # The test, in another process, says by a file when it is to end.
    note(path, "ends")


@app.task(name="shop.wrap", time_limit=2, soft_time_limit=1)
def wrap(path):
    """Do as `pack` does, longer than the soft limit."""
    while True:
        try:
            return pack(path)
        except SoftTimeLimitExceeded:
            note(path, "late")


@app.task(name="shop.burn")
def burn(path):
    """Note the beginning, and take the process along."""
    note(path, "begins")
    os.kill(os.getpid(), signal.SIGKILL)


def note(path, what):
    with Path(path).open("a") as notes:
        notes.write(f"{what}\n")
