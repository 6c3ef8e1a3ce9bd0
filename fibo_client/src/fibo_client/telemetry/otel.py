"""OpenTelemetry: spans and metrics of the messages that a client sends, and the trace context in each message.

The names are those of the semantic conventions for messaging:
https://opentelemetry.io/docs/specs/semconv/messaging/. This is the only module that imports opentelemetry.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client._version import __version__
from fibo_client.telemetry.semconv import DESTINATION, MESSAGE_COUNT, MESSAGE_ID, SYSTEM

try:
    from opentelemetry import context as context_api
    from opentelemetry import metrics, propagate, trace
except ModuleNotFoundError as _error:
    raise ImportError("OpenTelemetry is not installed; get it with: pip install 'fibo-client[otel]'") from _error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from fibo_client.telemetry.tracer import Server

__all__ = ["OpenTelemetry"]

OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
TASK_NAME: Final = "celery.task_name"
"""Not in the conventions: the name that OpenTelemetry's own instrumentation of Celery uses."""

DURATION: Final = "messaging.client.operation.duration"
SENT_MESSAGES: Final = "messaging.client.sent.messages"

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_SCOPE: Final = "fibo_client"


class OpenTelemetry:
    """Traces and measures what a client sends, with OpenTelemetry.

    ::

        client = FiboClient(telemetry=OpenTelemetry())

    One tracer can serve several clients. Each message carries the context of its span, so that workers continue the
    trace.

    Args:
        tracer_provider: Where spans go. None is the global provider.
        meter_provider: Where metrics go. None is the global provider.
        create_spans: Whether each message of a batch, and each caller that shares a message, gets its own ``create``
            span beside the ``send`` span. Without them there are fewer spans, and all tasks of a batch are children of
            the ``send`` span.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        create_spans: bool = True,
    ) -> None:
        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, SCHEMA_URL)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider, SCHEMA_URL)
        duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        sent = meter.create_counter(
            SENT_MESSAGES,
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self._instruments = _Instruments(tracer, duration, sent, create_spans)

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> _SendSpan:
        """See `fibo_client.telemetry.Tracer.start_send`."""
        return _SendSpan(self._instruments, queue, server, batch=batch, headers=headers)


class _Instruments(NamedTuple):
    """The OpenTelemetry instruments that all spans share."""

    tracer: Tracer
    duration: Histogram
    sent: Counter
    create_spans: bool


class _SendSpan:
    """One ``send`` span, with its ``create`` spans, links and metrics."""

    def __init__(
        self,
        instruments: _Instruments,
        queue: str,
        server: Server,
        *,
        batch: bool,
        headers: Mapping[str, Any],
    ) -> None:
        self._instruments = instruments
        self._queue = queue
        self._batch = batch
        self._context = context_api.get_current()
        self._began = time.perf_counter()
        self._began_at = time.time_ns()
        self._common: dict[str, str | int] = {SYSTEM: server.system, DESTINATION: queue}
        if server.address is not None:
            self._common[SERVER_ADDRESS] = server.address
        if server.port is not None:
            self._common[SERVER_PORT] = server.port
        # If the caller's headers hold a trace context, the messages keep that one.
        given = (
            _span_context(propagate.extract(headers, context_api.Context())) if headers else trace.INVALID_SPAN_CONTEXT
        )
        self._given = [trace.Link(given)] if given.is_valid else []
        self._span: Span | None = None
        self._task: str | None = None
        self._task_id = ""
        self._headers: dict[str, str] = {}
        self._known = {_span_context(self._context).span_id, trace.INVALID_SPAN_ID}

    def inject(self, task: str, task_id: str) -> Mapping[str, str]:
        """See `fibo_client.telemetry.SendSpan.inject`."""
        if self._span is None:
            self._span = self._start(task, task_id)
        elif task != self._task:
            self._task = None
        if self._given:
            return {}
        if not (self._batch and self._instruments.create_spans):
            return self._headers
        own = self._create(self._context, task, task_id, [])
        self._span.add_link(own.get_span_context(), {MESSAGE_ID: task_id})
        return _injected(own, self._context)

    def link(self) -> None:
        """See `fibo_client.telemetry.SendSpan.link`."""
        context = context_api.get_current()
        theirs = _span_context(context)
        if theirs.span_id in self._known or self._span is None:
            return
        self._known.add(theirs.span_id)
        if self._instruments.create_spans:
            link = trace.Link(self._span.get_span_context())
            theirs = self._create(context, self._task or "", self._task_id, [link]).get_span_context()
        if self._span.is_recording():  # It may have ended already. Then only the caller's span has the link.
            self._span.add_link(theirs)

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `fibo_client.telemetry.SendSpan.end`."""
        seconds = time.perf_counter() - self._began
        measured = self._common | {OPERATION: "send", OPERATION_TYPE: "send"}
        wrong = measured if error is None else measured | {ERROR_TYPE: type(error).__qualname__}
        if self._span is not None:
            if self._batch:
                self._span.set_attribute(MESSAGE_COUNT, sent + failed)
            if self._batch and self._task is not None:
                self._span.set_attribute(TASK_NAME, self._task)
            if error is not None:
                self._span.set_attribute(ERROR_TYPE, wrong[ERROR_TYPE])
                self._span.set_status(trace.StatusCode.ERROR, str(error))
            self._span.end()
        self._instruments.duration.record(seconds, wrong)
        if sent:
            self._instruments.sent.add(sent, measured)
        if failed:
            self._instruments.sent.add(failed, wrong)

    def _start(self, task: str, task_id: str) -> Span:
        """Start OpenTelemetry's span. Not before the first message: a call may be refused without one."""
        self._task, self._task_id = task, task_id
        attributes = self._common | {OPERATION: "send", OPERATION_TYPE: "send"}
        if not self._batch:
            attributes |= {MESSAGE_ID: task_id, CONVERSATION_ID: task_id, TASK_NAME: task}
        creates = bool(self._given) or (self._batch and self._instruments.create_spans)
        span = self._instruments.tracer.start_span(
            f"send {self._queue}",
            self._context,
            trace.SpanKind.CLIENT if creates else trace.SpanKind.PRODUCER,
            attributes,
            self._given,
            self._began_at,
        )
        self._headers = {} if creates else _injected(span, self._context)
        return span

    def _create(self, parent: Context, task: str, task_id: str, links: list[trace.Link]) -> Span:
        """Make the span of one message of a batch, or of one caller that shares a message."""
        span = self._instruments.tracer.start_span(
            f"create {self._queue}",
            parent,
            trace.SpanKind.PRODUCER,
            self._common
            | {
                OPERATION: "create",
                OPERATION_TYPE: "create",
                MESSAGE_ID: task_id,
                CONVERSATION_ID: task_id,
                TASK_NAME: task,
            },
            links,
        )
        span.end()
        return span


def _span_context(of: Context) -> trace.SpanContext:
    return trace.get_current_span(of).get_span_context()


def _injected(span: Span, rest: Context) -> dict[str, str]:
    """Make the headers that carry a span's context, and the caller's baggage."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span, rest))
    return carrier
