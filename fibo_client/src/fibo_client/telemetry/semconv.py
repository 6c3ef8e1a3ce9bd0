"""Names from OpenTelemetry's semantic conventions for messaging. Sentry uses them, too.

Source: https://opentelemetry.io/docs/specs/semconv/messaging/.
"""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "messaging.system"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
