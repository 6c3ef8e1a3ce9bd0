"""Spans and metrics of OpenTelemetry, kept for tests to look at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fibo_client.telemetry.otel import OpenTelemetry
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


class Spans:
    """What was recorded in this process, and a tracer for a test's own spans."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader])
        self.tracer = self.provider.get_tracer("application")

    def telemetry(self, **options: Any) -> OpenTelemetry:
        """A client's telemetry that is recorded here."""
        return OpenTelemetry(tracer_provider=self.provider, meter_provider=self._meters, **options)

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.finished if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def points(self, metric: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        ]


def in_file(path: Path, count: int = 1, *, name: str, trace_id: int | None = None) -> list[dict[str, Any]]:
    """Wait until a file has this many spans of a name, one a line as the SDK writes them. Gives them.

    Args:
        path: The file.
        count: How many.
        name: Their name.
        trace_id: The trace to which they belong. None is any.

    Returns:
        All such spans that are in the file by then.
    """

    def written() -> list[dict[str, Any]]:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        spans = [json.loads(line) for line in lines if line.endswith("\n")]
        named = [span for span in spans if span.get("name") == name]
        return [span for span in named if trace_id is None or span["context"]["trace_id"] == f"0x{trace_id:032x}"]

    return until(
        lambda: len(found := written()) >= count and found,
        lambda: f"{len(written())} of {count} spans {name!r} are in:\n{path.read_text() if path.exists() else ''}",
    )


def hexed(span_id: int) -> str:
    """A span's id as the SDK writes it."""
    return f"0x{span_id:016x}"
