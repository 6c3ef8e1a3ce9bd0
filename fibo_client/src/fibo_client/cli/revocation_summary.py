"""The summary of revocations: what a command that ends before it is done says of the tasks that it leaves."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fibo_client.celery.stats import RevocationCounts

__all__ = ["GOES_ON", "Expiry", "revocation_summary"]

GOES_ON: Final = "What a worker has begun goes on."


class Expiry:
    """Knows when the tasks of a command expire that no worker has begun.

    Args:
        seconds: How long after it was sent each of them expires. None is never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._last_sent = math.inf

    def sent(self) -> None:
        """Note that a task is sent."""
        self._last_sent = self._clock()

    def remaining(self) -> float | None:
        """Tell when all of them have expired.

        Returns:
            Seconds from now: below 0, if they have. None is never.
        """
        now = self._clock()
        # Of what is being sent, it is not known when it was composed: at the latest now.
        return None if self._seconds is None else self._seconds - (now - min(now, self._last_sent))


def revocation_summary(what: str, counts: RevocationCounts, expires: float | None) -> str:
    """Say what became of tasks that were to be revoked.

    Whether a worker obeyed is not known, nor whether one has begun a task, which it then goes on with: one without
    remote control hears nothing.

    Args:
        what: What they are, such as ``the rest``.
        counts: What became of them. The client is closed: all is known that will be.
        expires: The seconds from now after which no worker begins them: below 0, if that is so already. None is never.

    Returns:
        The end of a sentence, and one more. Empty if there was nothing to revoke.
    """
    missed = counts.undelivered + counts.unsent
    if not missed:
        return f"workers were told to revoke {what}. {GOES_ON}" if counts.delivered else ""
    if counts.delivered:
        told = f"workers were told to revoke {what} but for {missed} {'task' if missed == 1 else 'tasks'}"
    else:
        told = f"{what} could not be revoked"
    reason = counts.reason or "there was no time for more"
    if not counts.unsent:
        reason = "no worker heard it"
    stop = "" if reason.endswith((".", "?")) else "."
    if expires is None:
        waits = "waits for a worker"
    else:
        waits = f"expires within {math.ceil(expires)} s" if expires > 0 else "has expired"
    return f"{told}: {reason}{stop} What no worker has begun {waits}; what one has begun goes on."
