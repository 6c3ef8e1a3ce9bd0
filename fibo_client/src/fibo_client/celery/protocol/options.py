"""Checks of what a caller may say about a message: names, priorities, seconds and flags."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from fibo_client.errors import MessageError
from fibo_client.text import short_repr

_LONGEST_NAME: Final = 1024
_LONGEST_TIME: Final = timedelta.max.total_seconds()


def check_name(what: str, name: object) -> str:
    """Check a name that goes into a message or a key.

    Args:
        what: The option's name, for the error.
        name: The value.

    Returns:
        The name.

    Raises:
        MessageError: It is not text, is empty or too long, or holds a control character or a lone surrogate. Kombu
            separates the parts of its Redis keys with control characters.
    """
    if not isinstance(name, str):
        raise MessageError(f"{what} must be text, not {type(name).__name__}")
    if not name or len(name) > _LONGEST_NAME:
        raise MessageError(f"{what} must have 1 to {_LONGEST_NAME} characters, not {len(name)}")
    if not name.isprintable():
        raise MessageError(f"{what}={short_repr(name)} holds a character that cannot be printed; remove it")
    return str.__str__(name)  # The value of an enum member; str(name) may be its name.


def check_priority(priority: int | None) -> int:
    """Check a priority, 0 to 9; None is 0. Raise MessageError for others, where Celery silently takes another one."""
    if priority is None:
        return 0
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 9:
        raise MessageError(f"priority={short_repr(priority)} must be an integer from 0 to 9")
    return int(priority)


def check_seconds(what: str, seconds: float | None, least: int = 0) -> float | None:
    """Check a number of seconds. Raise MessageError for what is none, or is not finite or too small."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise MessageError(f"{what} must be a number of seconds, not {type(seconds).__name__}")
    if not least <= seconds < math.inf:
        raise MessageError(f"{what}={short_repr(seconds)} must be a finite number of seconds, {least} or more")
    if seconds > _LONGEST_TIME:
        raise MessageError(f"{what}={short_repr(seconds)} seconds are too many; give a smaller number, or None")
    return seconds


def check_flag(what: str, value: object) -> bool | None:
    """Check what must be True, False or None. Raise MessageError for anything else."""
    if not isinstance(value, bool) and value is not None:
        raise MessageError(f"{what} must be True, False or None, not {short_repr(value)}")
    return value


def check_optional_name(what: str, name: str | None) -> str | None:
    """Check a name that may be None, as `check_name`."""
    return None if name is None else check_name(what, name)
