"""Checks that the settings of the client and those of its drivers share."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def check_names(kind: type, names: Iterable[str]) -> None:
    """Check that names are fields of a dataclass of settings.

    Args:
        kind: The dataclass.
        names: The names.

    Raises:
        ConfigError: One is not. The message lists those that are.
    """
    known = {each.name for each in dataclasses.fields(kind)}
    for name in names:
        if name not in known:
            raise ConfigError(f"{name!r} is not a setting; the settings are: {', '.join(sorted(known))}")


def check_integer(name: str, value: object, least: int) -> None:
    """Check that a setting is an integer, and not too small.

    Args:
        name: The setting.
        value: Its value.
        least: The smallest value.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value!r} must be an integer, {least} or more")


def check_text(name: str, value: object, *, empty: bool = False) -> None:
    """Check that a setting is text.

    Args:
        name: The setting.
        value: Its value.
        empty: Whether it may be empty.

    Raises:
        ConfigError: It is not text, or it is empty.
    """
    if not isinstance(value, str) or not (value or empty):
        raise ConfigError(f"{name}={value!r} must be text{'' if empty else ', and not empty'}")


def check_encodable(settings: Any, paths: Collection[str] = ()) -> None:
    """Check that all text in a dataclass of settings can become bytes.

    Args:
        settings: The dataclass.
        paths: Its fields that name files.

    Raises:
        ConfigError: One has a lone surrogate. The message does not show the value, which may be a password.
    """
    for each in dataclasses.fields(settings):
        if not _is_encodable(getattr(settings, each.name), is_path=each.name in paths):
            raise ConfigError(f"{each.name} has half of a character in it, a lone surrogate: it cannot be encoded")


def _is_encodable(value: object, *, is_path: bool) -> bool:
    # Python reads the bytes of a path that are not UTF-8 as lone surrogates, and writes the same bytes again.
    encode = os.fsencode if is_path else str.encode
    if isinstance(value, str):
        try:
            encode(value)
        except UnicodeEncodeError:  # It holds the text, so it must not be the context of our error.
            return False
    return True
