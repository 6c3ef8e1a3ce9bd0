"""What workers have stored of tasks and chords."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis


def kept(direct: redis.Redis) -> set[str]:
    """Name what is stored, without the mark that a worker keeps for minutes of a body that it sent.

    Args:
        direct: A connection that decodes.

    Returns:
        The keys. Each of them expires.
    """
    keys = set(direct.scan_iter("celery-task*"))
    assert {key for key in keys if direct.ttl(key) == -1} == set()
    return {key for key in keys if not key.endswith(".c")}
