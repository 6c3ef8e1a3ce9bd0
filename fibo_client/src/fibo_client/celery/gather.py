"""From waits to values: look at tasks once, wait for one, or for many, whose answers become values as they come."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

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
    outcomes = Outcomes(results, return_exceptions=return_exceptions)
    known = {each.id: each.cached for each in results if each.cached is not None and each.cached.ready}
    outcomes.take(known)
    unsettled = {result.id: None for result in results if result.id not in known}
    ended = outcomes.must_end or not unsettled
    jobs = [] if ended else [job for job in {result.job for result in results if result.id in unsettled} if job]
    wait = session.enter(
        () if ended else unsettled,
        timeout=timeout,
        end_on_failure=not return_exceptions,
        began=began,
        jobs=jobs,
    )
    try:
        return await collect(session, wait, outcomes, began)
    finally:
        session.leave(wait, jobs)


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
