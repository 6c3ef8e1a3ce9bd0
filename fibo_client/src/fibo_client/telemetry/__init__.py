"""Trace and measure the messages that a client sends.

``fibo_client.telemetry.otel`` has the tracer for OpenTelemetry and needs the extra ``otel``;
``fibo_client.telemetry.sentry`` has the tracer for Sentry and needs the extra ``sentry``.
"""

from fibo_client.telemetry.tracer import SendSpan, Server, Tracer

__all__ = ["SendSpan", "Server", "Tracer"]
