"""From waits to values: look at tasks once, wait for one, or for many, whose answers become values as they come."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.budget import EACH, Budget
from fibo_client.celery.outcome import Outcomes, has_expired, timeout_error, value_of
from fibo_client.celery.pending import is_final
from fibo_client.errors import TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.jobs import Job
    from fibo_client.celery.outcome import Awaited
    from fibo_client.celery.pending import Wait
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session


PIECE: Final = 256
"""So many results are entered, and left, in one go."""


async def look(session: Session, results: Sequence[Awaited]) -> dict[str, TaskMeta | Exception]:
    """Look at tasks, by one read for all.

    Args:
        session: The client's running parts.
        results: The handles.

    Returns:
        By id what is stored, or the error in its place. The final state of a task is read once.

    Raises:
        ReadError: The results could not be read.
    """
    session.check()
    answers: dict[str, TaskMeta | Exception] = {}
    for result in results:
        if result.cached is not None and result.cached.ready:
            answers[result.id] = result.cached
    unsettled = [result.id for result in results if result.id not in answers]
    if unsettled:
        wait = session.enter(unsettled, timeout=0)
        try:
            while not wait.over:
                await news(wait)
        finally:
            session.leave(wait)
        session.check_error(wait)
        answers |= wait.arrived
        for result in results:
            result.learn(answers[result.id])
    return answers


async def look_at_metas(session: Session, results: Sequence[Awaited]) -> list[TaskMeta]:
    """Look at tasks; return what is stored of each, in order."""
    answers = await look(session, results)
    metas = []
    for result in results:
        answer = answers[result.id]
        if isinstance(answer, Exception):
            error = copy.copy(answer)  # One error may be told to several; each gets its own traceback.
            raise error
        metas.append(answer)
    return metas


async def gather(
    session: Session, results: Sequence[Awaited], *, timeout: float | None, return_exceptions: bool
) -> list[Any]:
    """Wait for many tasks together.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of them. None is no limit, 0 is one read.
        return_exceptions: Whether to put the error of a task that failed in the place of its answer.

    Returns:
        The answers, in order.

    Raises:
        ResultTimeoutError: Not all came in time.
        TaskError: A task failed.
        ResultDecodeError: What is stored is not a result.
        ReadError: With ``timeout=0``: the results could not be read.
        PublishError: One that `CeleryClient.start` gave was not sent.
        PublishUnknownError: One that `CeleryClient.start` gave may or may not have been sent.
        ClientStateError: One of them, or the client, was closed.
    """
    began = session.check().time()
    pieces: list[_Piece] = []
    budget = Budget()
    if len(results) > PIECE and timeout != 0:
        session.check_room(len(results))  # Before any of them is awaited.
    try:
        for start in range(0, len(results), PIECE):
            pieces.append(_Piece(session, results[start : start + PIECE], timeout, began, start, return_exceptions))
            if pieces[-1].outcomes.must_end:
                break
            if budget.is_spent(EACH):
                await budget.pause()
        await _follow(pieces)
        return await _values(session, results, pieces, began)
    finally:
        session.leave_in_turns([(piece.wait, piece.jobs) for piece in pieces])


class _Piece:
    """Some of the results that are awaited together. Many at once would hold up the event loop.

    Attributes:
        start: The index of the first.
        outcomes: Their values and errors.
        jobs: The jobs that they are of, where another caller started them.
        wait: The wait for them.
    """

    def __init__(
        self,
        session: Session,
        results: Sequence[Awaited],
        timeout: float | None,
        began: float,
        start: int,
        return_exceptions: bool,
    ) -> None:
        self.start = start
        self.outcomes = Outcomes(results, return_exceptions=return_exceptions)
        known = {each.id: each.cached for each in results if each.cached is not None and each.cached.ready}
        self.outcomes.take(known)
        unsettled = {result.id: None for result in results if result.id not in known}
        if self.outcomes.must_end:
            unsettled = {}
        self.jobs = [job for job in {each.job for each in results if each.id in unsettled} if job]
        self.wait = session.enter(
            unsettled,
            timeout=timeout,
            end_on_failure=not return_exceptions,
            began=began,
            jobs=self.jobs,
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing more is awaited."""
        return self.wait.over or not self.wait.missing

    def take(self) -> None:
        """Turn what has arrived into values and errors."""
        wait = self.wait
        arrived, wait.arrived = wait.arrived, {}
        self.outcomes.take(arrived)


