"""How far a task is, by what it reports of itself. Celery leaves to each task how to say that."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["steps"]

_DONE: Final = ("current", "done", "completed", "processed", "step", "progress")
_TOTAL: Final = ("total", "total_steps")
_PERCENT: Final = ("percent", "percentage", "pct", "process_percent", "progress")

_MOST: Final = 10**15
"""A count beyond it is none."""


def steps(meta: Any) -> tuple[int, int | None] | None:
    """Read the progress that a task reports by ``update_state``.

    Args:
        meta: What it reports: ``current``, ``done``, ``completed``, ``processed``, ``step`` or ``progress`` of
            ``total`` or ``total_steps``; or ``percent``, ``percentage``, ``pct``, ``process_percent`` or ``progress``
            of 100, where a float of ``progress`` up to 1 is a share of 1; or how many are done, alone.

    Returns:
        How many steps are done, and how many there are, where that is known. None if it says neither.
    """
    if not isinstance(meta, dict):
        return None
    total = _first(meta, _TOTAL)
    done = _first(meta, _DONE)
    if done is not None and total:
        if isinstance(done, int) and isinstance(total, int):
            return done, total
        return _percent(100 * done / total), 100
    percent = _first(meta, _PERCENT)
    if percent is not None:
        share = isinstance(percent, float) and percent <= 1 and percent == meta.get("progress")
        return _percent(100 * percent if share else percent), 100
    return None if done is None or isinstance(done, float) else (done, None)


def _first(meta: dict[Any, Any], names: tuple[str, ...]) -> int | float | None:
    for name in names:
        value = meta.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST:  # No NaN is.
            return value
    return None


def _percent(value: float) -> int:
    return math.floor(min(value, 100))
