"""How text that others wrote is shown: bounded, and with nothing in it that could act on a terminal or a log.

What workers store, answer and refuse with is data, and stays as it came. Wherever it is shown, in an error, a repr, the
log or on a terminal, it goes through here.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

LONGEST: Final = 4096
"""The most characters of an error's message."""

LONGEST_TRACEBACK: Final = 32 * 1024
"""The most characters that are shown of a remote traceback."""

# Control characters, what changes the direction of writing, line separators, and halves of characters.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


def printable(text: str, longest: int | None = LONGEST, *, keep: str = "") -> str:
    r"""Give a text on one line, escaped as in a Python literal (``\x1b``, ``\u202e``) where it could do something.

    Args:
        text: The text.
        longest: The most characters of what is given. None is all.
        keep: Characters that stay as they are, such as newlines.

    Returns:
        The text, cut short and with three dots at its end where it is longer.
    """
    cut = longest is not None and len(text) > longest
    safe = text[:longest] if cut else text
    if _UNSAFE.search(safe):
        safe = _UNSAFE.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], safe)
    if longest is not None and (cut or len(safe) > longest):
        return f"{safe[: longest - 3]}..."
    return safe


def printable_lines(text: str, longest: int = LONGEST_TRACEBACK) -> str:
    """Give a text of several lines, such as a traceback, whose end says the most: of one too long, both ends.

    Args:
        text: The text.
        longest: About how many characters to give at the most.

    Returns:
        The text with its newlines, and everything else as `printable` has it.
    """
    half = longest // 2
    if len(text) > longest:
        begin, end = printable(text[:half], None, keep="\n"), printable(text[-half:], None, keep="\n")
        return f"{begin[:half]}\n[... {len(text) - 2 * half} characters are left out here ...]\n{end[-half:]}"
    whole = printable(text, None, keep="\n")
    return whole if len(whole) <= longest else f"{whole[:half]}\n[...]\n{whole[-half:]}"


def shown(value: object, longest: int = 80) -> str:
    """Write a value that may be anything, for a message or a repr.

    Args:
        value: The value.
        longest: The most characters.

    Returns:
        The beginning of its repr; its type, where it has none.
    """
    try:
        return printable(beginning(value, longest), longest)
    except RecursionError:
        return f"<{type(value).__name__}>"


def beginning(value: object, longest: int) -> str:
    """Give a little more than the beginning of a value's repr, without making the rest.

    Args:
        value: The value.
        longest: How many characters to give at the least, where there are as many.

    Returns:
        The beginning of its repr, or all of it.
    """
    pieces, length = [], 0
    for piece in _pieces(value, longest):
        pieces.append(piece)
        length += len(piece)
        if length > longest:
            break
    return "".join(pieces)


def _pieces(value: object, longest: int) -> Iterator[str]:
    """Give a value's repr piece by piece."""
    if type(value) is list or type(value) is tuple:
        left, right = "[]" if type(value) is list else "()"
        yield left
        for index, item in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(item, longest)
        yield f",{right}" if type(value) is tuple and len(value) == 1 else right
    elif type(value) is dict:
        yield "{"
        for index, (name, item) in enumerate(value.items()):
            yield ", " if index else ""
            yield from _pieces(name, longest)
            yield ": "
            yield from _pieces(item, longest)
        yield "}"
    elif type(value) is str or type(value) is bytes:
        yield repr(value[: longest + 1])
    else:
        yield _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - an endless integer, or a repr of somebody's own
        return f"<{type(value).__name__}>"


def listed(values: Iterable[T], write: Callable[[T], str], most: int = 10, longest: int = LONGEST) -> str:
    """Write several values side by side.

    Args:
        values: The values.
        write: Writes one of them.
        most: How many of them to write.
        longest: The most characters of all that are written.

    Returns:
        The first of them, with commas between them, and how many there are more.
    """
    each = list(values)
    more = f" and {len(each) - most} more" if len(each) > most else ""
    return f"{printable(', '.join(map(write, each[:most])), longest)}{more}"


def summary(value: Any) -> str:
    """Write the repr of a dataclass with what it holds, each part cut short. What is None is left out.

    Args:
        value: The object. Fields of which it has no ``repr`` are left out too.

    Returns:
        The repr.
    """
    told = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value) if each.repr)
    parts = (f"{name}={shown(part)}" for name, part in told if part is not None)
    return f"{type(value).__name__}({', '.join(parts)})"
