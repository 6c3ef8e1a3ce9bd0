"""What a command that ends before it is done says of the work it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fibo_client.celery.tidying import Revocations

__all__ = ["GOES_ON", "fate"]


GOES_ON: Final = "What a worker has begun goes on."


def fate(what: str, told: Revocations, expires: float | None) -> str:
    """Say what became of work that was to be revoked.

    Nobody knows whether a worker obeyed: one that has begun a task goes on with it.

    Args:
        what: What is left of it, such as ``the rest``.
        told: What became of its tasks. The client is closed: all is known that will be.
        expires: The seconds after which no worker begins it. None is never.

    Returns:
        The end of a sentence, and perhaps one more. Empty if there was nothing to revoke.
    """
    missed = told.unheard + told.untold
    if not missed:
        return f"workers were told to revoke {what}. {GOES_ON}" if told.heard else ""
    if told.heard:
        tasks = "task, which" if missed == 1 else "tasks, which"
        left, s = f"workers were told to revoke {what} but for {missed} {tasks}", "s" if missed == 1 else ""
    else:
        left, s = f"{what} could not be revoked and", "s"
    until = f"stay{s} until a worker comes" if expires is None else f"expire{s} within {expires:g} s"
    reason = (told.trouble or "there was no time for more.") if told.untold else "no worker heard it."
    return f"{left} {until}: {reason}{f' {GOES_ON}' if told.heard else ''}"
