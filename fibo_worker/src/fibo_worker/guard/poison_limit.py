"""The poison limit: a message that was lost too often, with its process or its worker, does not run again."""

from __future__ import annotations

from typing import Any, Final

from kombu.utils.json import dumps

__all__ = ["LOSSES", "MARKED", "MAX_LOSSES", "losses", "without_losses"]

LOSSES: Final = "fibo_losses"
"""The property of a message that counts its losses."""

MARKED: Final = "fibo_marked"
"""The property of a message that is marked as started, since it was taken for a process that had nothing to do."""

MAX_LOSSES: Final = 2
"""After this many losses, a message is dead-lettered."""


def losses(properties: dict[str, Any]) -> int:
    """Read from a message's properties how often it was lost, with its process or its worker."""
    count = properties.get(LOSSES)
    return max(count, 0) if type(count) is int else 0


def without_losses(payload: Any) -> bytes:
    """Encode a message, as kombu decoded it, without the count, so that it starts at no loss when it is requeued."""
    properties = {name: value for name, value in payload["properties"].items() if name not in (LOSSES, MARKED)}
    return bytes(dumps({**payload, "properties": properties}).encode())  # Kombu's dumps, as kombu's loads made types.
