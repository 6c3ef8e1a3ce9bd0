"""The handle of a task: ask for its state, wait for its answer, revoke it, forget it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.protocol import states
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.protocol.meta import TaskMeta
from fibo_client.celery.question import Question
from fibo_client.celery.session import Outcome, doubt
from fibo_client.errors import ResultDecodeError, ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence

    from fibo_client.celery.session import Session

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AsyncResult(Generic[T_co]):
    """A task that was sent, by its id. Awaiting it waits for its answer with the client's default timeout.

    A wait that ends early, by timeout or cancellation, changes nothing about the task, and can be repeated.

    Attributes:
        id: The task's id.
        task: The task's name, or None where only the id is known.
        queue: The queue that it was sent to, or None where only the id is known.
        decode: Turns the stored result into the value, or None to leave it as it is.
    """

    __slots__ = ("_handed_out", "_ignored", "_meta", "_session", "decode", "id", "queue", "task")

    def __init__(
        self,
        session: Session,
        task_id: str,
        *,
        task: str | None = None,
        queue: str | None = None,
        decode: Callable[[Any], T_co] | None = None,
        ignored: bool | None = None,
        handed_out: bool = False,
    ) -> None:
        self.id: str = task_id
        self.task: str | None = task
        self.queue: str | None = queue
        self._session = session
        self.decode: Callable[[Any], T_co] | None = decode
        self._ignored = ignored
        self._handed_out = handed_out
        self._meta: TaskMeta | None = None

    @property
    def cached(self) -> TaskMeta | None:
        """What was last seen of the task, without asking; None if it was never looked at."""
        return self._meta

    @property
    def session(self) -> Session:
        """The running parts of the client that it belongs to."""
        return self._session

    @property
    def sent(self) -> bool:
        """Whether this client remembers that it sent the task. False says little: another one may have."""
        return self._handed_out or self._session.queue_of(self.id) is not None

    @property
    def ignored(self) -> bool | None:
        """Whether the task was sent with ``ignore_result=True``, so that there will be no answer.

        None: the message leaves that to how the task is declared, or this client does not know it. An answer is waited
        for; where a task is declared with ``ignore_result=True``, in vain.
        """
        return self._ignored

    def ready(self) -> Coroutine[Any, Any, bool]:
        """Ask whether the task is over: succeeded, failed or revoked.

        Returns:
            A coroutine, for ``if await result.ready():``. It makes one read and does not wait for the task.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
        """
        return Question(self._is_ready(), "await result.ready()")

    async def _is_ready(self) -> bool:
        (over,) = await ready_many(self._session, [self])
        return over

    def state(self) -> Coroutine[Any, Any, str]:
        """Ask for the task's state.

        Returns:
            A coroutine that gives Celery's name for it, or the task's own (such as ``PROGRESS``). ``PENDING`` says that
            nothing is stored: the task may be queued, running, unknown, or long over and expired.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
            ResultDecodeError: What is stored is not a result.
        """
        return Question(self._state(), "await result.state()")

    async def _state(self) -> str:
        return (await self.meta()).state

    async def meta(self) -> TaskMeta:
        """Look at the task once: at its state, and at what that carries. It does not wait for the task.

        Returns:
            The state with the progress, the answer or the failure. Where nothing is stored, it is ``PENDING``.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
            ResultDecodeError: What is stored is not a result.
        """
        (meta,) = await look(self._session, [self])
        return meta

    async def get(self, timeout: float | Unset | None = UNSET) -> T_co:
        """Wait for the answer.

        Args:
            timeout: Seconds to wait. UNSET is the client's default, None is no limit, 0 is one read.

        Returns:
            The answer; None for a task that was sent with ``ignore_result=True``.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyInFlightError: More results would be waited for than ``max_in_flight``; nothing was sent.
            ResultTimeoutError: No answer came in time. The task goes on, and you may ask again.
            TaskFailedError: The task raised.
            TaskRevokedError: The task was revoked or had expired.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ReadError: The result could not be read (with ``timeout=0``; else it is tried until the deadline).
        """
        if self._ignored:
            return None  # type: ignore[return-value] # as Celery does: there will never be one
        if self._meta is None or not self._meta.ready:
            outcome = await self._session.wait([self.id], timeout=self._session.seconds(timeout))
            (value,) = collect(outcome, [self])
            return value
        return value_of(self._meta, self.task, self.decode, self.queue)

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.get().__await__()

    async def updates(self, timeout: float | Unset | None = UNSET) -> AsyncGenerator[TaskMeta, None]:
        """Follow the task's states until it is over.

        States that follow each other quickly may be passed over; the last one never is.

        Args:
            timeout: Seconds until the end. UNSET is the client's default, None is no limit.

        Yields:
            Each new state, with what it carries (the progress, the worker that started it); the final one last.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyInFlightError: More results would be waited for than ``max_in_flight``; nothing was sent.
            ResultTimeoutError: The task was not over in time.
            ResultDecodeError: What is stored is not a result.
        """
        changes: asyncio.Queue[TaskMeta | None] = asyncio.Queue()
        seconds = self._session.seconds(timeout)

        async def follow() -> Outcome:
            try:
                return await self._session.wait([self.id], timeout=seconds, on_change=changes.put_nowait)
            finally:
                changes.put_nowait(None)

        self._session.check()
        waiting = asyncio.create_task(follow())
        try:
            while (change := await changes.get()) is not None:
                self._meta = change
                yield change
            outcome = await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        self.learn(outcome)
        answer = outcome.arrived.get(self.id)
        if isinstance(answer, Exception):
            error = copy.copy(answer)
            raise error
        if answer is None or not answer.ready:
            timed_out = timeout_error(outcome, [self], [self.id], {})
            raise timed_out
        yield answer

    async def revoke(self, *, terminate: bool = False, signal: str = "SIGTERM") -> int:
        """Tell all workers not to run the task, or to stop it.

        Args:
            terminate: Whether to end it even while it runs, by killing the worker's process.
            signal: The signal for that.

        Returns:
            How many workers heard it, where the broker counts them; else 0. It does not say that one of them obeyed;
            the state will.

        Raises:
            TransportError: It could not be sent.
        """
        self._session.check()
        return await self._session.broker.broadcast(revocation([self.id], terminate=terminate, signal=signal)) or 0

    async def forget(self) -> None:
        """Delete the stored result. It cannot be asked for afterwards.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TransportError: It may not have been deleted.
        """
        self._session.check()
        await self._session.backend.delete_many([self.id])
        self._meta = None

    def learn(self, outcome: Outcome) -> None:
        """Remember what a wait has shown.

        Args:
            outcome: How the wait ended.
        """
        answer = outcome.arrived.get(self.id)
        if isinstance(answer, TaskMeta):
            self._meta = answer

    def __repr__(self) -> str:
        state = states.PENDING if self._meta is None else self._meta.state
        return f"<AsyncResult {printable(self.task or 'task')}[{printable(self.id)}], last seen {printable(state)}>"


def is_final(answer: TaskMeta | Exception) -> bool:
    """Tell whether an answer ends a wait.

    Args:
        answer: The meta, or the error with which reading it failed.

    Returns:
        Whether nothing more is to be expected.
    """
    return isinstance(answer, Exception) or answer.ready


def value_of(
    answer: TaskMeta | Exception, task: str | None, decode: Callable[[Any], T] | None, queue: str | None = None
) -> T:
    """Turn a final answer into the value, or raise what it says.

    Args:
        answer: The meta, or the error with which reading it failed.
        task: The task's name, for errors.
        decode: Turns the stored result into the value.
        queue: The queue that it was sent to, for errors.

    Returns:
        The value.

    Raises:
        TaskFailedError: The task raised.
        TaskRevokedError: The task was revoked or had expired.
        ResultDecodeError: It is not a result, or not what the task should answer.
    """
    if isinstance(answer, Exception):
        error = copy.copy(answer)  # One error may be told to several who wait; each gets its own traceback.
        raise error
    failure = answer.failure
    if answer.state == states.REVOKED:
        said = failure.exc_args[0] if failure and failure.exc_args else None
        reason = said if isinstance(said, str) else "revoked"
        raise TaskRevokedError(task_id=answer.task_id, task=task, reason=reason, info=answer.result)
    if failure is not None:
        raise TaskFailedError(
            task_id=answer.task_id,
            task=task,
            exc_type=failure.exc_type,
            exc_module=failure.exc_module,
            exc_args=failure.exc_args,
            traceback=failure.traceback,
            queue=queue,
            info=answer.result,
        )
    if decode is None:
        value: T = answer.result
        return value
    try:
        return decode(answer.result)
    except (TypeError, ValueError) as error:
        raise ResultDecodeError(f"{task or 'the task'} answered something else: {error}", answer.task_id) from error


def check_handles(results: Iterable[AsyncResult[T]]) -> list[AsyncResult[T]]:
    """Check what should be handles.

    Args:
        results: What was given.

    Returns:
        The handles.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(results, AsyncResult) or not isinstance(results, Iterable):
        raise TypeError(f"results must be a list of AsyncResults, not {type(results).__name__}{_advice(results)}")
    handles = list(results)
    for each in handles:
        check_handle(each)
    return handles


