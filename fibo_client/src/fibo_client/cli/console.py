"""Where a command writes: answers to the standard output or a file, all else to the error output.

Answers are written by threads: a reader that is slow, such as a pager, must not hold up the event loop, on which the
deadlines of all that is under way are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from fibo_client.cli.bar import Bar
from fibo_client.cli.daemon_thread import to_daemon_thread
from fibo_client.cli.wrapping import columns, wrapped
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fibo_client.celery.stats import RevocationCounts

__all__ = ["Console", "escaped", "json_default", "json_line"]

_LONGEST: Final = 64 * 1024
"""The most characters of one message. Answers know no bound."""

_LAYOUT: Final = "\n\t"
"""The control characters that do no harm to a terminal."""


class Console:
    """What a command writes to.

    Args:
        as_json: Whether answers are lines of JSON.
        output: A file for the answers, in place of the standard output. It is emptied.

    Attributes:
        as_json: Whether answers are lines of JSON.
        terminal: Whether the answers go to a terminal.
        stop_message: Makes what to say when a signal has stopped the command, once it is known what became of the
            tasks that were to be revoked.
        stopped_early: Whether to say it although no signal came: the command ended before all was done.

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
            # Its number may belong to a connection by now.
            raise OSError("there is no standard output")
        else:
            self._fd = sys.stdout.fileno()
            self._encoding = sys.stdout.encoding
        self.terminal: bool = os.isatty(self._fd)
        self._bar: Bar | None = None
        self._lock = threading.Lock()

    async def write(self, text: str) -> None:
        """Write answers: one line, or many.

        Args:
            text: What to write, with the newline at its end.

        Raises:
            OSError: It cannot be written. BrokenPipeError, if nobody reads it any more.
        """
        await to_daemon_thread(self.write_blocking, text)

    async def write_wrapped(self, text: str, *, indent: str = "") -> None:
        """Write an answer that is prose, broken at words where it goes to a terminal.

        Args:
            text: Lines, without a newline at the end of the last.
            indent: What the lines after the first of a broken one begin with.
        """
        await self.write(f"{wrapped(text, columns(self._fd), indent=indent)}\n")

    def write_blocking(self, text: str) -> None:
        """Write answers, and wait until that is done. Not on the event loop.

        Args:
            text: What to write, with the newline at its end.

        Raises:
            OSError: It cannot be written. BrokenPipeError, if nobody reads it any more.
        """
        if self.terminal:
            with self._lock:
                if self._bar is not None and self._bar.print_above(text):
                    return
                self._write_all(text)
        else:
            self._write_all(text)

    async def write_json(self, **fields: Any) -> None:
        """Write one answer as a line of JSON.

        Args:
            **fields: What it says.
        """
        await self.write(json_line(fields))

    def close(self) -> None:
        """Close the file that the answers went to. Nothing is to be written any more.

        Raises:
            OSError: Not all of it could be stored.
        """
        if self._owns_fd:
            self._owns_fd = False
            os.close(self._fd)

    def info(self, text: str) -> None:
        """Write a message for people, to the error output.

        Args:
            text: One line, or several.
        """
        if sys.stderr is None:
            return
        line = f"{wrapped(printable(text, _LONGEST, keep=_LAYOUT), columns(sys.stderr))}\n"
        with self._lock:
            if self._bar is None or not self._bar.print_above(line):
                # What an error output cannot show, Python writes with backslashes.
                with contextlib.suppress(OSError):  # That nobody reads it any more is no reason to stop.
                    sys.stderr.write(line)
                    sys.stderr.flush()

    def error(self, text: str) -> None:
        """Write a message on what went wrong.

        Args:
            text: One line, or several.
        """
        self.info(f"Error: {text}")

    @contextlib.contextmanager
    def progress_bar(self, description: str, total: int | None = None, *, visible: bool = True) -> Iterator[Bar]:
        """Show on a terminal how far the command is, from some moments on.

        Args:
            description: What it does.
            total: How many steps there are, where that is known.
            visible: Whether to show it at all.

        Yields:
            The bar. Where there is no terminal, nothing of it is seen.
        """
        self._bar = Bar(description, total, self._lock, on_output=self.terminal)
        with self._bar.shown(visible=visible and sys.stderr is not None and sys.stderr.isatty()):
            try:
                yield self._bar
            finally:
                self._bar = None

    def _write_all(self, text: str) -> None:
        # Not by sys.stdout: a thread that is stuck in it would not let the interpreter end.
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        while data:
            data = data[os.write(self._fd, data) :]


def json_line(fields: dict[str, Any]) -> str:
    """Write a line of JSON.

    Args:
        fields: What it says. What JSON has no word for becomes text.

    Returns:
        ASCII text with a newline.
    """
    return f"{json.dumps(fields, default=json_default)}\n"


def escaped(text: str) -> str:
    """Escape what could do something to a terminal.

    Args:
        text: An answer.

    Returns:
        All of it, with escapes as in a Python literal, but for newlines and tabs.
    """
    return printable(text, None, keep=_LAYOUT)


def json_default(value: object) -> str:
    """Give the text for a value that JSON has no word for, as the ``default`` of `json.dumps`.

    Args:
        value: A date, a decimal, a UUID, bytes or the like.

    Returns:
        Its text.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    isoformat = getattr(value, "isoformat", None)
    return str(value if isoformat is None else isoformat())
