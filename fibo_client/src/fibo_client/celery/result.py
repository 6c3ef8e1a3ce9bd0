"""The handle of a task: ask for its state, wait for its answer, revoke it, forget it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fibo_client.celery.budget import Budget
from fibo_client.celery.cleaner import MAX_REVOKED, REVOKE_PAUSE
from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.gather import conclude, look, look_at_metas, news
from fibo_client.celery.outcome import timeout_error, value_of
from fibo_client.celery.pending import is_final
from fibo_client.celery.protocol import states
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.protocol.meta import TaskMeta
from fibo_client.errors import ResultDecodeError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from fibo_client.celery.flow_results import GroupResult
    from fibo_client.celery.jobs import Job
    from fibo_client.celery.pending import Wait
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Signature

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

    expiry_is_timeout: bool = False

    @property
    def job(self) -> Job | None:
        """What the task was sent with, where this client owns it."""
        return None

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

    async def ready(self) -> bool:
        """Ask whether the task is over: succeeded, failed or revoked. It makes one read and does not wait for the task.

        Returns:
            Whether it is.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
        """
        return is_final((await look(self._session, [self]))[self.id])

    async def state(self) -> str:
        """Ask for the task's state. It makes one read and does not wait for the task.

        Returns:
            Celery's name for it, or the task's own (such as ``PROGRESS``). ``PENDING`` says that nothing is stored: the
            task may be queued, running, unknown, or long over and expired.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
            ResultDecodeError: What is stored is not a result.
        """
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
        (meta,) = await look_at_metas(self._session, [self])
        return meta

    async def get(self, timeout: float | Unset | None = UNSET) -> T_co:
        """Wait for the answer.

        Args:
            timeout: Seconds to wait. UNSET is the client's default, None is no limit, 0 is one read.

        Returns:
            The answer; None for a task that was sent with ``ignore_result=True``.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: No answer came in time. The task goes on, and you may ask again.
            TaskFailedError: The task raised.
            TaskRevokedError: The task was revoked or had expired.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ReadError: The result could not be read (with ``timeout=0``; else it is tried until the deadline).
        """
        if self._ignored:
            return None  # type: ignore[return-value] # as Celery does: there will never be one
        if self._meta is not None and self._meta.ready:
            return value_of(self._meta, self.task, self.decode, self.queue)
        wait, began = self._enter(timeout)
        try:
            await wait.future
        finally:
            self._leave(wait)
        value: T_co = conclude(self._session, self, wait, began)
        return value

    def _enter(self, timeout: float | Unset | None, *, wants_changes: bool = False) -> tuple[Wait, float]:
        """Begin to wait; return the wait, and when the time that errors tell began."""
        session = self._session
        seconds = session.config.seconds(timeout)
        began = session.check().time()
        return session.enter([self.id], timeout=seconds, wants_changes=wants_changes), began

    def _leave(self, wait: Wait) -> None:
        self._session.leave(wait)

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
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: The task was not over in time.
            ResultDecodeError: What is stored is not a result.
        """
        session = self._session
        wait, began = self._enter(timeout, wants_changes=True)
        try:
            while not wait.over or wait.changes:
                while wait.changes:
                    self._meta = wait.changes.popleft()
                    yield self._meta
                if not wait.over:
                    await news(wait)
        finally:
            self._leave(wait)
        answer = wait.arrived.get(self.id)
        if isinstance(answer, Exception):
            error = copy.copy(answer)
            raise error
        if answer is None or not answer.ready:  # A single read may show a state that is not final.
            session.check_error(wait)
            facts = session.facts(wait, asyncio.get_running_loop().time() - began, self.job)
            timed_out = timeout_error(wait, facts, self)
            raise timed_out
        self._meta = answer
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
        return await revoke(self._session, [self.id], terminate=terminate, signal=signal)

    async def forget(self) -> None:
        """Delete the stored result. It cannot be asked for afterwards.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TransportError: It may not have been deleted.
        """
        self._session.check()
        await self._session.backend.delete_many([self.id])
        self._meta = None

    async def children(self) -> list[AsyncResult[Any] | GroupResult[Any]]:
        """Look at which tasks the task has sent: the next step of its chain, and those that its function sent.

        Returns:
            Their handles; none while nothing is stored.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The result could not be read.
            ResultDecodeError: What is stored is not a result, or names no tasks.
        """
        from fibo_client.celery.flow_results import from_tuple  # Few ask for them.

        stored = (await self.meta()).children or ()
        try:
            return [from_tuple(self._session, each) for each in stored]
        except ValueError as error:
            raise ResultDecodeError(f"its children are something else: {error}", self.id) from error

    async def leaf(self, timeout: float | Unset | None = UNSET) -> Any:
        """Wait for the task, then for the first of its children, and so on to the last.

        Args:
            timeout: Seconds for all of them. UNSET is the client's default, None is no limit.

        Returns:
            The answer of the last.

        Raises:
            ResultTimeoutError: One gave no answer in time. Other errors are those of `get`.
        """
        seconds = self._session.config.seconds(timeout)
        loop = self._session.check()
        until = None if seconds is None else loop.time() + seconds
        last: AsyncResult[Any] | GroupResult[Any] = self
        while True:
            answer = await last.get(None if until is None else max(0.0, until - loop.time()))
            children = await last.children() if isinstance(last, AsyncResult) else []
            if not children:
                return answer
            last = children[0]

    def learn(self, answer: TaskMeta | Exception) -> None:
        """Remember what was seen of the task."""
        if isinstance(answer, TaskMeta):
            self._meta = answer

    def __repr__(self) -> str:
        state = states.PENDING if self._meta is None else self._meta.state
        return f"<AsyncResult {printable(self.task or 'task')}[{printable(self.id)}], last seen {printable(state)}>"


