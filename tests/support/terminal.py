"""A program on a pseudo-terminal, and its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any

import pexpect
import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HOW = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
"""Variables that say what terminal it is."""

NOT_HOW = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
"""Variables of whoever runs the tests that force or forbid colours."""


class Screen:
    """The screen of a terminal.

    Attributes:
        raw: All bytes that were sent to the terminal.
        seen: All screens that it has shown, as texts without empty lines at the end.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.raw = b""
        self.seen: list[str] = []
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def screen(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def show(self, data: bytes) -> None:
        """Show what came."""
        self.raw += data
        self._stream.feed(data)
        self.seen.append(self.screen)


class Terminal(Screen):
    """A program, and the screen of its terminal."""

    def __init__(self, child: Any, columns: int, rows: int) -> None:
        super().__init__(columns, rows)
        self._child = child

    def type(self, keys: str) -> None:
        """Press keys; ``\\x03`` is Ctrl-C."""
        self._child.send(keys.encode())

    def wait_for(self, wanted: str | Callable[[str], Any], timeout: float = 30) -> str:
        """Wait until the screen has a text, or satisfies a function. Gives it."""
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
        """Read what has come, and tell whether more may come."""
        try:
            data = self._child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.show(data)
        return True


@contextlib.contextmanager
def on_terminal(
    *command: str, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Start a program on a terminal; kill it at the end if it is still there."""
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        dimensions=(rows, columns),
        env={**{name: value for name, value in os.environ.items() if name not in NOT_HOW}, **HOW, **(env or {})},
        timeout=30,
        use_poll=True,  # select() fails on descriptors beyond 1,023, which a process of many tests may have.
    )
    try:
        yield Terminal(child, columns, rows)
    finally:
        child.close(force=True)


@contextlib.contextmanager
def terminal(columns: int = 80, rows: int = 24) -> Iterator[tuple[int, Screen]]:
    """A terminal for this process: the descriptor to write to, and the screen, complete after the block."""
    screen = Screen(columns, rows)
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def look() -> None:
        with contextlib.suppress(OSError):  # Its other end is closed.
            while data := os.read(ours, 65536):
                screen.show(data)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield its, screen
    finally:
        os.close(its)
        looking.join()
        os.close(ours)
