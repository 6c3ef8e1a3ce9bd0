"""Decode a large JSON text in slices, between which the event loop may have its turn.

A thread does not help: ``json.loads`` holds the interpreter's lock until it is done, 15 ms for a megabyte.

Lists, dicts and long strings are gone through here, and whatever is small in them is left to `json`. That takes two to
four times as long as to decode all at once, so it is for large texts only.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Scan = Callable[[str, int], tuple[Any, int]]

SMALL: Final = 2048
"""A list or dict that seems to end within so many characters is decoded at once."""

WINDOW: Final = 4096
"""So many characters of the elements of a list are decoded at once, where they are alike."""

_TRIES: Final = 8
"""So often that fails for a list before it is not tried any more."""

_LONG: Final = 64 * 1024
"""A string that ends within so many characters, with no quote in it, is decoded at once. Of others, so many are."""

_PART: Final = re.compile(
    r"""(?: [^"\\]{1,256}
        | \\[^u]
        | \\u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}  # the two halves of one character
        | \\u[0-9a-fA-F]{4}
        ){1,256}""",
    re.VERBOSE,
)
"""The next characters of a string, and no part of an escape or of a character."""

_SPACE: Final = " \t\n\r"
_CLOSING: Final = {"[": "]", "{": "}"}


def decode_in_slices(
    text: str, hook: Callable[[dict[str, Any]], Any] | None, max_depth: int
) -> Generator[None, None, Any]:
    """Decode JSON.

    Args:
        text: The text.
        hook: As ``object_hook`` of `json.JSONDecoder`.
        max_depth: How deeply lists and dicts may be nested.

    Yields:
        None, after each small part.

    Returns:
        The value.

    Raises:
        ValueError: It is not JSON, or nested too deeply. Decode it at once to learn more.
    """
    scan: Scan = json.JSONDecoder(object_hook=hook).raw_decode
    value, end = yield from _value(text, _skip(text, 0), scan, hook, max_depth)
    if _skip(text, end) != len(text):
        raise ValueError("there is more behind it")
    return value


def _value(
    text: str, start: int, scan: Scan, hook: Callable[[dict[str, Any]], Any] | None, depth: int
) -> Generator[None, None, tuple[Any, int]]:
    opening = text[start : start + 1]
    if opening == '"':
        end = text.find('"', start + 1, start + _LONG)
        if end < 0 or text[end - 1] == "\\":
            return (yield from _long_string(text, start, scan))
    closing = _CLOSING.get(opening)
    if closing is None or _is_small(text, start, opening, closing):
        yield
        value, end = scan(text, start)
        _check_depth(value, text, start, end, depth)
        return value, end
    if not depth:
        raise ValueError("it is nested too deeply")
    if opening == "[":
        return (yield from _list(text, start, scan, hook, depth - 1))
    return (yield from _dict(text, start, scan, hook, depth - 1))


def _long_string(text: str, start: int, scan: Scan) -> Generator[None, None, tuple[str, int]]:
    parts: list[str] = []
    at, end = start + 1, len(text)
    while at < end and text[at] != '"':
        if text.find("\\", at, at + _LONG) < 0:
            quote = text.find('"', at, at + _LONG)
            stop = at + _LONG if quote < 0 else quote
        elif match := _PART.match(text, at):
            stop = match.end()
        else:
            break
        parts.append(scan(f'"{text[at:stop]}"', 0)[0])
        at = stop
        yield
    if text[at : at + 1] != '"':
        raise ValueError("a string does not end")
    return "".join(parts), at + 1


def _is_small(text: str, start: int, opening: str, closing: str) -> bool:
    """Guess whether a list or dict ends soon, with nothing of its kind in it. A wrong guess costs time only."""
    end = text.find(closing, start, start + SMALL)
    return end >= 0 and text.count(opening, start, end) == 1


def _list(
    text: str, start: int, scan: Scan, hook: Callable[[dict[str, Any]], Any] | None, depth: int
) -> Generator[None, None, tuple[Any, int]]:
    values: list[Any] = []
    at = _skip(text, start + 1)
    if text[at : at + 1] == "]":
        return values, at + 1
    tries = _TRIES
    while True:
        some = _window(text, at, scan) if tries else None
        if some is not None:
            _check_depth(some[0], text, at, some[1], depth + 1)
            values += some[0]
            at = some[1]
            yield
        else:
            tries -= bool(tries)
            value, at = yield from _value(text, at, scan, hook, depth)
            values.append(value)
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "]":
            return values, at + 1
        if mark != ",":
            raise ValueError("a comma is missing")
        at = _skip(text, at + 1)


def _window(text: str, start: int, scan: Scan) -> tuple[list[Any], int] | None:
    """Decode the next elements of a list at once. None is that they are not alike enough to see where one ends."""
    closing = _CLOSING.get(text[start : start + 1], "")
    end = text.rfind(f"{closing},", start, start + WINDOW)
    if end < 0:
        return None
    end += len(closing)
    some = f"[{text[start:end]}]"
    try:
        values, length = scan(some, 0)
    except ValueError:
        return None
    # What stands before a comma, and is a list to its end, is elements of this list and nothing else.
    # Nothing before a comma is no element at all.
    return (values, end) if length == len(some) and isinstance(values, list) and values else None


def _dict(
    text: str, start: int, scan: Scan, hook: Callable[[dict[str, Any]], Any] | None, depth: int
) -> Generator[None, None, tuple[Any, int]]:
    members: dict[str, Any] = {}
    at = _skip(text, start + 1)
    if text[at : at + 1] == "}":
        return (members if hook is None else hook(members)), at + 1
    while True:
        name, at = yield from _value(text, at, scan, hook, depth)
        at = _skip(text, at)
        if not isinstance(name, str) or text[at : at + 1] != ":":
            raise ValueError("a name is missing")
        members[name], at = yield from _value(text, _skip(text, at + 1), scan, hook, depth)
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "}":
            return (members if hook is None else hook(members)), at + 1
        if mark != ",":
            raise ValueError("a comma is missing")
        at = _skip(text, at + 1)


def _check_depth(value: Any, text: str, start: int, end: int, max_depth: int) -> None:
    # What has fewer brackets cannot be so deep. Around the elements of a list, there is one more.
    if text.count("[", start, end) + text.count("{", start, end) >= max_depth and is_deep(value, max_depth):
        raise ValueError("it is nested too deeply")


def _skip(text: str, at: int) -> int:
    end = len(text)
    while at < end and text[at] in _SPACE:
        at += 1
    return at


def is_deep(value: Any, max_depth: int) -> bool:
    """Tell whether a decoded value is nested too deeply. CPython has a limit, too, but it differs between versions."""
    level, depth = [value], 0
    while level and depth <= max_depth:
        nested = [each for each in level if isinstance(each, (list, dict))]
        level = [item for each in nested for item in (each.values() if isinstance(each, dict) else each)]
        depth += bool(nested)
    return depth > max_depth
