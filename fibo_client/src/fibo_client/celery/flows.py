"""Chains, groups and chords that were sent: their results, and how they are sent and awaited whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fibo_client.celery.canvas import Chain, Chord, Group, Task, tasks_of
from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.gather import call_job, gather, look_at_metas, news
from fibo_client.celery.owned_result import prepare_owned
from fibo_client.celery.result import AsyncResult, revocation
from fibo_client.celery.signature import Flow, Signature
from fibo_client.errors import PublishError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence

    from fibo_client.celery.canvas import Parts, Plan, Planned
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import SendOptions

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SIZE_EXPIRES: Final = 86400.0
"""Seconds for which it is stored how many results a chord waits for, as by Celery's default."""

AFTERWARDS: Final = 10.0
"""Seconds after the deadline at which nothing of a chord runs any more."""

_GROUP: Final = "celery-taskset-meta-"


class FlowResult(Generic[T_co]):
    """A chain, a group or a chord that was sent. Awaiting it waits for its result with the client's default timeout.

    Every task of it is watched: a wait ends as soon as one ends badly, although Celery may leave those after it without
    any state.

    Attributes:
        id: The id of the task whose result this is; of a group, its own id.
        parts: The steps of a chain, the members of a group; the members of a chord's header, and its body last.
        tasks: The handles of all tasks, in the order in which they were written.
    """

    def __init__(self, session: Session, planned: Parts, handles: Mapping[str, AsyncResult[Any]]) -> None:
        self._session = session
        self.parts: list[Any] = [_result(session, part, handles) for part in planned.parts]
        self.tasks: tuple[AsyncResult[Any], ...] = tuple(handles[task.id] for task in tasks_of(planned))
        self.id: str = planned.id or (self.parts[-1].id if self.parts else "")

    async def get(self, timeout: float | Unset | None = UNSET) -> T_co:
        """Wait for the result.

        Args:
            timeout: Seconds to wait. UNSET is the client's default, None is no limit, 0 is one read.

        Returns:
            The result.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: No result came in time. The error names the first task without one.
            TaskFailedError: A task raised.
            TaskRevokedError: A task was revoked or had expired.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ClientStateError: The client is not open here, or was closed meanwhile.
        """
        awaited = [task for task in self.tasks if not task.ignored]
        seconds = self._session.config.seconds(timeout)
        values = await gather(self._session, awaited, timeout=seconds, return_exceptions=False)
        return self.value_from({task.id: value for task, value in zip(awaited, values, strict=True)})

    def value_from(self, values: Mapping[str, Any]) -> T_co:
        """Give the result, where those of all tasks are known by their ids."""
        value: T_co = _value_of(self.parts[-1], values)
        return value

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.get().__await__()

    async def metas(self) -> list[TaskMeta]:
        """Look at all tasks once, by one read. It waits for none of them.

        Returns:
            For each of `tasks` what is stored.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
            ResultDecodeError: What is stored of one of them is not a result.
        """
        return await look_at_metas(self._session, self.tasks)

    async def states(self) -> list[str]:
        """Ask for the states of all tasks, by one read.

        Returns:
            For each of `tasks` Celery's name of its state.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
            ResultDecodeError: What is stored of one of them is not a result.
        """
        return [meta.state for meta in await self.metas()]

    async def ready(self) -> bool:
        """Ask whether it is over: whether all tasks have ended, or one has ended badly. It waits for none of them.

        Returns:
            Whether it is.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
            ResultDecodeError: What is stored of one of them is not a result.
        """
        metas = await self.metas()
        return any(meta.failure for meta in metas if meta.ready) or all(meta.ready for meta in metas)

    async def updates(
        self, timeout: float | Unset | None = UNSET
    ) -> AsyncGenerator[tuple[AsyncResult[Any], TaskMeta], None]:
        """Follow the states of all tasks until it is over.

        Args:
            timeout: Seconds until the end. UNSET is the client's default, None is no limit.

        Yields:
            Each new state, with the handle of its task.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: It was not over in time.
            ResultDecodeError: What is stored is not a result.
        """
        session = self._session
        handles = {task.id: task for task in self.tasks if not task.ignored}
        seconds = session.config.seconds(timeout)
        wait = session.enter(list(handles), timeout=seconds, wants_changes=True, end_on_failure=True)
        try:
            seen = False
            while not seen:
                seen = wait.over  # What came before it was is told, too.
                arrived, wait.arrived = wait.arrived, {}
                while wait.changes:
                    meta = wait.changes.popleft()
                    yield handles[meta.task_id], meta
                for task_id, answer in arrived.items():
                    handles[task_id].learn(answer)
                    if isinstance(answer, Exception):
                        raise answer
                    yield handles[task_id], answer
                if not seen and not wait.arrived and not wait.over:
                    await news(wait)
        finally:
            session.leave(wait)
        session.check_error(wait)
        if wait.timed_out:
            await self.get(0)

    async def revoke(self, *, terminate: bool = False, signal: str = "SIGTERM") -> int:
        """Tell all workers not to run any of the tasks, or to stop them.

        Args:
            terminate: Whether to end them even while they run, by killing the worker's process.
            signal: The signal for that.

        Returns:
            How many workers heard it, where the broker counts them; else 0.

        Raises:
            TransportError: It could not be sent.
        """
        self._session.check()
        request = revocation([task.id for task in self.tasks], terminate=terminate, signal=signal)
        return await self._session.broker.broadcast(request) or 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.tasks)} tasks>"


