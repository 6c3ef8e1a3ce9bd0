"""Very many results that are awaited together, some at a time: all at once would hold up the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from fibo_client.celery.budget import EACH, PIECE, Budget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from fibo_client.celery.jobs import Job
    from fibo_client.celery.outcome import Awaited
    from fibo_client.celery.pending import Wait
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session

A = TypeVar("A", bound="Awaited")
E = TypeVar("E", bound="Entered")


@dataclass(slots=True)
class Entered:
    """Some of the results that are awaited together. Many at once would hold up the event loop.

    Attributes:
        wait: The wait for them.
        jobs: The jobs that they are of, where another caller started them.
    """

    wait: Wait
    jobs: list[Job]

    @property
    def is_over(self) -> bool:
        """Whether nothing more is awaited."""
        return self.wait.over or not self.wait.missing

    def take(self) -> dict[str, TaskMeta | Exception]:
        """Take what has arrived."""
        wait = self.wait
        arrived, wait.arrived = wait.arrived, {}
        return arrived


@dataclass(slots=True)
class Handles(Entered, Generic[A]):
    """Some of the results, and which of their tasks are not over.

    Attributes:
        results: The handles.
        handles: Those whose tasks are not over, by id.
    """

    results: Sequence[A]
    handles: dict[str, list[A]]


async def enter_pieces(
    session: Session, results: Sequence[A], timeout: float | None, began: float, pieces: list[Handles[A]]
) -> None:
    """Let a caller wait for any number of results.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of it. None is no limit, 0 is one read.
        began: When the caller's call began, by the loop's clock.
        pieces: Where what was entered is noted, also if not all could be.
    """
    if len(results) > PIECE and timeout != 0:
        session.check_room(len(results))  # Before any of them is awaited.
    budget = Budget()
    for start in range(0, len(results), PIECE):
        if start and budget.is_spent(EACH):
            await budget.pause()
        some = results[start : start + PIECE]
        handles: dict[str, list[A]] = {}
        for result in some:
            if result.cached is None or not result.cached.ready:
                handles.setdefault(result.id, []).append(result)
        entered = enter(session, [each[0] for each in handles.values()], timeout, began)
        pieces.append(Handles(entered.wait, entered.jobs, some, handles))


def enter(
    session: Session,
    results: Iterable[Awaited],
    timeout: float | None,
    began: float,
    *,
    end_on_failure: bool = False,
    enough: set[str] | None = None,
) -> Entered:
    """Let a caller wait for results that were sent before, and have no answer yet.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of it. None is no limit, 0 is one read.
        began: When the caller's call began, by the loop's clock.
        end_on_failure: Whether to wait no longer once a task has failed.
        enough: As for `Session.enter`.

    Returns:
        The wait, which the caller leaves.

    Raises:
        FiboError: As for `Session.enter`.
    """
    unsettled = {result.id: None for result in results}
    jobs = [job for job in {each.job for each in results} if job]
    return Entered(
        session.enter(unsettled, timeout=timeout, end_on_failure=end_on_failure, enough=enough, began=began, jobs=jobs),
        jobs,
    )


async def with_news(pieces: Sequence[E]) -> AsyncGenerator[E, None]:
    """Yield each piece that has answers, for the caller to take, until no more is awaited, or an error ends a wait.

    Args:
        pieces: The pieces.

    Yields:
        The same piece again and again, where more comes of it.
    """
    loop = asyncio.get_running_loop()
    going = list(pieces)
    while going:
        budget = Budget()
        for piece in going:
            if piece.wait.arrived:
                if budget.is_spent(EACH):
                    await budget.pause()
                yield piece
            if piece.wait.error is not None:
                return
        going = [piece for piece in going if piece.wait.arrived or not piece.is_over]
        news = loop.create_future()
        for piece in going:
            piece.wait.future = news
        if going and not any(piece.wait.arrived or piece.is_over for piece in going):
            await news
