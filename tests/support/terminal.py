"""A program on a pseudo-terminal, and what somebody who sits before it sees."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import pexpect
import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Terminal:
    """A program, and the screen of its terminal.

    Attributes:
        raw: All bytes that it has sent to the terminal.
        seen: All screens that it has shown, as texts without empty lines at the end.
    """

    def __init__(self, child: Any, columns: int, rows: int) -> None:
        self.raw = b""
        self.seen: list[str] = []
        self._child = child
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def screen(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        """Press keys; ``\\x03`` is Ctrl-C."""
        self._child.send(keys.encode())

    def wait_for(self, wanted: str | Callable[[str], Any], timeout: float = 30) -> str:
        """Wait until the screen has a text, or is as a function wants it, and give it."""
        check = wanted if callable(wanted) else lambda screen: wanted in screen
        deadline = time.monotonic() + timeout
        while not check(self.screen):
            assert time.monotonic() < deadline, f"{wanted!r} did not come; the screen is:\n{self.screen}"
            assert self._read() or check(self.screen), f"{wanted!r} did not come before the end:\n{self.screen}"
        return self.screen

    def end(self, timeout: float = 30) -> int:
        """Wait for the program to end, and give its exit status."""
        deadline = time.monotonic() + timeout
        while self._read():
            assert time.monotonic() < deadline, f"it does not end; the screen is:\n{self.screen}"
        self._child.wait()
        return self._child.exitstatus if self._child.signalstatus is None else -self._child.signalstatus

    def _read(self) -> bool:
        """Take what has come, and tell whether more may come."""
        try:
            data = self._child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        self.seen.append(self.screen)
        return True


@contextlib.contextmanager
def on_terminal(
    *command: str, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Start a program on a terminal; kill it at the end if it is still there."""
    # Whoever runs the tests may have said that there be no colour, or that everything be coloured.
    mine = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        dimensions=(rows, columns),
        env={**mine, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})},
        timeout=30,
    )
    try:
        yield Terminal(child, columns, rows)
    finally:
        child.close(force=True)
