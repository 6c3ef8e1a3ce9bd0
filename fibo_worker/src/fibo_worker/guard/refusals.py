"""Redis answers, and refuses: it is full, read-only, or has something else in the place of a key.

By default, Celery stops at most of these. But an operator mends them without touching the worker. So it waits, for
longer each time, and tries again.
"""

from __future__ import annotations

import logging
from time import monotonic, sleep
from typing import Final

import redis
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError

from fibo_worker.guard.connections import TEMPORARY_ERRORS, RefusedError

__all__ = ["PatientConsumer"]

_logger: Final = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 10.0
_QUIET: Final = 60.0
"""Seconds after which a refusal counts as a new one, and not as another try that failed."""


class PatientConsumer(Consumer):
    """A consumer that pauses before it reconnects to a Redis that refused what it was told."""

    _pause = 0.0
    _refused_at = float("-inf")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Handle the error as Celery does. Then pause, if it was a refusal."""
        super().on_connection_error_before_connected(exc)
        self._wait_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Handle the error as Celery does. Then pause, if it was a refusal."""
        super().on_connection_error_after_connected(exc)
        self._wait_after(exc)

    def _wait_after(self, error: Exception) -> None:
        if not isinstance(error, (RefusedError, *TEMPORARY_ERRORS)) or not self.app.fibo_guard.has("refusals"):
            return
        again = monotonic() - self._refused_at < _QUIET
        self._pause = min(self._pause * 2, _LONGEST_PAUSE) if again else 1.0
        _logger.error(
            "Redis refuses what the worker needs, which tries again in %.0f s: %.200s%s",
            *(self._pause, error, "".join(f"; {each}" for each in self._wrong_keys())),
        )
        end = monotonic() + self._pause
        while (left := end - monotonic()) > 0:
            maybe_shutdown()
            sleep(min(left, 0.5))
        self._refused_at = monotonic()

    def _wrong_keys(self) -> list[str]:
        """Say which keys of this worker have a wrong type, if Redis tells."""
        try:
            with self.app.connection_for_read() as connection, connection.channel() as channel:
                found: list[str] = channel.wrong_keys(self.app.amqp.queues.consume_from)
        except (redis.RedisError, OSError, OperationalError) as error:
            _logger.debug("could not look for keys of a wrong type: %s", error)
            return []
        return found
