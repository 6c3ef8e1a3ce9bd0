"""Messages wrapped at words on a terminal. In a pipe, each line stays whole."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

__all__ = ["columns", "wrapped"]


def columns(stream: IO[str] | int | None) -> int | None:
    """Give the width of the terminal behind a stream or a descriptor. None if it is no terminal, or does not tell."""
    try:
        number = stream if isinstance(stream, int) or stream is None else stream.fileno()
        return None if number is None else os.get_terminal_size(number).columns or None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int | None, *, indent: str = "") -> str:
    """Wrap lines at words. A word that is longer than a line stays whole, to be copied.

    Args:
        text: Lines. Indented ones, as in a traceback, stay as they are.
        width: The columns. None wraps nothing.
        indent: Begins the continuation lines.

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