def ids_of(tasks: str | AsyncResult[Any] | Iterable[str | AsyncResult[Any]]) -> list[str]:
    """Give the ids of tasks.

    Args:
        tasks: Handles or ids: one, or many.

    Returns:
        The ids.

    Raises:
        TypeError: It is something else.
    """
    each = [tasks] if isinstance(tasks, (str, AsyncResult)) or not isinstance(tasks, Iterable) else list(tasks)
    check_handles(task for task in each if not isinstance(task, str))
    return [task if isinstance(task, str) else task.id for task in each]


def check_handle(result: object) -> None:
    """Check what should be a handle.

    Args:
        result: What was given.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(result, AsyncResult):
        raise TypeError(f"a task's handle must be an AsyncResult, not {type(result).__name__}{_advice(result)}")


def _advice(given: object) -> str:
    if isinstance(given, AsyncResult):
        return "; put it into a list"
    if isinstance(given, str):
        return "; CeleryClient.result(task_id) makes one of an id"
    if isinstance(given, Awaitable):
        return "; is an `await` missing, as before `client.submit(...)`? (For calls there is asyncio.gather)"
    return ""


async def ready_many(session: Session, results: Sequence[AsyncResult[Any]]) -> list[bool]:
    """Ask which tasks are over, by one read for all.

    Args:
        session: The client's running parts.
        results: The handles.

    Returns:
        For each whether it is over.

    Raises:
        ReadError: The results could not be read.
    """
    session.check()
    unsettled = _unsettled(results)
    over = dict.fromkeys((result.id for result in results), True)
    if unsettled:
        outcome = await session.wait(unsettled, timeout=0)
        for result in results:
            if result.id in unsettled:
                result.learn(outcome)
                over[result.id] = is_final(outcome.arrived[result.id])
    return [over[result.id] for result in results]


async def look(session: Session, results: Sequence[AsyncResult[Any]]) -> list[TaskMeta]:
    """Look at tasks, by one read for all.

    Args:
        session: The client's running parts.
        results: The handles.

    Returns:
        For each what is stored. The final state of a task is read once.

    Raises:
        ReadError: The results could not be read.
        ResultDecodeError: What is stored of one of them is not a result.
    """
    session.check()
    known = {result.id: result.cached for result in results if result.cached is not None and result.cached.ready}
    arrived: dict[str, TaskMeta | Exception] = {**known}
    if unsettled := [result.id for result in results if result.id not in known]:
        outcome = await session.wait(dict.fromkeys(unsettled), timeout=0)
        arrived |= outcome.arrived
        for result in results:
            result.learn(outcome)
    metas = []
    for result in results:
        answer = arrived[result.id]
        if isinstance(answer, Exception):
            error = copy.copy(answer)  # One error may be told to several; each gets its own traceback.
            raise error
        metas.append(answer)
    return metas


async def gather(
    session: Session,
    results: Sequence[AsyncResult[T]],
    *,
    timeout: float | None,
    return_exceptions: bool,
    began: float | None = None,
) -> list[T]:
    """Wait for many tasks together.

    Args:
        session: The client's running parts.
        results: The handles.
        timeout: Seconds for all of them. None is no limit, 0 is one read.
        return_exceptions: Whether to put the error of a task that failed in the place of its answer.
        began: When the caller's call began, by the loop's clock: the timeout counts from then. None is now.

    Returns:
        The answers, in order.

    Raises:
        ResultTimeoutError: Not all came in time.
        TaskError: A task failed.
        ResultDecodeError: What is stored is not a result.
        ReadError: With ``timeout=0``: the results could not be read.
    """
    session.check()
    unsettled = _unsettled(results)
    known = {result.id: result.cached for result in results if result.id not in unsettled and result.cached}
    failed = not return_exceptions and any(meta.failure is not None for meta in known.values())
    if unsettled and not failed:
        outcome = await session.wait(unsettled, timeout=timeout, end_on_failure=not return_exceptions, began=began)
    else:
        outcome = Outcome({}, [], timed_out=False, waited=0.0)
    outcome.arrived |= known
    return collect(outcome, results, return_exceptions=return_exceptions)


def _unsettled(results: Sequence[AsyncResult[Any]]) -> dict[str, None]:
    return {result.id: None for result in results if result.cached is None or not result.cached.ready}


def collect(
    outcome: Outcome,
    results: Sequence[AsyncResult[T]],
    *,
    return_exceptions: bool = False,
    expiry_is_timeout: bool = False,
) -> list[T]:
    """Turn how a wait ended into the values, or into the error that it means.

    Args:
        outcome: How the wait ended.
        results: The handles, in the order of the request.
        return_exceptions: Whether to put the error of a task that failed, or gave no answer in time, in the place of
            its answer.
        expiry_is_timeout: Whether the tasks carried the wait's own deadline, so that a task that a worker found
            expired is one whose time was up.

    Returns:
        The values, in order.

    Raises:
        ResultTimeoutError: There are fewer answers than there should be.
        TaskFailedError: A task failed: the first in order that is known to have.
        TaskRevokedError: That one was revoked or had expired.
        ResultDecodeError: What is stored is not a result.
    """
    missing = set(outcome.missing)
    finished: dict[int, Any] = {}
    late: list[str] = []
    expired = False
    for index, result in enumerate(results):
        answer = outcome.arrived.get(result.id)
        result.learn(outcome)
        if result.id in missing or answer is None or not is_final(answer):
            late.append(result.id)
            continue
        try:
            finished[index] = value_of(answer, result.task, result.decode, result.queue)
        except TaskRevokedError as error:
            if expiry_is_timeout and error.reason == "expired":
                late.append(result.id)
                expired = True
            elif return_exceptions:
                finished[index] = error
            else:
                raise
        except (TaskFailedError, ResultDecodeError) as error:
            if not return_exceptions:
                raise
            finished[index] = error
    if late and not return_exceptions:
        timed_out = timeout_error(outcome, results, late, finished, expired=expired)
        raise timed_out
    for index, result in enumerate(results):
        if index not in finished:
            finished[index] = timeout_error(outcome, [result], [result.id], {}, expired=expired)
    return [finished[index] for index in range(len(results))]


def timeout_error(
    outcome: Outcome,
    results: Sequence[AsyncResult[Any]],
    late: Sequence[str],
    finished: dict[int, Any],
    *,
    expired: bool = False,
) -> ResultTimeoutError:
    """Say that time is up.

    Args:
        outcome: How the wait ended.
        results: The handles, in the order of the request.
        late: The ids without an answer, in that order; at least one.
        finished: What did finish, by index.
        expired: Whether a worker found one of them expired.

    Returns:
        The error.
    """
    seen = outcome.arrived.get(late[0])
    first = next(result for result in results if result.id == late[0])
    published = outcome.published
    if published is None and any(result.id == late[0] and result.sent for result in results):
        published = True
    state = seen.state if isinstance(seen, TaskMeta) else states.PENDING
    session = results[0].session
    reason = None
    if outcome.unsent:
        reason = f"It has not been sent: {outcome.unsent}"
    elif outcome.unread:
        reason = f"Results cannot be read at present: {outcome.unread}"
    elif outcome.timed_out and not outcome.looks:
        silent = session.backend if published else session.broker
        advice = doubt(silent) if outcome.waited >= _BARELY else "A longer timeout is needed to know more."
        reason = f"{silent} had not answered by then. {advice}"
    elif expired and not outcome.timed_out:
        reason = (
            "A worker found it expired although its time was not up here: "
            "compare the clocks of this machine and of the worker's"
        )
    elif outcome.nobody and state == states.PENDING:
        reason = (
            f"No worker listens on {session.broker}: start one, or compare this URL with its own "
            "(one without remote control is not seen)"
        )
    return ResultTimeoutError(
        task=results[0].task,
        task_ids=late,
        queue=results[0].queue,
        state=state,
        waited=outcome.waited,
        total=len(results),
        finished=finished,
        reason=reason,
        published=published,
        looks=outcome.looks,
        unread=outcome.unread,
        no_worker=outcome.nobody,
        ignored=first.ignored,
        decoded=first.decode is not None,
    )


_BARELY: Final = 0.2
"""Seconds in which a server that is well need not have answered a client that had no connection yet."""


def revocation(task_ids: list[str], *, terminate: bool, signal: str) -> ControlRequest:
    """Make the remote control command that revokes tasks.

    Args:
        task_ids: Their ids.
        terminate: Whether to end them even while they run.
        signal: The signal for that.

    Returns:
        The command.
    """
    return ControlRequest(method="revoke", arguments={"task_id": task_ids, "terminate": terminate, "signal": signal})
