"""Tasks as they end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from fibo_client.celery.budget import EACH, Budget, free
from fibo_client.celery.outcome import timeout_error
from fibo_client.celery.pending import is_final
from fibo_client.celery.pieces import Handles, enter_pieces, with_news

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from fibo_client.celery.outcome import Awaited
    from fibo_client.celery.session import Session

A = TypeVar("A", bound="Awaited")


async def as_completed(session: Session, results: Sequence[A], *, timeout: float | None) -> AsyncGenerator[A, None]:
    """Give tasks as they end.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of them. None is no limit, 0 is one read.

    Yields:
        Each handle once its task is over; its answer is known then.

    Raises:
        ResultTimeoutError: Not all came in time.
        ReadError: With ``timeout=0``: the results could not be read.
        PublishError: One that `CeleryClient.start` gave was not sent.
        PublishUnknownError: One that `CeleryClient.start` gave may or may not have been sent.
        ClientStateError: One of them, or the client, was closed.
    """
    began = session.check().time()
    pieces: list[Handles[A]] = []
    try:
        await enter_pieces(session, results, timeout, began, pieces)
        budget = Budget()
        for piece in pieces:
            for result in piece.results:
                if result.id not in piece.handles:
                    yield result
            if budget.is_spent(EACH):
                await budget.pause()
        async with aclosing(with_news(pieces)) as told:
            async for piece in told:
                for task_id, answer in piece.take().items():
                    for result in piece.handles[task_id]:
                        result.learn(answer)
                    for result in piece.handles.pop(task_id) if is_final(answer) else ():
                        yield result
        await _check_completed(session, pieces, began, len(results))
    finally:
        session.leave_in_turns([(piece.wait, piece.jobs) for piece in pieces])
    await free(pieces)


async def _check_completed(session: Session, pieces: Sequence[Handles[A]], began: float, total: int) -> None:
    """Raise what ended the waits before all tasks had ended."""
    late = next((piece for piece in pieces if piece.handles), None)
    if late is None:
        return
    for piece in pieces:
        session.check_error(piece.wait)
    budget = Budget()
    missing: list[str] = []
    for piece in pieces:
        missing += piece.handles
        if budget.is_spent(EACH):
            await budget.pause()
    facts = session.facts(late.wait, asyncio.get_running_loop().time() - began)
    first, *_ = next(iter(late.handles.values()))
    timed_out = timeout_error(late.wait, facts, first, missing, total=total)
    raise timed_out