class ChainResult(FlowResult[T_co]):
    """A chain that was sent."""

    @property
    def steps(self) -> tuple[AsyncResult[Any] | FlowResult[Any], ...]:
        """The steps: of a task its handle, of a group or chord its result."""
        return tuple(self.parts)

    @property
    def last(self) -> AsyncResult[T_co] | FlowResult[T_co]:
        """The last step."""
        last: AsyncResult[T_co] | FlowResult[T_co] = self.parts[-1]
        return last


class GroupResult(FlowResult[list[T_co]], Generic[T_co]):
    """A group that was sent: its members, in order."""

    def value_from(self, values: Mapping[str, Any]) -> list[T_co]:
        """Give the results of the members, in order."""
        return [_value_of(part, values) for part in self.parts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> AsyncResult[T_co] | FlowResult[T_co]:
        member: AsyncResult[T_co] | FlowResult[T_co] = self.parts[index]
        return member

    def __iter__(self) -> Iterator[AsyncResult[T_co] | FlowResult[T_co]]:
        return iter(self.parts)


class ChordResult(FlowResult[T_co]):
    """A chord that was sent."""

    @property
    def header(self) -> tuple[AsyncResult[Any] | FlowResult[Any], ...]:
        """The members of the header."""
        return tuple(self.parts[:-1])

    @property
    def body(self) -> AsyncResult[T_co] | FlowResult[T_co]:
        """What runs when all of the header has ended."""
        last: AsyncResult[T_co] | FlowResult[T_co] = self.parts[-1]
        return last


def _result(session: Session, planned: Planned, handles: Mapping[str, AsyncResult[Any]]) -> Any:
    if isinstance(planned, Task):
        return handles[planned.id]
    kinds = {Chain: ChainResult, Group: GroupResult, Chord: ChordResult}
    return kinds[type(planned.flow)](session, planned, handles)


def _value_of(part: AsyncResult[Any] | FlowResult[Any], values: Mapping[str, Any]) -> Any:
    return part.value_from(values) if isinstance(part, FlowResult) else values.get(part.id)


async def send_flow(
    session: Session,
    flow: Flow[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    retry: bool,
    began: float,
) -> Any:
    """Send a chain, a group, a chord, or a task with links. See `CeleryClient.send`."""
    messages, planned, span = await _encode(session, flow, options, {})
    handles = _handles(session, planned, messages, handed_out=True)
    try:
        await _store_sizes(session, planned, messages)
        await session.publish(messages, span, timeout=timeout, retry=retry, began=began)
    except BaseException:
        _discard(session, planned)
        raise
    return _result(session, planned.result, handles)


async def call_flow(
    session: Session,
    flow: Flow[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    retry: bool,
    keep_result: bool,
    terminate_on_cancel: bool,
    began: float,
) -> Any:
    """Send a chain, a group, a chord, or a task with links, and wait for its result. See `CeleryClient.call`."""
    defaults, own_expiry = prepare_owned(_signatures(flow), options, timeout)
    messages, planned, span = await _encode(session, flow, options, defaults)
    handles = _handles(session, planned, messages)
    tasks = list(handles.values())
    try:
        await _store_sizes(session, planned, messages)
        values = await call_job(
            session,
            messages,
            tasks,
            span,
            timeout=timeout,
            began=began,
            expiry_is_timeout=not own_expiry,
            retry=retry,
            keep_results=keep_result,
            terminate_on_cancel=terminate_on_cancel,
        )
    except BaseException:
        _discard(session, planned, AFTERWARDS if timeout is None else timeout + AFTERWARDS)
        raise
    found = {task.id: value for task, value in zip(tasks, values, strict=True)}
    return _value_of(_result(session, planned.result, handles), found)


async def _encode(
    session: Session, flow: Flow[Any], options: SendOptions, defaults: Mapping[str, Any]
) -> tuple[list[TaskMessage], Plan, Any]:
    routes = session.routes
    route = None if routes is None else lambda each: routes.apply(each, options)
    first = next(_signatures(flow))
    span = session.start_send(first if route is None else route(first), options, batch=not isinstance(flow, Signature))
    messages, planned = await session.encoder.flow(flow, options, span, defaults, route)
    session.check()
    return messages, planned, span


def _signatures(flow: Any) -> Iterator[Signature[Any]]:
    if isinstance(flow, Signature):
        yield flow
    elif isinstance(flow, Chord):
        yield from _signatures(flow.header)
        yield from _signatures(flow.body)
    else:
        for part in flow.steps if isinstance(flow, Chain) else flow.members:
            yield from _signatures(part)


def _handles(
    session: Session, planned: Plan, messages: Sequence[TaskMessage], *, handed_out: bool = False
) -> dict[str, AsyncResult[Any]]:
    sent = {message.id: message for message in messages}
    handles = {}
    for task in tasks_of(planned.result):
        message, options = sent.get(task.id), task.signature.options
        handles[task.id] = AsyncResult[Any](
            session,
            task.id,
            task=task.signature.task,
            queue=message.template.queue if message else options.get("queue"),
            decode=task.signature.decode,
            ignored=message.template.headers["ignore_result"] if message else options.get("ignore_result"),
            handed_out=handed_out and message is not None,
        )
    return handles


async def _store_sizes(session: Session, planned: Plan, messages: Sequence[TaskMessage]) -> None:
    """Store how many results each chord waits for, before any of them can come.

    Raises:
        PublishError: It could not be stored, so nothing was sent.
    """
    try:
        for group_id, size in planned.sizes.items():
            await session.backend.put(f"{_GROUP}{group_id}.s", str(size).encode(), expires=SIZE_EXPIRES)
    except TransportError as error:
        reason = f"the size of a chord could not be stored: {error}"
        raise PublishError(reason, [message.id for message in messages], refused=error.refused) from error


def _discard(session: Session, planned: Plan, delay: float = 0.0) -> None:
    """Delete what a chord that failed, or was not sent, would leave for a day: now, and once its tasks have ended."""
    names = [f"{_GROUP}{group_id}.{kind}" for group_id in planned.sizes for kind in ("s", "j", "d", "t")]
    session.cleaner.delete(names, named=True)
    if delay:
        session.cleaner.delete(names, delay, named=True)
