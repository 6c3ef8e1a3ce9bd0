"""The summary of revocations: what a command that ends before it is done says of the tasks that it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fibo_client.celery.tidying import RevocationCounts

__all__ = ["GOES_ON", "revocation_summary"]


GOES_ON: Final = "What a worker has begun goes on."


def revocation_summary(what: str, counts: RevocationCounts, expires: float | None) -> str:
    """Say what became of tasks that were to be revoked.

    Whether a worker obeyed is not known, nor whether one has begun a task, which it then goes on with: one without
    remote control hears nothing.

    Args:
        what: What they are, such as ``the rest``.
        counts: What became of them. The client is closed: all is known that will be.
        expires: The seconds after which no worker begins them. None is never.

    Returns:
        The end of a sentence, and one more. Empty if there was nothing to revoke.
    """
    missed = counts.unheard + counts.unsent
    if not missed:
        return f"workers were told to revoke {what}. {GOES_ON}" if counts.heard else ""
    if counts.heard:
        told = f"workers were told to revoke {what} but for {missed} {'task' if missed == 1 else 'tasks'}"
    else:
        told = f"{what} could not be revoked"
    reason = counts.reason or "there was no time for more"
    if not counts.unsent:
        reason = "no worker heard it"
    stop = "" if reason.endswith((".", "?")) else "."
    waits = "waits for a worker" if expires is None else f"expires within {expires:g} s"
    return f"{told}: {reason}{stop} What no worker has begun {waits}; what one has begun goes on."
