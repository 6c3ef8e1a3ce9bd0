"""The numbers of ``fibo compute``: from arguments, a range, or lines that are read as they arrive."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Final

from fibo_client.daemon_thread import to_daemon_thread
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["StandardInput", "parse_integer", "parse_number", "parse_range"]

LONGEST_LINE: Final = 10_000
"""The most bytes of a line."""

_CHUNK: Final = 65536
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)


def parse_integer(text: str) -> int:
    """Read an integer in decimal digits. Raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{_quoted(text)} is not a whole number")
    return int(text)


def parse_number(text: str) -> float:
    """Read a number as Python writes it. Raises ValueError."""
    try:
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    except ValueError:
        raise ValueError(f"{_quoted(text)} is not a number") from None


def parse_range(text: str) -> range:
    """Read ``START:STOP`` or ``START:STOP:STEP``, as in Python: STOP is excluded. Raises ValueError if empty."""
    try:
        bounds = [parse_integer(part) for part in text.split(":")]
        if len(bounds) not in (2, 3):
            raise ValueError(f"{_quoted(text)} is not a range")
        if bounds[2:] == [0]:
            raise ValueError("STEP must not be 0")
        numbers = range(*bounds)
    except ValueError as error:
        raise ValueError(f"{error}; write START:STOP or START:STOP:STEP, such as 0:100") from None
    if not numbers:
        raise ValueError(f"{_quoted(text)} has no number in it; STOP is not part of a range")
    return numbers


class StandardInput:
    """Numbers from the standard input, any number of them on a line, read as they arrive.

    Args:
        check: Checks a number; raises ValueError for an invalid one.
        on_error: Gets what is wrong with a line. Later lines are still read.
    """

    def __init__(self, check: Callable[[int], int], on_error: Callable[[str], None]) -> None:
        self._check = check
        self._on_error = on_error
        self._line = 1

    async def __aiter__(self) -> AsyncIterator[int]:
        rest, skip = b"", False
        while True:
            data = await to_daemon_thread(os.read, sys.stdin.fileno(), _CHUNK)
            *lines, rest = (rest + data).split(b"\n")
            if not data and rest:
                lines, rest = [rest], b""
            for line in lines:
                if not skip:
                    for n in self._numbers(line):
                        yield n
                skip = False
                self._line += 1
            if len(rest) > LONGEST_LINE:
                if not skip:
                    self._on_error(f"line {self._line} has more than {LONGEST_LINE:,} bytes")
                rest, skip = b"", True
            if not data:
                return

    def _numbers(self, line: bytes) -> list[int]:
        """Read a line. One invalid word makes all of it invalid."""
        try:
            return [self._check(parse_integer(word)) for word in line.decode("utf-8", "backslashreplace").split()]
        except ValueError as error:
            self._on_error(f"line {self._line}: {error}")
            return []


def _quoted(text: str) -> str:
    return f"'{printable(text, 40)}'"
