"""The progress that a task reports by ``update_state``. Celery has no convention for it."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["progress"]

_DONE_KEYS: Final = ("current", "done", "completed", "processed", "step", "progress")
_TOTAL_KEYS: Final = ("total", "total_steps")
_PERCENT_KEYS: Final = ("percent", "percentage", "pct", "process_percent", "progress")

_MAX_COUNT: Final = 10**15
"""Larger counts are ignored."""


def progress(meta: Any) -> tuple[int, int | None] | None:
    """Read how far a task is: how many steps are done of how many, None where that is not known.

    Args:
        meta: The ``meta`` of its ``update_state``: ``current``, ``done``, ``completed``, ``processed``, ``step`` or
            ``progress`` of ``total`` or ``total_steps``; or ``percent``, ``percentage``, ``pct``, ``process_percent``
            or ``progress`` of 100, where a float of ``progress`` up to 1 is a share of 1; or how many are done, alone.

    Returns:
        The steps that are done, and their total. None if it tells no progress.
    """
    if not isinstance(meta, dict):
        return None
    total = _first(meta, _TOTAL_KEYS)
    done = _first(meta, _DONE_KEYS)
    if done is not None and total:
        if isinstance(done, int) and isinstance(total, int):
            return done, total
        return _percent(100 * done / total), 100
    percent = _first(meta, _PERCENT_KEYS)
    if percent is not None:
        share = isinstance(percent, float) and percent <= 1 and percent == meta.get("progress")
        return _percent(100 * percent if share else percent), 100
    return None if done is None or isinstance(done, float) else (done, None)


def _first(meta: dict[Any, Any], keys: tuple[str, ...]) -> int | float | None:
    for key in keys:
        value = meta.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT:  # NaN fails.
            return value
    return None


def _percent(value: float) -> int:
    return math.floor(min(value, 100))
