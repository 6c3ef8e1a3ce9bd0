"""From chains, groups and chords to what is sent for them and what is awaited of them. Pure.

Source for the form on the wire: ``celery.canvas`` and ``celery.backends.redis``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fibo_client.celery.canvas import Chain, Chord, Group
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.signature import Flow, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

__all__ = ["FlowMessage", "Parts", "Plan", "Planned", "Task", "plan_in_steps", "tasks_of"]


class Task(NamedTuple):
    """A task of a flow that was planned."""

    id: str
    signature: Signature[Any]


class Parts(NamedTuple):
    """A chain, a group or a chord that was planned.

    Attributes:
        flow: What was planned.
        id: Of a group or chord, the id of the group; of a chain None.
        parts: The steps of a chain, the members of a group; the members of a chord's header, and its body last.
    """

    flow: Flow[Any]
    id: str | None
    parts: tuple[Planned, ...]


Planned: TypeAlias = Task | Parts


class FlowMessage(NamedTuple):
    """What is sent for a task of a flow that runs at once.

    Attributes:
        id: The task's id.
        signature: The task with its arguments and options.
        group: The id of the group that it is in, and its index there.
        embed: What its worker is to send later.
    """

    id: str
    signature: Signature[Any]
    group: tuple[str, int] | None
    embed: dict[str, Any]


class Plan(NamedTuple):
    """What is sent for a flow, and what is awaited of it.

    Attributes:
        messages: The tasks that run at once.
        sizes: How many results each chord waits for, by the id of its group. Stored before the messages are sent.
        result: All tasks of the flow.
    """

    messages: list[FlowMessage]
    sizes: dict[str, int]
    result: Planned


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a task stands in a group or in a chord's header. Of a chain, that is its last task.

    The group of those that a worker sends is known by what they stand in.
    """

    group: str | None
    index: int
    body: dict[str, Any] | None

    @property
    def options(self) -> dict[str, Any]:
        options = {"group_id": self.group, "group_index": self.index, "chord": self.body}
        return {name: value for name, value in options.items() if value is not None}


def plan_in_steps(
    flow: Flow[Any],
    options: Callable[[Signature[Any], str], dict[str, Any]],
    new_id: Callable[[], str],
    flow_id: str | None = None,
) -> Generator[None, None, Plan]:
    """Plan how a flow is sent, a member of the outermost group at a time: a group may have very many.

    Args:
        flow: What is sent.
        options: Gives the options of a step and its id as its worker reads them.
        new_id: Makes an id.
        flow_id: The id of the whole: of a chain's last step, of a chord's body, of a group. None is a new one.

    Yields:
        None after each member.

    Returns:
        The messages, and what is awaited.

    Raises:
        MessageError: An id or an option of a step cannot be one.
    """
    planner = _Planner(options, new_id)
    if not isinstance(flow, (Group, Chord)):
        return Plan(planner.messages, planner.sizes, planner.start(flow, None, flow_id))
    parts: list[Planned] = []
    group_id, places, last = planner.begin_group(flow, None, flow_id)
    for member, place in places:
        parts.append(planner.start(member, place))
        yield
    return Plan(planner.messages, planner.sizes, Parts(flow, group_id, (*parts, *last)))


