"""Make text from elsewhere safe to print: bounded, and without characters that control a terminal or a log.

The client keeps values from the wire unchanged. Before they go into an error, a repr, the log or a terminal, they pass
through here.
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
"""The most characters of a remote traceback."""

# Control characters, marks that change the writing direction, line separators, and surrogates.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


class Verbatim(str):
    """A text that is its own repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def printable(text: str, longest: int | None = LONGEST, *, keep: str = "") -> str:
    r"""Put a text on one line, with its unsafe characters escaped as in a Python literal (``\x1b``, ``\u202e``).

    Args:
        text: The text.
        longest: The most characters to return. None returns all.
        keep: Unsafe characters to leave as they are, such as newlines.

    Returns:
        The text. If it is longer, its beginning and three dots.
    """
    cut = longest is not None and len(text) > longest
    safe = text[:longest] if cut else text
    if _UNSAFE.search(safe):
        safe = _UNSAFE.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], safe)
    if longest is not None and (cut or len(safe) > longest):
        return f"{safe[: longest - 3]}..."
    return safe


def printable_lines(text: str, longest: int = LONGEST_TRACEBACK) -> str:
    """Escape a text of several lines, such as a traceback. Of a long one, keep both ends.

    Args:
        text: The text.
        longest: About how many characters to return at most.

    Returns:
        The text with its newlines, and otherwise escaped as by `printable`.
    """
    half = longest // 2
    if len(text) > longest:
        begin, end = printable(text[:half], None, keep="\n"), printable(text[-half:], None, keep="\n")
        return f"{begin[:half]}\n[... {len(text) - 2 * half} characters are left out here ...]\n{end[-half:]}"
    whole = printable(text, None, keep="\n")
    return whole if len(whole) <= longest else f"{whole[:half]}\n[...]\n{whole[-half:]}"


def short_repr(value: object, longest: int = 80) -> str:
    """Write any value for a message or a repr: the first `longest` characters of its repr, or its type."""
    try:
        return printable(partial_repr(value, longest), longest)
    except RecursionError:
        return f"<{type(value).__name__}>"


def partial_repr(value: object, longest: int) -> str:
    """Make at least the first `longest` characters of a value's repr, but not the whole repr of a large value."""
    pieces, length = [], 0
    for piece in _pieces(value, longest):
        pieces.append(piece)
        length += len(piece)
        if length > longest:
            break
    return "".join(pieces)


def _pieces(value: object, longest: int) -> Iterator[str]:
    """Yield a value's repr piece by piece."""
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
        yield safe_repr(value, longest)


def safe_repr(value: object, longest: int) -> str:
    """Make a value's repr. Where that fails, the type stands in the place of the part that has none."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a caller's own __repr__ may raise anything, and writing a log line must not fail
        return partial_repr(value, longest) if type(value) in (list, tuple, dict) else f"<{type(value).__name__}>"


def listed(values: Iterable[T], write: Callable[[T], str], most: int = 10, longest: int = LONGEST) -> str:
    """Write the first values with commas between them, and how many more there are.

    Args:
        values: The values.
        write: Turns one value into text.
        most: How many values to write.
        longest: The most characters of the values together.

    Returns:
        For example ``a, b and 3 more``.
    """
    each = list(values)
    more = f" and {len(each) - most} more" if len(each) > most else ""
    return f"{printable(', '.join(map(write, each[:most])), longest)}{more}"


def dataclass_repr(value: Any) -> str:
    """Write the repr of a dataclass, each field cut short, without those that are None or declared ``repr=False``."""
    fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value) if each.repr)
    parts = (f"{name}={short_repr(part)}" for name, part in fields if part is not None)
    return f"{type(value).__name__}({', '.join(parts)})"
