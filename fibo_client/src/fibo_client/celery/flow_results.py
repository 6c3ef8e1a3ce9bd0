"""The results of chains, groups and chords that were sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from fibo_client.celery.budget import Budget
from fibo_client.celery.canvas import Group
from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.flow_steps import NAMED, Composed, Kind, named
from fibo_client.celery.gather import gather, look_at_metas, news
from fibo_client.celery.protocol.groups import EXPIRES, group_name
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.result import AsyncResult, revoke
from fibo_client.errors import ResultTimeoutError
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence

    from fibo_client.celery.jobs import Job
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Flow
    from fibo_client.errors import FiboError

T_co = TypeVar("T_co", covariant=True)


class FlowResult(Composed, Generic[T_co]):
    """A chain, a group or a chord that was sent. Awaiting it waits for its result with the client's default timeout.

    Every task of it is watched: a wait ends as soon as one ends badly, although Celery may leave those after it without
    any state.

    Attributes:
        id: The id of the task whose result this is; of a group, its own id.
        parts: The steps of a chain, the members of a group; the members of a chord's header, and its body last.
    """

    __slots__ = ("_session", "_tasks", "id", "parts")

    def __init__(self, session: Session, parts: Sequence[Any], flow_id: str | None = None) -> None:
        self._session = session
        self._tasks: tuple[AsyncResult[Any], ...] | None = None
        self.parts: Sequence[Any] = parts
        self.id: str = parts[-1].id if flow_id is None else flow_id

    @property
    def tasks(self) -> tuple[AsyncResult[Any], ...]:
        """The handles of all tasks, in the order in which they were written."""
        if self._tasks is None:
            self._tasks = tuple(_tasks(self.parts))
        return self._tasks

    @property
    def whole(self) -> FlowResult[T_co]:
        """The result with its structure: this one, unless `CeleryClient.start` gave it."""
        return self

    @property
    def _jobs(self) -> Sequence[Job]:
        """What it was sent with, where this client owns it."""
        return ()

    def _seconds(self, timeout: float | Unset | None) -> float | None:
        return self._session.config.seconds(timeout)

    async def get(self, timeout: float | Unset | None = UNSET) -> T_co:
        """Wait for the result.

        Args:
            timeout: Seconds to wait. UNSET is the client's default, None is no limit, 0 is one read.

        Returns:
            The result.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: No result came in time. The error names the task that is waited for.
            TaskFailedError: A task raised. The error says where the task stands.
            TaskRevokedError: A task was revoked or had expired. The error says where the task stands.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ClientStateError: The client is not open here, or was closed meanwhile.
        """
        awaited = [task for task in self.tasks if not task.ignored]
        seconds = self._seconds(timeout)
        wanted = await wanted_in_turns(self)
        try:
            values = await gather(self._session, awaited, timeout=seconds, return_exceptions=False, wanted=wanted)
        except NAMED as error:
            told = await named(self.whole, error)
            raise told from None
        value: T_co = await value_of_all(self, awaited, values)
        return value

    def value_from(self, values: Mapping[str, Any]) -> T_co:
        """Give the result, where those of all tasks are known by their ids."""
        value: T_co = value_of(self.parts[-1], values)
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
        """Ask whether it is over: whether its result is there, or a task has ended badly. It waits for none of them.

        Returns:
            Whether it is.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
            ResultDecodeError: What is stored of one of them is not a result.
        """
        ended = {meta.task_id: meta for meta in await self.metas() if meta.ready}
        wanted = wanted_of(self) or {task.id for task in self.tasks if not task.ignored}
        return any(meta.failure for meta in ended.values()) or ended.keys() >= wanted

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
        session, jobs = self._session, self._jobs
        handles = {task.id: task for task in self.tasks if not task.ignored}
        if not handles:
            return
        seconds = self._seconds(timeout)
        wait = session.enter(
            list(handles), timeout=seconds, wants_changes=True, end_on_failure=True, enough=wanted_of(self), jobs=jobs
        )
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
            session.leave(wait, jobs)
        session.check_error(wait)
        if wait.timed_out:
            try:
                await self.get(0)
            except ResultTimeoutError as error:
                raise error.replace(waited=seconds or 0.0) from None

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
        return await revoke(self._session, [task.id for task in self.tasks], terminate=terminate, signal=signal)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.tasks)} tasks>"


class ChainResult(FlowResult[T_co]):
    """A chain that was sent."""

    __slots__ = ()

    kind: Kind = "chain"

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

    __slots__ = ()

    kind: Kind = "group"

    @overload
    async def get(
        self, timeout: float | Unset | None = ..., *, return_exceptions: Literal[False] = ...
    ) -> list[T_co]: ...
    @overload
    async def get(self, timeout: float | Unset | None = ..., *, return_exceptions: bool) -> list[T_co | FiboError]: ...
    async def get(self, timeout: float | Unset | None = UNSET, *, return_exceptions: bool = False) -> Any:
        """Wait for the results of all members. See `FlowResult.get`.

        Args:
            timeout: Seconds to wait. UNSET is the client's default, None is no limit, 0 is one read.
            return_exceptions: Whether to put the error of a member that failed, or gave no answer in time, in the place
                of its result, and to wait for the others.

        Returns:
            The results, in order.

        Raises:
            TypeError: Errors are wanted in the places of results, and a member is a chain or a chord.
            ResultTimeoutError: Not all came in time. Other errors are those of `FlowResult.get`.
        """
        if not return_exceptions:
            return await super().get(timeout)
        if any(isinstance(part, FlowResult) for part in self.parts):
            raise TypeError("return_exceptions is for groups of tasks; await the chains and chords of this one each")
        seconds = self._session.config.seconds(timeout)
        return await gather(self._session, self.parts, timeout=seconds, return_exceptions=True)

    def value_from(self, values: Mapping[str, Any]) -> list[T_co]:
        """Give the results of the members, in order."""
        return [value_of(part, values) for part in self.parts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> AsyncResult[T_co] | FlowResult[T_co]:
        member: AsyncResult[T_co] | FlowResult[T_co] = self.parts[index]
        return member

    def __iter__(self) -> Iterator[AsyncResult[T_co] | FlowResult[T_co]]:
        return iter(self.parts)

    async def save(self) -> None:
        """Store which tasks the group has, as Celery does: `CeleryClient.group` finds it by its id, for a day.

        Raises:
            TypeError: A member is no task, but a chain or a chord.
            TransportError: It may not have been stored.
        """
        if any(isinstance(part, FlowResult) for part in self.parts):
            raise TypeError("a group with chains or chords in it cannot be saved; save the ids of its tasks")
        members = [[[part.id, None], None] for part in self.parts]
        stored = json.dumps({"result": [[self.id, None], members]}).encode()
        await self._session.backend.put_many({group_name(self.id): stored}, expires=EXPIRES)


class ChordResult(FlowResult[T_co]):
    """A chord that was sent.

    Attributes:
        group_id: The id of its header.
    """

    __slots__ = ("group_id",)

    kind: Kind = "chord"

    def __init__(self, session: Session, parts: Sequence[Any], group_id: str) -> None:
        super().__init__(session, parts)
        self.group_id: str = group_id

    @property
    def header(self) -> tuple[AsyncResult[Any] | FlowResult[Any], ...]:
        """The members of the header."""
        return tuple(self.parts[:-1])

    @property
    def body(self) -> AsyncResult[T_co] | FlowResult[T_co]:
        """What runs when all of the header has ended."""
        last: AsyncResult[T_co] | FlowResult[T_co] = self.parts[-1]
        return last


def _tasks(parts: Sequence[Any]) -> Iterator[AsyncResult[Any]]:
    for part in parts:
        if isinstance(part, FlowResult):
            yield from part.tasks
        else:
            yield part


def result_of(session: Session, flow: Flow[Any], group_id: str | None, parts: list[Any]) -> FlowResult[Any]:
    """Make the result of a flow from those of its parts.

    Args:
        session: The client's running parts.
        flow: The flow: a chain, a group or a chord.
        group_id: Of a group or a chord, the id of the group.
        parts: The steps of a chain, the members of a group; the members of a chord's header, and its body last.

    Returns:
        The result.
    """
    if group_id is None:
        return ChainResult(session, parts)
    return (GroupResult if isinstance(flow, Group) else ChordResult)(session, parts, group_id)


async def value_of_all(result: AsyncResult[Any] | FlowResult[Any], tasks: Sequence[Any], values: Sequence[Any]) -> Any:
    """Give the result of a flow from the values of its tasks. The event loop gets its turn now and then."""
    found: dict[str, Any] = {}
    budget = Budget()
    for task, value in zip(tasks, values, strict=True):
        found[task.id] = value
        if budget.is_spent():
            await budget.pause()
    if isinstance(result, FlowResult):
        result = result.whole
    if not isinstance(result, GroupResult):
        return value_of(result, found)
    members = []
    for part in result.parts:
        members.append(value_of(part, found))
        if budget.is_spent():
            await budget.pause()
    return members


async def wanted_in_turns(part: AsyncResult[Any] | FlowResult[Any], count: int | None = None) -> set[str] | None:
    """Give the ids of the tasks that make up the result of a part, as `wanted_of`, of very many tasks.

    Args:
        part: The part.
        count: How many tasks it has, where that is known.

    Returns:
        The ids.
    """
    if isinstance(part, FlowResult):
        part = part.whole
    if not isinstance(part, GroupResult):
        return wanted_of(part)
    wanted: set[str] = set()
    budget = Budget()
    for member in part.parts:
        for task in _last_of(member):
            if task.ignored:
                return None
            wanted.add(task.id)
        if budget.is_spent():
            await budget.pause()
    return None if len(wanted) in (0, len(part.tasks) if count is None else count) else wanted


def wanted_of(part: AsyncResult[Any] | FlowResult[Any]) -> set[str] | None:
    """Give the ids of the tasks that make up the result of a part; None where all or none do, or one stores nothing.

    Those before them have run when these have ended. What they store may come later; or never, where they are declared
    to have no result.

    Returns:
        The ids.
    """
    if not isinstance(part, FlowResult):
        return None
    last = list(_last_of(part.whole))
    if len(last) in (0, len(part.tasks)) or any(task.ignored for task in last):
        return None
    return {task.id for task in last}


def _last_of(part: Any) -> Iterator[AsyncResult[Any]]:
    if not isinstance(part, FlowResult):
        yield part
    else:
        for each in part.parts if isinstance(part, GroupResult) else part.parts[-1:]:
            yield from _last_of(each)


def value_of(part: AsyncResult[Any] | FlowResult[Any], values: Mapping[str, Any]) -> Any:
    """Give the result of a part, where those of all tasks are known by their ids."""
    return part.value_from(values) if isinstance(part, FlowResult) else values.get(part.id)


def from_tuple(session: Session, value: Any) -> AsyncResult[Any] | GroupResult[Any]:
    """Make handles of what Celery's ``as_tuple()`` gives: ``[[id, parent], members or None]``.

    Args:
        session: The client's running parts.
        value: The tuple, as JSON has it.

    Returns:
        The handle of a task, or of a group.

    Raises:
        ValueError: It is something else.
    """
    match value:
        case [[str(task_id), _], None] if task_id:
            return AsyncResult(session, check_name("id", task_id))
        case [[str(group_id), _], list(members)] if group_id:
            return GroupResult(session, [from_tuple(session, each) for each in members], check_name("id", group_id))
    raise ValueError(f"it is not what as_tuple() of a result gives: {short_repr(value)}")
