"""The poison limit: a message whose process, or whose worker, was lost too often is not run again."""

from __future__ import annotations

from typing import Any, Final

from kombu.utils.json import dumps

__all__ = ["LOSSES", "MAX_LOSSES", "losses", "without_losses"]

LOSSES: Final = "fibo_losses"
"""The property of a message that counts its losses."""

MAX_LOSSES: Final = 2
"""A message that was lost so often is dead-lettered."""


def losses(payload: Any) -> int:
    """Read how often a message was lost: its process, or its worker.

    Args:
        payload: The message, an object with properties.

    Returns:
        The count in its properties, or 0.
    """
    count = payload["properties"].get(LOSSES)
    return max(count, 0) if type(count) is int else 0


def without_losses(payload: Any) -> bytes:
    """Encode a lost message as it was sent: once requeued, it starts at no loss.

    Args:
        payload: The message, as kombu decoded it.

    Returns:
        Its bytes.
    """
    properties = {name: value for name, value in payload["properties"].items() if name != LOSSES}
    return bytes(dumps({**payload, "properties": properties}).encode())  # Kombu's: it may hold kombu's types.
