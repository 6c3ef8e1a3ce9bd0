"""What a command that ends before it is done says of the work it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fibo_client.celery.tidying import Revocations

__all__ = ["fate"]


def fate(what: str, told: Revocations, expires: float | None) -> str:
    """Say what became of work that was to be revoked.

    Args:
        what: What is left of it, such as ``the rest``.
        told: What became of its tasks. The client is closed: all is known that will be.
        expires: The seconds after which no worker begins it. None is never.

    Returns:
        The end of a sentence. Empty if there was nothing to revoke.
    """
    missed = told.unheard + told.untold
    if not missed:
        return f"{what} was revoked." if told.heard else ""
    if told.heard:
        tasks = "task, which" if missed == 1 else "tasks, which"
        left, s = f"{what} was revoked but for {missed} {tasks}", "s" if missed == 1 else ""
    else:
        left, s = f"{what} could not be revoked and", "s"
    until = f"stay{s} until a worker comes" if expires is None else f"expire{s} within {expires:g} s"
    if not told.untold:
        return f"{left} {until}: no worker heard it."
    return f"{left} {until}: {told.trouble or 'there was no time for more.'}"
