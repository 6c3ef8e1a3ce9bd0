"""The clock of the Redis server, by which all workers agree, however wrong the clocks of their machines are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["ServerClock"]

# A clock that nobody sets. Linux has one that goes on while the machine sleeps.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ServerClock:
    """The server's time in seconds since 1970. It asks the server now and then, and goes on by itself in between."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def ask(self, client: Redis) -> float:
        """Ask the server for its time. Raise redis.RedisError if it does not answer."""
        seconds, microseconds = client.time()
        self._ahead = seconds + microseconds / 1e6 - time.clock_gettime(_CLOCK)
        return seconds + microseconds / 1e6

    def now(self, client: Redis) -> float:
        """Give the server's time. Ask the server only if that never happened before."""
        return self.ask(client) if self._ahead is None else self._ahead + time.clock_gettime(_CLOCK)
