"""What a client tells of the messages that it sends, to whoever measures and traces them.

``fibo_client.telemetry.otel`` has the recorder for OpenTelemetry. It needs the extra ``otel``.
"""

from fibo_client.telemetry.recorder import Recorder, Sending, Server

__all__ = ["Recorder", "Sending", "Server"]
