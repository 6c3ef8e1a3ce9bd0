"""Whether a server can be reached, and when to log that it cannot. It has no clock and no log of its own."""

from __future__ import annotations

import math
from typing import Final

CALM: Final = 10.0
"""Seconds after a server came back in which no new outage is logged, so that a flickering one does not fill the log."""


MOMENT: Final = 1.0
"""Seconds in which all connections may break together without an outage."""


class ServerHealth:
    """What all connections to one server know of it together.

    A broken connection is no outage: the next one is made at once. An outage is a server that takes no connection,
    gives no answer in time or is not ready, or that breaks connections and answers nothing for longer than `MOMENT`.

    Args:
        address: The server, without a password. Log lines begin with it.
        hint: What to ask about a server that was never reached.

    Attributes:
        hint: See above.
        reconnects: How many connections were made in place of broken ones.
        failures: How many commands and attempts to connect failed since it last answered.
        reached: Whether a connection to it was ever made.
    """

    __slots__ = ("_address", "_back", "_broken", "_logged", "_since", "failures", "hint", "reached", "reconnects")

    def __init__(self, address: str, hint: str = "Is that the right address?") -> None:
        self._address = address
        self.hint: str = hint
        self._back = -math.inf
        self._since = 0.0
        self._logged = False
        self._broken = 0
        self.failures: int = 0
        self.reached: bool = False
        self.reconnects: int = 0

    def failed(self, now: float, reason: str, *, certain: bool) -> str | None:
        """Note that a command or an attempt to connect failed.

        Args:
            now: The present, in seconds by any clock.
            reason: What went wrong. It may begin with the address.
            certain: Whether it is more than a broken connection.

        Returns:
            A line for the log, if an outage begins.
        """
        if not self.failures:
            self._since = now
        self.failures += 1
        if self._logged or not (certain or now >= self._since + MOMENT) or now < self._back + CALM:
            return None
        self._logged = True
        return f"{self._address} is gone, trying again: {reason.removeprefix(f'{self._address}: ')}"

    def worked(self, now: float) -> str | None:
        """Note that the server answered. Need not be called while `failures` is 0.

        Args:
            now: The present, by the same clock.

        Returns:
            A line for the log, if an outage ends that was logged.
        """
        failures, self.failures = self.failures, 0
        if not self._logged:
            return None
        self._logged = False
        self._back = now
        return f"{self._address} is back after {now - self._since:.1f} s, in which {failures} tries failed"

    def broke(self) -> None:
        """Note that a connection broke."""
        self._broken += 1

    def connected(self) -> None:
        """Note that a connection was made."""
        self.reached = True
        if self._broken:
            self._broken -= 1
            self.reconnects += 1
