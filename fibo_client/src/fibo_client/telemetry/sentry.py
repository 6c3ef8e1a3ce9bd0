"""Sentry: spans of the messages that a client sends, and the trace in each message.

This is the only module that imports sentry_sdk.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.telemetry.semconv import DESTINATION, MESSAGE_COUNT, MESSAGE_ID, SYSTEM
from fibo_client.telemetry.tracer import NESTED, NOOP_SPAN

try:
    import sentry_sdk
except ModuleNotFoundError as _error:
    raise ImportError("sentry-sdk is not installed; get it with: pip install 'fibo-client[sentry]'") from _error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fibo_client.telemetry.tracer import SendSpan, Server

__all__ = ["Sentry"]

TRACE: Final = "sentry-trace"
BAGGAGE: Final = "baggage"
ENQUEUED: Final = "sentry-task-enqueued-time"
"""When the message was sent. Sentry on the worker's side computes from it how long the task waited."""

OPERATION: Final = "queue.publish"
ORIGIN: Final = "auto.queue.fibo_client"


class Sentry:
    """Traces what a client sends, with Sentry, so that workers continue the trace.

    ::

        sentry_sdk.init(traces_sample_rate=1.0)
        client = CeleryClient(telemetry=Sentry())

    One tracer can serve several clients. Before ``sentry_sdk.init`` it does nothing.
    """

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> SendSpan:
        """See `fibo_client.telemetry.Tracer.start_send`."""
        if not sentry_sdk.is_initialized():
            return NOOP_SPAN
        scope = sentry_sdk.get_current_scope()
        caller = _Caller(scope.streamed_span if _streams() else scope.span, sentry_sdk.get_isolation_scope())
        return _SendSpan(caller, {SYSTEM: server.system, DESTINATION: queue}, headers or {}, batch=batch)


class _Caller(NamedTuple):
    """The sender's span, if it has one, and the scope that holds its trace."""

    span: Any
    scope: sentry_sdk.Scope


class _SendSpan:
    """One span of the operation that Sentry's Queues pages count as published messages."""

    def __init__(self, caller: _Caller, data: dict[str, Any], headers: Mapping[str, Any], *, batch: bool) -> None:
        self._caller = caller
        self._data = data
        self._given = headers
        self._batch = batch
        self._span: Any = None
        self._injected: dict[str, Any] | None = None

    def inject(self, task: str, task_id: str) -> Mapping[str, Any]:
        """See `fibo_client.telemetry.SendSpan.inject`."""
        if self._injected is None:
            self._span = self._start(task, task_id)
            self._injected = {NESTED: self._headers()}
        return self._injected

    def link(self) -> None:
        """Do nothing: Sentry cannot add links to a span. See `fibo_client.telemetry.SendSpan.link`."""

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `fibo_client.telemetry.SendSpan.end`."""
        if self._span is None:
            return
        streams = _streams()
        if self._batch:
            set_value = self._span.set_attribute if streams else self._span.set_data
            set_value(MESSAGE_COUNT, sent + failed)
        if streams:
            if error is not None:
                self._span.status = "error"
            self._span.end()
        else:
            self._span.set_status("ok" if error is None else "internal_error")
            self._span.finish()

    def _start(self, task: str, task_id: str) -> Any:
        """Start a child of the caller's span, if it has one. Sentry does not show a span without a transaction."""
        parent = self._caller.span
        if parent is None:
            return None
        data = self._data if self._batch else self._data | {MESSAGE_ID: task_id}
        if _streams():
            attributes = data | {"sentry.op": OPERATION, "sentry.origin": ORIGIN}
            return sentry_sdk.traces.start_span(task, attributes, parent_span=parent, active=False)
        span = parent.start_child(op=OPERATION, name=task, origin=ORIGIN)
        for name, value in data.items():
            span.set_data(name, value)
        return span

    def _headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = {ENQUEUED: time.time()}
        given = {**self._given, **(self._given.get(NESTED) or {})}
        if TRACE not in given:  # If the caller's headers hold a trace, the messages keep that one.
            scope = self._caller.scope
            found = dict(scope.iter_trace_propagation_headers(span=self._span))
            headers |= found or dict(scope.iter_trace_propagation_headers())  # An unsampled span has no headers.
            if isinstance(given.get(BAGGAGE), str) and BAGGAGE in headers:
                headers[BAGGAGE] = f"{headers[BAGGAGE]},{given[BAGGAGE]}"
        return headers


def _streams() -> bool:
    """Tell whether Sentry streams spans one by one (``trace_lifecycle="stream"``); that has its own API."""
    options = sentry_sdk.get_client().options
    return "stream" in (options.get("trace_lifecycle"), (options.get("_experiments") or {}).get("trace_lifecycle"))
