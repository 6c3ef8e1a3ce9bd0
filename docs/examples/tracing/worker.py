"""A worker that is traced: ``celery -A worker worker``."""

from celery.signals import worker_process_init
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from telemetry import set_up

from fibo_worker.app import app  # or the app with your own tasks

__all__ = ["app"]


@worker_process_init.connect(weak=False)  # in each process that runs tasks: the exporters' threads outlive no fork
def trace_tasks(**_):
    set_up("worker")
    CeleryInstrumentor().instrument()
