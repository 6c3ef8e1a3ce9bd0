"""What a client tells of the messages that it sends, to whoever measures and traces them.

``fibo_client.telemetry.otel`` has the recorder for OpenTelemetry, which needs the extra ``otel``, and
``fibo_client.telemetry.sentry`` the one for Sentry, which needs ``sentry``.
"""

from fibo_client.telemetry.tracer import Recorder, Sending, Server

__all__ = ["Recorder", "Sending", "Server"]