async def _follow(pieces: Sequence[_Piece]) -> None:
    """Turn answers into values as they come, until no more is awaited, or an error ends it."""
    loop, budget = asyncio.get_running_loop(), Budget()
    going = list(pieces)
    while going:
        for piece in going:
            if piece.wait.arrived:
                piece.take()
                if budget.is_spent(EACH):
                    await budget.pause()
            if piece.outcomes.must_end or piece.wait.error is not None:
                return
        going = [piece for piece in going if piece.wait.arrived or not piece.is_over]
        news = loop.create_future()
        for piece in going:
            piece.wait.future = news
        if going and not any(piece.wait.arrived or piece.is_over for piece in going):
            await news


async def _values(session: Session, results: Sequence[Awaited], pieces: list[_Piece], began: float) -> list[Any]:
    """Give the values, in order, or raise what ended the waits."""
    budget = Budget()
    for piece in pieces:
        if piece.outcomes.must_end:
            piece.outcomes.values()
    for piece in pieces:
        session.check_error(piece.wait)
    late = [piece for piece in pieces if piece.outcomes.are_late]
    if late and not late[0].outcomes.return_exceptions:
        found: dict[int, Any] = {}
        missing: list[int] = []
        for piece in pieces:
            piece.outcomes.sort_out(piece.start, found, missing)
            if budget.is_spent(EACH):
                await budget.pause()
        expired = any(piece.outcomes.has_expired for piece in late)
        facts = session.facts(late[0].wait, asyncio.get_running_loop().time() - began)
        timed_out = timeout_error(late[0].wait, facts, results, missing, found, expired=expired)
        raise timed_out
    values: list[Any] = []
    for piece in pieces:
        if piece.outcomes.are_late:
            facts = session.facts(piece.wait, asyncio.get_running_loop().time() - began)
            piece.outcomes.give_up(piece.wait, facts)
        values += piece.outcomes.values()
        if budget.is_spent(EACH):
            await budget.pause()
    return values


def conclude(
    session: Session,
    result: Awaited,
    wait: Wait,
    began: float,
    *,
    job: Job | None = None,
    expiry_is_timeout: bool = False,
) -> Any:
    """Turn the end of a wait for one task into the value, or raise what it means.

    Args:
        session: The client's running parts.
        result: The handle of the task.
        wait: The wait, which is over.
        began: When the caller's call began, by the loop's clock.
        job: The job that the task is of, where its handle does not know it.
        expiry_is_timeout: Whether the task carried the wait's own deadline, where its handle does not know it.

    Returns:
        The value.

    Raises:
        TaskRevokedError: The task was revoked. Other errors say what else the end means.
    """
    answer = wait.arrived.get(result.id)
    expired = False
    if answer is not None:
        result.learn(answer)
        if is_final(answer):
            try:
                return value_of(answer, result.task, result.decode, result.queue)
            except TaskRevokedError as error:
                expired = (expiry_is_timeout or result.expiry_is_timeout) and has_expired(error)
                if not expired:
                    raise
    session.check_error(wait)
    facts = session.facts(wait, asyncio.get_running_loop().time() - began, job or result.job)
    timed_out = timeout_error(wait, facts, [result], [0], {}, expired=expired)
    raise timed_out


async def collect(session: Session, wait: Wait, outcomes: Outcomes, began: float, job: Job | None = None) -> list[Any]:
    """Turn answers into values as they come, until the wait is over.

    Args:
        session: The client's running parts.
        wait: The wait.
        outcomes: What the answers become.
        began: When the caller's call began, by the loop's clock.
        job: The job whose tasks are awaited, where there is one.

    Returns:
        The values, in order. See `Outcomes`.
    """
    while True:
        arrived, wait.arrived = wait.arrived, {}
        outcomes.take(arrived)
        if wait.over or not wait.missing or outcomes.must_end:
            break
        await news(wait)
    if not outcomes.must_end:
        session.check_error(wait)
    if outcomes.are_late:
        outcomes.give_up(wait, session.facts(wait, asyncio.get_running_loop().time() - began, job))
    return outcomes.values()


async def news(wait: Wait) -> None:
    """Wait until something happens that has not been seen."""
    await wait.future
    if not wait.over:
        wait.future = wait.future.get_loop().create_future()
