"""The progress bar, by rich: on terminals only, and only for commands that take a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from fibo_client.daemon_thread import to_daemon_thread
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Bar"]

DELAY: Final = 0.3
"""Seconds after which the bar is shown."""

_REFRESH_PAUSE: Final = 0.1
"""Seconds between two frames."""

_LONGEST: Final = 200
"""The most characters of its description."""

_OTHER_COLUMNS: Final = 38
"""Columns of the terminal that the text beside the bar takes."""


class Bar:
    """How far a command is.

    Args:
        description: What it does.
        total: How many steps there are. None shows how many are done.
        lock: Held while the terminal is written to.
        on_output: Whether the answers go to the same terminal as the bar.
    """

    def __init__(self, description: str, total: int | None, lock: threading.Lock, *, on_output: bool) -> None:
        self._description = printable(description, _LONGEST)
        self._total = total
        self._done = 0
        self._lock = lock
        self._on_output = on_output
        self._stopped = threading.Event()
        self._progress: Any = None
        self._task: Any = None

    @contextlib.contextmanager
    def shown(self, *, visible: bool) -> Iterator[None]:
        """Show the bar after `DELAY`, and remove it at the end."""
        visible = visible and os.environ.get("TERM") != "dumb"
        showing = asyncio.create_task(self._show_soon()) if visible else None
        try:
            yield
        finally:
            if showing is not None:
                showing.cancel()
            with self._lock:
                self._stopped.set()
                if self._progress is not None:
                    self._progress.stop()
                    self._progress = None

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self.update(self._done + steps, self._total)

    def update(self, done: int, total: int | None, description: str | None = None) -> None:
        """Set how far the command is. None leaves the description, and is a total that is not known."""
        self._done, self._total = done, total
        if description is not None:
            self._description = printable(description, _LONGEST)
        if self._progress is not None:
            self._progress.update(
                self._task, completed=done, total=total, description=self._description, count=self._counted()
            )

    def print_above(self, text: str) -> bool:
        """Write lines above the bar, and tell whether it is there to do so. The caller holds the lock."""
        if self._progress is None:
            return False
        with self._progress.console:  # Writes both at once.
            self._progress.refresh()  # Else the bar below the text would be as old as the last frame.
            self._progress.console.out(text, end="", highlight=False)
        return True

    def _counted(self) -> str:
        if self._total is not None:
            return f"{self._done:,}/{self._total:,}"
        return f"{self._done:,}" if self._done else ""

    async def _show_soon(self) -> None:
        await asyncio.sleep(DELAY)
        await to_daemon_thread(self._show_and_refresh)  # Importing rich would hold up the event loop.

    def _show_and_refresh(self) -> None:
        self._show()
        # Rich's own thread would not hold the lock between drawing a frame and writing it.
        with contextlib.suppress(OSError):  # Nobody sees the terminal any more.
            while not self._stopped.wait(_REFRESH_PAUSE):
                with self._lock:
                    if self._progress is not None:
                        self._progress.refresh()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        # One console writes answers and bar. Two would overwrite each other.
        console = Console(file=sys.stdout if self._on_output else sys.stderr)
        with self._lock:
            if self._stopped.is_set():
                return
            progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=max(4, min(40, console.width - _OTHER_COLUMNS))),
                TextColumn("{task.fields[count]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("   "),  # Room for ^C, which would break the line on a narrow terminal.
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = progress.add_task(
                self._description, total=self._total, completed=self._done, count=self._counted()
            )
            progress.start()
            self._progress = progress  # Last: the event loop's thread may update it from here on.
