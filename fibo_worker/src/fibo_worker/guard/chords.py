"""Bound how often ``celery.chord_unlock`` looks whether a chord's tasks have ended.

Celery sends this task where the result backend cannot tell it by itself. With Redis, only somebody else does.
"""

from __future__ import annotations

import functools
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["bound_polling"]

_NAME: Final = "celery.chord_unlock"


def bound_polling(app: Celery) -> None:
    """Let the task poll no more often than the setting ``result_chord_retry_interval``, while results are kept."""
    task = app.tasks[_NAME]
    run = task.run

    @functools.wraps(run)
    def bounded(group_id: Any, callback: Any, interval: Any = None, max_retries: Any = None, **arguments: Any) -> Any:
        if type(task.request.retries) is not int or task.request.retries < 0:  # a header of the message
            task.request.update(retries=0)
        interval = _interval(interval, task.default_retry_delay)
        max_retries = _retries(max_retries, interval, app.conf.result_expires)
        return run(group_id, callback, interval=interval, max_retries=max_retries, **arguments)

    task.run = bounded


def _interval(wanted: Any, least: float) -> float:
    if isinstance(wanted, int | float) and not isinstance(wanted, bool) and least <= wanted < 1e9:
        return wanted
    return least


def _retries(wanted: Any, interval: float, expires: Any) -> int | None:
    """Return how often to retry: not after the results that it waits for have expired."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    most = math.ceil(seconds / interval) if seconds and interval else None
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        return wanted if most is None else min(wanted, most)
    return most
