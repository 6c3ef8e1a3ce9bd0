"""`support.stock` under every protection of the guard: ``celery -A support.guarded worker``."""

from fibo_worker.guard import protect
from support.stock import app as stock

app = protect(stock)