class _Planner:
    def __init__(self, options: Callable[[Signature[Any], str], dict[str, Any]], new_id: Callable[[], str]) -> None:
        self._options = options
        self._new_id = new_id
        self.messages: list[FlowMessage] = []
        self.sizes: dict[str, int] = {}

    def start(self, flow: Flow[Any], place: _Place | None, flow_id: str | None = None) -> Planned:
        """Plan what runs at once, and all that follows it. `flow_id` is the id of the whole, where it was given."""
        if isinstance(flow, Signature):
            return self._first(flow, (), place, flow_id)
        if isinstance(flow, Chain):
            first, *rest = flow.steps
            if not isinstance(first, Signature):  # It is the only one.
                return Parts(flow, None, (self.start(first, place, flow_id),))
            embedded = self._embed_steps(rest, place, flow_id)
            own_place, own_id = (None, None) if rest else (place, flow_id)
            started = self._first(first, [each for each, _ in embedded], own_place, own_id)
            return Parts(flow, None, (started, *(part for _, part in embedded)))
        group_id, places, last = self.begin_group(flow, place, flow_id)
        return Parts(flow, group_id, (*(self.start(member, where) for member, where in places), *last))

    def begin_group(
        self, flow: Flow[Any], place: _Place | None, flow_id: str | None
    ) -> tuple[str, Iterator[tuple[Flow[Any], _Place]], tuple[Planned, ...]]:
        """Plan the body of a chord; give the group's id, its members with their places, and the planned body."""
        group_id = self._new_id() if flow_id is None or isinstance(flow, Chord) else flow_id
        body, last, header = None, tuple[Planned, ...](), flow
        if isinstance(flow, Chord):
            body, planned = self._embed(flow.body, place, group_id, flow_id)
            self.sizes[group_id] = len(flow.header)
            last, header = (planned,), flow.header
        members = enumerate(_members(header))
        return group_id, ((member, _Place(group_id, index, body)) for index, member in members), last

    def _first(
        self, signature: Signature[Any], rest: Sequence[dict[str, Any]], place: _Place | None, flow_id: str | None
    ) -> Task:
        task_id = self._id(signature, flow_id)
        embed = {
            "callbacks": self._linked(signature, "link"),
            "errbacks": self._linked(signature, "link_error"),
            "chain": list(reversed(rest)) or None,  # Workers take the next one from the end.
            "chord": None if place is None else place.body,
        }
        where = None if place is None or place.group is None else (place.group, place.index)
        self.messages.append(FlowMessage(task_id, signature, where, embed))
        return Task(task_id, signature)

    def _linked(self, signature: Signature[Any], option: str) -> list[dict[str, Any]] | None:
        given = signature.options.get(option)
        if given is None:
            return None
        return [self._embed(each, None)[0] for each in (given if isinstance(given, (list, tuple)) else [given])]

    def _id(self, signature: Signature[Any], flow_id: str | None) -> str:
        given: str | None = signature.options.get("task_id") if flow_id is None else flow_id
        return self._new_id() if given is None else check_name("task_id", given)

    def _embed_steps(
        self, steps: Sequence[Flow[Any]], place: _Place | None, flow_id: str | None
    ) -> list[tuple[dict[str, Any], Planned]]:
        """Write the steps that follow each other. Place and id are those of the last."""
        before, last = steps[:-1], steps[-1:]
        return [
            *(self._embed(step, None) for step in before),
            *(self._embed(step, place, None, flow_id) for step in last),
        ]

    def _embed(
        self, flow: Flow[Any], place: _Place | None, group_id: str | None = None, flow_id: str | None = None
    ) -> tuple[dict[str, Any], Planned]:
        """Write what a worker is to send, as a signature in JSON.

        Args:
            flow: What it sends.
            place: Where that stands in a group.
            group_id: The group whose body it is.
            flow_id: Its id, where that was given.

        Returns:
            The signature, and what was planned.
        """
        where = {"group_id": group_id} if place is None and group_id else {} if place is None else place.options
        if isinstance(flow, Signature):
            task_id = self._id(flow, flow_id)
            options = {**self._options(flow, task_id), "task_id": task_id, **where}
            for option in ("link", "link_error"):
                if linked := self._linked(flow, option):
                    options[option] = linked
            written = _written(
                flow.task, list(flow.args), dict(flow.kwargs or {}), options, None, immutable=flow.is_immutable
            )
            return written, Task(task_id, flow)
        if isinstance(flow, Chain):
            steps = self._embed_steps(flow.steps, place, flow_id)
            parts = Parts(flow, None, tuple(part for _, part in steps))
            options = {"task_id": last_id(parts), **where}
            return _written("celery.chain", [], {"tasks": [each for each, _ in steps]}, options, "chain"), parts
        if isinstance(flow, Chord):
            own_id = self._new_id()
            header, members = self._embed_group(flow.header.members, own_id)
            body, last = self._embed(flow.body, place, own_id, flow_id)
            kwargs = {"kwargs": {}, "header": header, "body": body}
            options = {"task_id": own_id, **where}
            return _written("celery.chord", [], kwargs, options, "chord"), Parts(flow, own_id, (*members, last))
        own_id = flow_id or self._new_id()
        written, members = self._embed_group(_members(flow), own_id)
        return written, Parts(flow, own_id, members)

    def _embed_group(self, members: Sequence[Any], own_id: str) -> tuple[dict[str, Any], tuple[Planned, ...]]:
        embedded = [self._embed(each, _Place(None, index, None)) for index, each in enumerate(members)]
        options = {"task_id": own_id, "root_id": None, "parent_id": None}
        tasks = [each for each, _ in embedded]
        return _written("celery.group", [], {"tasks": tasks}, options, "group"), tuple(part for _, part in embedded)


def last_id(planned: Planned) -> str | None:
    """Give the id of the task whose result is that of a flow. A group has its own id."""
    if isinstance(planned, Task):
        return planned.id
    if isinstance(planned.flow, Group):
        return planned.id
    return last_id(planned.parts[-1])


def tasks_of(planned: Planned) -> Iterator[Task]:
    """Yield all tasks of a flow, in the order in which they are written."""
    if isinstance(planned, Task):
        yield planned
    else:
        for part in planned.parts:
            yield from tasks_of(part)


def _members(flow: Flow[Any]) -> Sequence[Any]:
    """Give the members of what can only be a group."""
    if isinstance(flow, Group):
        return flow.members
    raise TypeError(f"a signature, a chain, a group or a chord is wanted, not {type(flow).__name__}")


def _written(
    task: str,
    args: list[Any],
    kwargs: dict[str, Any],
    options: dict[str, Any],
    kind: str | None,
    *,
    immutable: bool = False,
) -> dict[str, Any]:
    """Write a signature as Celery does in JSON."""
    return {
        "task": task,
        "args": args,
        "kwargs": kwargs,
        "options": options,
        "subtask_type": kind,
        "immutable": immutable,
    }
