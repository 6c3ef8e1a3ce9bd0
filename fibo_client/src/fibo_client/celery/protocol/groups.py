"""What a result backend holds of groups and chords beside results. Source: ``celery.backends.redis``."""

from __future__ import annotations

from typing import Final

__all__ = ["EXPIRES", "counter_names", "group_name", "is_result", "result_name", "size_name"]

EXPIRES: Final = 86400.0
"""Seconds for which the members of a group, and the size of a chord, are stored: Celery's default."""


def result_name(task_id: str) -> str:
    """Give Celery's name of the result of a task."""
    return f"celery-task-meta-{task_id}"


def is_result(name: str) -> bool:
    """Tell whether something is the name of a result of a task."""
    return name.startswith("celery-task-meta-")


def group_name(group_id: str) -> str:
    """Give Celery's name of what is stored of a group."""
    return f"celery-taskset-meta-{group_id}"


def size_name(group_id: str) -> str:
    """Give Celery's name of how many results a chord waits for."""
    return f"celery-taskset-meta-{group_id}.s"


def counter_names(group_id: str) -> list[str]:
    """Give Celery's names of all that counts the results of a chord. A chord that fails leaves these for a day."""
    return [f"celery-taskset-meta-{group_id}.{kind}" for kind in ("s", "j", "d", "t")]
