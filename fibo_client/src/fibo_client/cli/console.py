"""Where a command writes: answers to the standard output or a file, all else to the error output.

Threads write the answers: a slow reader, such as a pager, must not hold up the event loop, which keeps all deadlines.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from fibo_client.cli.bar import Bar
from fibo_client.cli.wrapping import columns, wrapped
from fibo_client.daemon_thread import to_daemon_thread
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fibo_client.celery.stats import RevocationCounts

__all__ = ["Console", "escaped", "json_default", "json_line"]

_LONGEST: Final = 64 * 1024
"""The most characters of one message. Answers have no limit."""

_LAYOUT: Final = "\n\t"
"""The control characters that do not harm a terminal."""


class Console:
    """What a command writes to.

    Args:
        as_json: Whether answers are lines of JSON.
        output: A file for the answers, in place of the standard output. It is overwritten.

    Attributes:
        as_json: Whether answers are lines of JSON.
        terminal: Whether the answers go to a terminal.
        stop_message: Makes the message for a command that a signal stopped, from what became of its revocations.
        stopped_early: Whether to write it without a signal, too: the command ended before all was done.

    Raises:
        OSError: The file cannot be opened, or there is no standard output.
    """

    def __init__(self, *, as_json: bool = False, output: str | None = None) -> None:
        self.as_json = as_json
        self.stop_message: Callable[[RevocationCounts], str] = lambda _: ""
        self.stopped_early: bool = False
        self._owns_fd = output is not None
        if output is not None:
            self._fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            self._encoding = "utf-8"
        elif sys.stdout is None:
            # Descriptor 1 may be a connection by now.
            raise OSError("there is no standard output")
        else:
            self._fd = sys.stdout.fileno()
            self._encoding = sys.stdout.encoding
        self.terminal: bool = os.isatty(self._fd)
        self._bar: Bar | None = None
        self._lock = threading.Lock()

    async def write(self, text: str) -> None:
        """Write answers: lines with a newline at the end. Raises OSError; BrokenPipeError if the reader is gone."""
        await to_daemon_thread(self.write_blocking, text)

    async def write_wrapped(self, text: str, *, indent: str = "") -> None:
        """Write an answer in prose, without its last newline. A terminal gets it wrapped at words."""
        await self.write(f"{wrapped(text, columns(self._fd), indent=indent)}\n")

    def write_blocking(self, text: str) -> None:
        """Write answers as `write` does, but block. Not for the event loop."""
        if self.terminal:
            with self._lock:
                if self._bar is not None and self._bar.print_above(text):
                    return
                self._write_all(text)
        else:
            self._write_all(text)

    async def write_json(self, **fields: Any) -> None:
        """Write one answer as a line of JSON."""
        await self.write(json_line(fields))

    def close(self) -> None:
        """Close the file of the answers. Raises OSError if not all of it could be stored."""
        if self._owns_fd:
            self._owns_fd = False
            os.close(self._fd)

    def info(self, text: str) -> None:
        """Write a message for people, of one line or several, to the error output."""
        if sys.stderr is None:
            return
        line = f"{wrapped(printable(text, _LONGEST, keep=_LAYOUT), columns(sys.stderr))}\n"
        with self._lock:
            if self._bar is None or not self._bar.print_above(line):
                # Python writes characters that the encoding has not with backslashes.
                with contextlib.suppress(OSError):  # The command goes on without a reader.
                    sys.stderr.write(line)
                    sys.stderr.flush()

    def error(self, text: str) -> None:
        """Write what went wrong."""
        self.info(f"Error: {text}")

    @contextlib.contextmanager
    def progress_bar(self, description: str, total: int | None = None, *, visible: bool = True) -> Iterator[Bar]:
        """Show a progress bar after a moment, if there is a terminal."""
        self._bar = Bar(description, total, self._lock, on_output=self.terminal)
        with self._bar.shown(visible=visible and sys.stderr is not None and sys.stderr.isatty()):
            try:
                yield self._bar
            finally:
                self._bar = None

    def _write_all(self, text: str) -> None:
        # Not sys.stdout: a thread that blocks in it would keep the interpreter from ending.
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        while data:
            data = data[os.write(self._fd, data) :]


def json_line(fields: dict[str, Any]) -> str:
    """Write a line of JSON, in ASCII and with its newline. Values that JSON has not become text."""
    return f"{json.dumps(fields, default=json_default)}\n"


def escaped(text: str) -> str:
    """Escape control characters of an answer, as in a Python literal, but for newlines and tabs."""
    return printable(text, None, keep=_LAYOUT)


def json_default(value: object) -> str:
    """Give the text of a value that JSON has not: a date, a decimal, a UUID, bytes. See `json.dumps`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    isoformat = getattr(value, "isoformat", None)
    return str(value if isoformat is None else isoformat())
