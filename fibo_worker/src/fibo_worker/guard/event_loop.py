"""Fewer system calls of Celery's event loop.

Celery and kombu tell the event loop what to wait for at each of its turns, and after each message of a process: mostly
what it waits for already. Each time is a system call, which fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LeanHub"]


class LeanHub:
    """An event loop that is told only what it does not know. All else is the event loop's own."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Wait until a file can be read, unless that is waited for with this callback already."""
        if self._hub.readers.get(fd) != (callback, args):
            self._hub.add_reader(fd, callback, *args)

    def remove_writer(self, fd: int) -> None:
        """Do not wait until a file can be written, if that is waited for."""
        if fd in self._hub.writers:
            self._hub.remove_writer(fd)
