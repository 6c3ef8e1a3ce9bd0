"""A file that tells whether a worker takes tasks, for health checks that cost nothing.

The worker touches it every second while it is connected and Redis answers. A worker that is told to end removes it, and
has another one beside it, with ``.stopping`` at its end, until the tasks that run have ended. No Celery in here: the
command that reads the file starts faster without.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

__all__ = ["INTERVAL", "ReadinessFile"]

_logger: Final = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two touches."""


class ReadinessFile:
    """The readiness file of one worker.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = Path(path)
        self._stopping: Final = Path(f"{path}.stopping")
        self._failed = False

    def touch(self) -> None:
        """Say that the worker takes tasks."""
        self._write(self.path)

    def stop(self) -> None:
        """Say that the worker takes no more tasks, and finishes those that run."""
        self._write(self._stopping)
        self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Say that the worker has ended."""
        for path in (self.path, self._stopping):
            path.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        try:
            if path.exists():
                os.utime(path)
            else:
                path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            if not self._failed:  # Once is enough.
                _logger.warning("the readiness file %s cannot be written: %s", path, error.strerror)
            self._failed = True
        else:
            self._failed = False

    def problem(self, *, max_age: float) -> str | None:
        """Say what is wrong with the worker.

        Args:
            max_age: The most seconds since the last touch.

        Returns:
            The problem. None is that the worker takes tasks.
        """
        try:
            age = time.time() - self.path.stat().st_mtime
        except OSError as error:
            if self._stopping.exists():
                return "the worker is shutting down: it takes no more tasks, and finishes those that run"
            return f"there is no worker with the readiness file {self.path}: {error.strerror}"
        if age > max_age:
            return (
                f"the readiness file {self.path} was touched {age:.0f} seconds ago: the worker has no connection to "
                "Redis, hangs, or was killed"
            )
        return None
