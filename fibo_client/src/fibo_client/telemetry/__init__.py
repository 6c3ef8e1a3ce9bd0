"""Tracing and measuring the messages that a client sends.

``fibo_client.telemetry.otel`` has the tracer for OpenTelemetry, which needs the extra ``otel``, and
``fibo_client.telemetry.sentry`` the one for Sentry, which needs ``sentry``.
"""

from fibo_client.telemetry.tracer import SendSpan, Server, Tracer

__all__ = ["SendSpan", "Server", "Tracer"]