async def check_handles(results: Iterable[AsyncResult[T]]) -> list[AsyncResult[T]]:
    """Check what should be handles. With many, the event loop gets its turn now and then.

    Args:
        results: What was given.

    Returns:
        The handles.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(results, AsyncResult) or not isinstance(results, Iterable):
        raise TypeError(f"results must be a list of AsyncResults, not {type(results).__name__}{_advice(results)}")
    handles: list[AsyncResult[T]] = []
    budget = Budget()
    for each in results:
        check_handle(each)
        handles.append(each)
        if budget.is_spent():
            await budget.pause()
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
    for task in each:
        if not isinstance(task, str):
            check_handle(task)
    return [task if isinstance(task, str) else task.id for task in each]


def handle_of(
    session: Session, message: TaskMessage, signature: Signature[T], *, handed_out: bool = False
) -> AsyncResult[T]:
    """Make the handle of a task from its message. `handed_out` says that its sender does not own it."""
    return AsyncResult(
        session,
        message.id,
        task=signature.task,
        queue=message.template.queue,
        decode=signature.decode,
        ignored=message.template.headers["ignore_result"],
        handed_out=handed_out,
    )


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


async def revoke(session: Session, task_ids: Sequence[str], *, terminate: bool, signal: str) -> int:
    """Tell all workers not to run tasks, or to stop them: no more at a time than workers bear. See `cleaner`.

    Args:
        session: The client's running parts.
        task_ids: The ids of the tasks.
        terminate: Whether to end them even while they run.
        signal: The signal for that.

    Returns:
        How many workers heard the last of it, where the broker counts them; else 0.

    Raises:
        TransportError: It could not be sent.
    """
    session.check()
    heard = 0
    for start in range(0, len(task_ids), MAX_REVOKED):
        if start:
            await asyncio.sleep(REVOKE_PAUSE)
        some = list(task_ids[start : start + MAX_REVOKED])
        arguments = {"task_id": some, "terminate": terminate, "signal": signal}
        heard = await session.broker.broadcast(ControlRequest(method="revoke", arguments=arguments)) or 0
    return heard
