"""`support.stock`, a plain Celery app, with nothing but OpenTelemetry's own instrumentation of Celery.

Its spans go to the file that TELEMETRY_FILE names, one a line, when they end.
"""

import os
from pathlib import Path

from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from support.stock import app

__all__ = ["app"]


@worker_process_init.connect(weak=False)
def trace_tasks(**_):
    out = Path(os.environ["TELEMETRY_FILE"]).open("a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
