"""Lines for people, broken at words where they go to a terminal. In a pipe a line is a line, however long."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

__all__ = ["columns", "wrapped"]


def columns(stream: IO[str] | int | None) -> int | None:
    """Give the width of a terminal.

    Args:
        stream: What writes to it, or its descriptor.

    Returns:
        How many columns it has. None if it is no terminal, or does not say.
    """
    try:
        number = stream if isinstance(stream, int) or stream is None else stream.fileno()
        return None if number is None else os.get_terminal_size(number).columns or None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int | None, *, indent: str = "") -> str:
    """Break lines at words. One word that is longer than a line stays whole, for who copies it.

    Args:
        text: One line, or several. Those that are indented are laid out already, as in a traceback, and stay.
        width: The columns that there are. None breaks nothing.
        indent: What the lines after the first of a broken one begin with.

    Returns:
        The lines.
    """
    if width is None:
        return text
    lines = text.split("\n")
    return "\n".join(
        line if len(line) <= width or line[0].isspace() else _broken(line, width, indent) for line in lines
    )


def _broken(line: str, width: int, indent: str) -> str:
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
