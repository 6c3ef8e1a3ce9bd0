"""Where spans and metrics go: here, one JSON object a line into a file.

A service would send them to a collector: put the exporters of
opentelemetry-exporter-otlp in place of these two.
"""

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


def set_up(service: str) -> None:
    """Say where spans and metrics go, once in each process."""
    path = Path(os.environ.get("TELEMETRY_FILE", "telemetry.jsonl"))
    out = path.open("a", buffering=1)  # until the process ends

    def line(record):
        return record.to_json(indent=None) + "\n"

    resource = Resource.create({"service.name": service})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=out, formatter=line))
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))
