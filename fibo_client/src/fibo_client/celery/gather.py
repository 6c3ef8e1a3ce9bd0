"""From waits to values: look at tasks once, wait for one, or for many, whose answers become values as they come."""

from __future__ import annotations

import asyncio
import copy
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.budget import EACH, PIECE, Budget, free
from fibo_client.celery.jobs import Job
from fibo_client.celery.outcome import Outcomes, has_expired, timeout_error, value_of
from fibo_client.celery.pending import is_final
from fibo_client.celery.pieces import Entered, Handles, enter, enter_pieces, with_news
from fibo_client.errors import FiboError, PublishError, PublishUnknownError, TaskRevokedError
from fibo_client.telemetry.tracer import SharedSpan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fibo_client.celery.jobs import PublishFailure
    from fibo_client.celery.outcome import Awaited
    from fibo_client.celery.pending import Wait
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session
    from fibo_client.telemetry.tracer import SendSpan

LOOK_BACK: Final = 1.0
"""The most seconds that it may take to look at the steps before one that failed."""

LOOKED_BACK_AT: Final = 500
"""About how many steps are looked at then: the nearest ones."""


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
    began = session.check().time()
    answers: dict[str, TaskMeta | Exception] = {}
    pieces: list[Handles[Awaited]] = []
    try:
        await enter_pieces(session, results, 0, began, pieces)
        async with aclosing(with_news(pieces)) as told:
            async for piece in told:
                answers |= piece.take()
        for piece in pieces:
            session.check_error(piece.wait)
    finally:
        session.leave_in_turns([(piece.wait, piece.jobs) for piece in pieces])
    budget = Budget()
    for result in results:
        if result.cached is not None and result.cached.ready:
            answers[result.id] = result.cached
        else:
            result.learn(answers[result.id])
        if budget.is_spent():
            await budget.pause()
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
    session: Session,
    results: Sequence[Awaited],
    *,
    timeout: float | None,
    return_exceptions: bool,
    wanted: Collection[str] | None = None,
) -> list[Any]:
    """Wait for many tasks together.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of them. None is no limit, 0 is one read.
        return_exceptions: Whether to put the error of a task that failed in the place of its answer.
        wanted: The ids of those whose answers are enough. None is all.

    Returns:
        The answers, in order; None in the place of one that is not wanted, and did not come.

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
    enough = None
    if wanted is not None:
        known = {each.id for each in results if each.cached is not None and each.cached.ready}
        enough = set(wanted).difference(known)
    if len(results) > PIECE and timeout != 0:
        session.check_room(len(results))  # Before any of them is awaited.
    try:
        for start in range(0, len(results), PIECE):
            if start and budget.is_spent(EACH):
                await budget.pause()
            some = results[start : start + PIECE]
            outcomes = Outcomes(some, return_exceptions=return_exceptions, wanted=wanted)
            pieces.append(_awaited_piece(session, start, some, outcomes, timeout, began, enough))
            if outcomes.must_end:
                break
        await _follow(pieces, enough)
        if wanted is not None:
            await _look_back(session, pieces, timeout, began)
        values = await _values(session, results, pieces, began)
    finally:
        session.leave_in_turns([(piece.wait, piece.jobs) for piece in pieces])
    await free(pieces)
    return values


async def call_pieces(
    session: Session,
    messages: Sequence[TaskMessage],
    results: Sequence[Awaited],
    ends: Sequence[tuple[int, int]],
    span: SendSpan,
    *,
    timeout: float | None,
    began: float,
    return_exceptions: bool = False,
    expiry_is_timeout: bool,
    wanted: Collection[str] | None = None,
    **options: Any,
) -> list[Any]:
    """Send messages, and wait for all their tasks, which are owned.

    Args:
        session: The client's running parts.
        messages: The messages; at least one.
        results: The handles of all tasks.
        ends: Where to divide both: how many messages and how many results there are up to the end of each piece.
        span: From `Session.start_send`.
        timeout: Seconds for all of it. None is no limit.
        began: When the caller's call began, by the loop's clock.
        return_exceptions: As for `gather`.
        expiry_is_timeout: Whether the tasks carry the deadline of the wait.
        wanted: As for `gather`.
        **options: As for `Session.submit`.

    Returns:
        The answers of all, in order, as of `gather`.

    Raises:
        PublishError: Not all were sent.
        PublishUnknownError: Some may or may not have been sent.
        ResultTimeoutError: Not all came in time. Other errors are those of `gather`.
    """
    session.check_room(len(results))  # Before any of them is sent.
    budget, pieces, jobs = Budget(), [], list[Job]()
    shared = SharedSpan(span) if len(ends) > 1 else span
    enough = None if wanted is None else set(wanted)
    first_message = first = 0
    try:
        for last_message, last in ends:
            if jobs and budget.is_spent(EACH):
                await budget.pause()
                session.check()
            some = results[first:last]
            outcomes = Outcomes(
                some, return_exceptions=return_exceptions, expiry_is_timeout=expiry_is_timeout, wanted=wanted
            )
            jobs.append(
                session.submit(
                    messages[first_message:last_message],
                    shared,
                    awaits=[result.id for result in some],
                    timeout=timeout,
                    began=began,
                    end_on_failure=not return_exceptions,
                    enough=enough,
                    **options,
                )
            )
            pieces.append(_Piece(jobs[-1], [], first, outcomes, jobs[-1]))
            first_message, first = last_message, last
        await _follow(pieces, enough)
        if wanted is not None:
            await _look_back(session, pieces, timeout, began)
        if len(jobs) > 1 and any(isinstance(job.error, PublishError | PublishUnknownError) for job in jobs):
            error = _publish_error(jobs)
            raise error
        return await _values(session, results, pieces, began)
    finally:
        if isinstance(shared, SharedSpan):
            shared.expect(len(jobs))
        session.end_in_turns(jobs)


def ends_of(count: int) -> list[tuple[int, int]]:
    """Say where to divide tasks that have a message each, for `call_pieces`."""
    return [(end, end) for end in (*range(PIECE, count, PIECE), count)]


def _publish_error(jobs: Sequence[Job]) -> PublishFailure:
    """Join what is to be said of jobs that were sent together."""
    first = next(job.error for job in jobs if isinstance(job.error, PublishError | PublishUnknownError))
    remaining = [task_id for job in jobs for task_id in job.remaining]
    if any(job.maybe_sent for job in jobs):
        return PublishUnknownError(first.reason, remaining)
    return PublishError(first.reason, remaining, refused=first.refused)


def _awaited_piece(
    session: Session,
    start: int,
    results: Sequence[Awaited],
    outcomes: Outcomes,
    timeout: float | None,
    began: float,
    enough: set[str] | None,
) -> _Piece:
    """Let a caller wait for results that were sent before."""
    known = {each.id: each.cached for each in results if each.cached is not None and each.cached.ready}
    outcomes.take(known)
    over = outcomes.must_end or (enough is not None and not enough)
    unsettled = [] if over else [result for result in results if result.id not in known]
    entered = enter(session, unsettled, timeout, began, end_on_failure=not outcomes.return_exceptions, enough=enough)
    return _Piece(entered.wait, entered.jobs, start, outcomes, None)


@dataclass(slots=True)
class _Piece(Entered):
    """Some of the results whose values are gathered.

    Attributes:
        start: The index of the first.
        outcomes: Their values and errors.
        job: The job that they are of, where this caller started them.
    """

    start: int
    outcomes: Outcomes
    job: Job | None


async def _follow(pieces: Sequence[_Piece], enough: set[str] | None = None) -> None:
    """Turn answers into values as they come, until no more is awaited, what came is enough, or an error ends it."""
    async with aclosing(with_news(pieces)) as told:
        async for piece in told:
            piece.outcomes.take(piece.take())
            if piece.outcomes.must_end:
                return
            if enough is not None and not enough and not any(each.wait.arrived for each in pieces):
                return


async def _look_back(session: Session, pieces: Sequence[_Piece], timeout: float | None, began: float) -> None:
    """Look once at the steps before one that failed: one of them may have made it fail, and not have been seen yet.

    Workers store the cause first, but a read of some results may show what came of it before another shows the cause.
    """
    failed = next((number for number, piece in enumerate(pieces) if piece.outcomes.must_end), None)
    if failed is None:
        return
    before: list[tuple[_Piece, list[Awaited]]] = []
    budget, count = Budget(), 0
    for piece in reversed(pieces[: failed + 1]):
        if count >= LOOKED_BACK_AT:
            break
        if budget.is_spent(EACH):
            await budget.pause()
        if steps := piece.outcomes.steps_before():
            before.append((piece, steps))
            count += len(steps)
    if not before:
        return
    # After a single read, there is as much time as for any other look.
    left = began + timeout - asyncio.get_running_loop().time() if timeout else LOOK_BACK
    try:
        async with asyncio.timeout(min(left, LOOK_BACK)):
            answers = await look(session, [step for _, steps in before for step in steps])
    except (TimeoutError, FiboError):
        return  # The failure that is known is told.
    for piece, steps in before:
        metas = (answers[step.id] for step in steps)
        piece.outcomes.take({meta.task_id: meta for meta in metas if not isinstance(meta, Exception) and meta.failure})


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
        missing: list[str] = []
        first = late[0].outcomes.first_late
        for piece in pieces:
            piece.outcomes.sort_out(piece.start, found, missing)
            if budget.is_spent(EACH):
                await budget.pause()
        expired = any(piece.outcomes.has_expired for piece in late)
        facts = session.facts(late[0].wait, asyncio.get_running_loop().time() - began, late[0].job)
        timed_out = timeout_error(
            late[0].wait,
            facts,
            first,
            missing,
            total=len(results),
            finished=found,
            expired=expired,
        )
        raise timed_out
    values: list[Any] = []
    for piece in pieces:
        if values and budget.is_spent(EACH):
            await budget.pause()
        if piece.outcomes.are_late:
            facts = session.facts(piece.wait, asyncio.get_running_loop().time() - began, piece.job)
            piece.outcomes.give_up(piece.wait, facts)
        values += piece.outcomes.values()
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
    timed_out = timeout_error(wait, facts, result, expired=expired)
    raise timed_out


async def news(wait: Wait) -> None:
    """Wait until something happens that has not been seen."""
    await wait.future
    if not wait.over:
        wait.future = wait.future.get_loop().create_future()
