"""What a command that ends early says of the tasks that it leaves."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fibo_client.celery.stats import RevocationCounts

__all__ = ["GOES_ON", "Expiry", "revocation_summary"]

GOES_ON: Final = "What a worker has begun goes on."


class Expiry:
    """When the tasks of a command expire that no worker has begun.

    Args:
        seconds: The expiry of each task, from when it is sent. None is never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._last_sent = math.inf

    def sent(self) -> None:
        """Note that a task is sent."""
        self._last_sent = self._clock()

    def remaining(self) -> float | None:
        """Give the seconds until all of them have expired: below 0 if they have, None for never."""
        now = self._clock()
        # It is not known when a task that is being sent was made: now at the latest.
        return None if self._seconds is None else self._seconds - (now - min(now, self._last_sent))


def revocation_summary(what: str, counts: RevocationCounts, expires: float | None) -> str:
    """Say what became of tasks that were to be revoked.

    It is not known whether a worker obeyed, or had begun a task, which it then goes on with. Workers without remote
    control receive no revocation.

    Args:
        what: What the tasks are, such as ``the rest``.
        counts: What became of them, from a closed client.
        expires: Seconds until no worker begins them any more: below 0 if that is past. None is never.

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
