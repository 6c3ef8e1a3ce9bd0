"""Whether a Redis server can be reached, and when that is worth a line in the log. No clock, no log of its own."""

from __future__ import annotations

import math
from typing import Final

CALM: Final = 10.0
"""Seconds after a server came back in which it is not said to be gone again: a flickering one must not fill the log."""


MOMENT: Final = 1.0
"""Seconds in which several connections may break, as all do at once, without an outage."""


class ServerHealth:
    """What all connections to one server see of it together.

    A connection that breaks is no outage: the next one is made at once, and nobody notices. An outage is a server that
    takes no connection, gives no answer in time, or is not ready; or that breaks connections and answers nothing for
    longer than a moment.

    Args:
        address: The server, without a password.

    Attributes:
        reconnects: How many connections were made in place of ones that had broken.
        failures: How many commands and attempts to connect failed since it last answered.
        reached: Whether a connection to it was ever made.
    """

    __slots__ = ("_address", "_back", "_broken", "_since", "_told", "failures", "reached", "reconnects")

    def __init__(self, address: str) -> None:
        self._address = address
        self._back = -math.inf
        self._since = 0.0
        self._told = False
        self._broken = 0
        self.failures: int = 0
        self.reached: bool = False
        self.reconnects: int = 0

    def failed(self, now: float, reason: str, *, certain: bool) -> str | None:
        """Take note that the server did not do its part.

        Args:
            now: The present.
            reason: What went wrong, with the address.
            certain: Whether it is more than a connection that broke.

        Returns:
            A line for the log, if this is the beginning of an outage.
        """
        if not self.failures:
            self._since = now
        self.failures += 1
        if self._told or not (certain or now >= self._since + MOMENT) or now < self._back + CALM:
            return None
        self._told = True
        return f"Redis is gone, trying again: {reason}"

    def worked(self, now: float) -> str | None:
        """Take note that the server answered. Need not be called while `failures` is 0.

        Args:
            now: The present.

        Returns:
            A line for the log, if this is the end of an outage that was told.
        """
        failures, self.failures = self.failures, 0
        if not self._told:
            return None
        self._told = False
        self._back = now
        return (
            f"Redis is back: {self._address} answers after {now - self._since:.1f} s, in which {failures} tries failed"
        )

    def broke(self) -> None:
        """Take note that a connection that had been made is no more."""
        self._broken += 1

    def connected(self) -> None:
        """Take note that a connection was made."""
        self.reached = True
        if self._broken:
            self._broken -= 1
            self.reconnects += 1
