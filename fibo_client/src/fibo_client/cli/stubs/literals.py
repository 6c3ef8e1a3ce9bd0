"""Values as the literals that ``ruff format`` would leave as they are. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["literal", "quoted"]

_LONGEST: Final = 80
"""The most characters of a literal. A longer one tells nobody anything, and would need lines of its own."""

_DEEPEST: Final = 3


def literal(value: object) -> str | None:
    """Write a value as a literal. None if it has none, or a long one."""
    text = _literal(value, _DEEPEST)
    return None if text is None or len(text) > _LONGEST else text


def _literal(value: Any, depth: int) -> str | None:
    # Of exactly these classes: the repr of an enum's member is no literal.
    kind = type(value)
    if kind is str:
        return quoted(value)
    if kind is bytes:
        return f"b{_between_quotes(value.decode('latin-1'), lambda piece: repr(piece.encode('latin-1'))[2:-1])}"
    if value is None or kind is bool or (kind is int and abs(value) < 10**_LONGEST):
        return repr(value)
    if kind is float and math.isfinite(value):
        return repr(value).replace("e+", "e")
    if depth and kind in (list, tuple, dict):
        return _container(value, depth - 1)
    return None


def _container(value: Any, depth: int) -> str | None:
    if type(value) is dict:
        keys, values = _all(value, depth), _all(value.values(), depth)
        if keys is None or values is None:
            return None
        return "{" + ", ".join(f"{key}: {each}" for key, each in zip(keys, values, strict=True)) + "}"
    items = _all(value, depth)
    if items is None:
        return None
    if type(value) is list:
        return f"[{', '.join(items)}]"
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _all(values: Collection[object], depth: int) -> list[str] | None:
    """Write several. None if one of them has no literal."""
    texts = [text for value in values if (text := _literal(value, depth)) is not None]
    return texts if len(texts) == len(values) else None


def quoted(text: str) -> str:
    """Write text, however long."""
    return _between_quotes(text, lambda piece: repr(piece)[1:-1])


def _between_quotes(text: str, escape: Callable[[str], str]) -> str:
    """Put quotes around text: double ones, unless it has more of those in it than single ones."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    # Without quotes in a piece, its repr has none to escape.
    pieces = (f"\\{quote}" if each == quote else each if each in ("'", '"') else escape(each) for each in _pieces(text))
    return f"{quote}{''.join(pieces)}{quote}"


def _pieces(text: str) -> list[str]:
    return re.split("(['\"])", text)
