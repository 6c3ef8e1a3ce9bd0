"""From chains, groups and chords to what is sent for them and what is awaited of them. Pure.

Source for the form on the wire: ``celery.canvas`` and ``celery.backends.redis``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from fibo_client.celery.canvas import LINKS, Chain, Chord, Group, prepend
from fibo_client.celery.protocol.signatures import chain_json, chord_json, embed_json, group_json, place_json
from fibo_client.celery.signature import Flow, Signature, links
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from fibo_client.celery.protocol.message import TaskMessage

__all__ = ["Parts", "Piece", "Plan", "Planned", "Steps", "Task", "Where", "groups_of", "plan_in_steps", "tasks_of"]

MAX_DEPTH: Final = 25
"""How deeply groups and chords may be nested in what workers send. It bounds the depth of a message's JSON."""


class Task(NamedTuple):
    """A task of a flow that was planned.

    Attributes:
        id: Its id.
        signature: The task with its arguments.
        queue: The queue that it goes to.
        ignored: Whether its result is ignored. None is as it is declared.
        is_first: Whether the client sends it. A worker sends the others.
    """

    id: str
    signature: Signature[Any]
    queue: str
    ignored: bool | None
    is_first: bool


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


class Piece(NamedTuple):
    """Some of the messages of a flow, and some of its tasks, that are sent and awaited in one go.

    Attributes:
        messages: How many messages there are up to its end.
        tasks: How many tasks there are up to its end.
    """

    messages: int
    tasks: int


class Plan(NamedTuple):
    """What is sent for a flow, and what is awaited of it.

    Attributes:
        messages: The messages of the tasks that run at once.
        sizes: How many results each chord waits for, by the id of its group. Stored before the messages are sent.
        result: All tasks of the flow.
        pieces: Where the messages and the tasks, as `tasks_of` gives them, may be divided; the last is their end.
    """

    messages: list[TaskMessage]
    sizes: dict[str, int]
    result: Planned
    pieces: list[Piece]


class Where(NamedTuple):
    """Where a task that runs at once stands in its flow.

    Attributes:
        group: The id of its group, and its index there. None is no group.
        root: The id of the first task of the flow. None is itself.
        embed: What its worker is to send later, from `embed_json`. None is nothing.
    """

    group: tuple[str, int] | None
    root: str | None
    embed: str | None


class Steps(Protocol):
    """What writes the tasks of a flow."""

    def new_id(self) -> str:
        """Make the id of a group."""
        ...

    def id_of(self, signature: Signature[Any], flow_id: str | None, *, may_repeat: bool) -> str:
        """Give the id of a task: that of the flow whose result is the task's, the task's own, or a new one.

        Several tasks may have the same link, of which one alone runs: its id may repeat.
        """
        ...

    def first(self, signature: Signature[Any], task_id: str, where: Where) -> TaskMessage:
        """Make the message of a task that runs at once."""
        ...

    def later(self, signature: Signature[Any], task_id: str, more: str) -> tuple[str, Task]:
        """Write a task that a worker sends as a signature in JSON, with more options from `place_json`."""
        ...


class _Place(NamedTuple):
    """Where a task stands in a group or in a chord's header. Of a chain, that is its last task.

    The group of those that a worker sends is known by what they stand in.
    """

    group: str | None
    number: int
    body: str | None


def plan_in_steps(flow: Flow[Any], steps: Steps, piece: int, flow_id: str | None = None) -> Generator[None, None, Plan]:
    """Plan how a flow is sent, a member of the outermost group at a time: a group may have very many.

    Args:
        flow: What is sent.
        steps: Writes its tasks.
        piece: The fewest tasks of a piece, but for the last.
        flow_id: The id of the whole: of a chain's last step, of a chord's body, of a group. None is a new one.

    Yields:
        None after each member.

    Returns:
        The messages, and what is awaited.

    Raises:
        MessageError: It is nested too deeply, or `steps` raises it.
    """
    planner = _Planner(steps)
    if not isinstance(flow, (Group, Chord)):
        planned = planner.start(flow, None, flow_id)
        return Plan(planner.messages, planner.sizes, planned, [Piece(len(planner.messages), planner.tasks)])
    parts: list[Planned] = []
    pieces: list[Piece] = []
    group_id, places, last = planner.begin_group(flow, None, flow_id)
    after, planner.tasks, piece_began = planner.tasks, 0, 0  # The body's tasks come last.
    for member, place in places:
        parts.append(planner.start(member, place))
        if planner.tasks - piece_began >= piece:
            pieces.append(Piece(len(planner.messages), planner.tasks))
            piece_began = planner.tasks
        yield
    end = Piece(len(planner.messages), planner.tasks + after)
    if pieces and pieces[-1].messages == end.messages:
        pieces.pop()  # Each has a message at least.
    return Plan(planner.messages, planner.sizes, Parts(flow, group_id, (*parts, *last)), [*pieces, end])


class _Planner:
    """Plans one flow.

    Args:
        steps: Writes its tasks.

    Attributes:
        messages: As of `Plan`.
        sizes: As of `Plan`.
        tasks: How many tasks were planned so far.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._depth = 0
        self._is_link = False
        self.messages: list[TaskMessage] = []
        self.sizes: dict[str, int] = {}
        self.tasks: int = 0

    def start(self, flow: Flow[Any], place: _Place | None, flow_id: str | None = None) -> Planned:
        """Plan what runs at once, and all that follows it. `flow_id` is the id of the whole, where it was given."""
        if isinstance(flow, Signature):
            return self._first(flow, (), place, flow_id)
        if isinstance(flow, Chain):
            first, *rest = flow.steps
            if not isinstance(first, Signature):  # It is the only one.
                return Parts(flow, None, (self.start(first, place, flow_id),))
            if not rest:
                return Parts(flow, None, (self._first(first, (), place, flow_id),))
            embedded = self._embed_steps(rest, place, flow_id)
            started = self._first(first, [each for each, _ in embedded], None, None)
            return Parts(flow, None, (started, *[part for _, part in embedded]))
        group_id, places, last = self.begin_group(flow, place, flow_id)
        return Parts(flow, group_id, (*[self.start(member, where) for member, where in places], *last))

    def begin_group(
        self, flow: Flow[Any], place: _Place | None, flow_id: str | None
    ) -> tuple[str, Iterator[tuple[Flow[Any], _Place]], tuple[Planned, ...]]:
        """Plan the body of a chord; give the group's id, its members with their places, and the planned body."""
        group_id = self._steps.new_id() if flow_id is None or isinstance(flow, Chord) else flow_id
        body, last, header = None, tuple[Planned, ...](), flow
        if isinstance(flow, Chord):
            header = flow.header
            if not header.members:  # None will end and send the body.
                return group_id, iter(()), (self.start(prepend([], flow.body), place, flow_id),)
            body, planned = self._embed(flow.body, place, group_id, flow_id)
            self.sizes[group_id] = len(header)
            last = (planned,)
        members = enumerate(_members(header))
        return group_id, ((member, _Place(group_id, index, body)) for index, member in members), last

    def _first(self, signature: Signature[Any], rest: Sequence[str], place: _Place | None, flow_id: str | None) -> Task:
        task_id = self._steps.id_of(signature, flow_id, may_repeat=False)
        callbacks, errbacks = self._linked(signature, "link"), self._linked(signature, "link_error")
        group = body = None
        if place is not None:
            body = place.body
            group = None if place.group is None else (place.group, place.number)
        embed = embed_json(callbacks, errbacks, rest, body) if rest or body or callbacks or errbacks else None
        root = self.messages[0].id if self.messages else None  # Celery has as many roots as messages.
        message = self._steps.first(signature, task_id, Where(group, root, embed))
        self.messages.append(message)
        self.tasks += 1
        template = message.template
        return Task(task_id, signature, template.queue, template.headers["ignore_result"], is_first=True)

    def _linked(self, signature: Signature[Any], option: str) -> str | None:
        given = links(signature.options, option)
        if not given:
            return None
        tasks, is_link, self._is_link = self.tasks, self._is_link, True
        linked = [self._embed(each, None)[0] for each in given]
        self.tasks, self._is_link = tasks, is_link  # They are not awaited.
        return f"[{', '.join(linked)}]"

    def _embed_steps(
        self, steps: Sequence[Flow[Any]], place: _Place | None, flow_id: str | None
    ) -> list[tuple[str, Planned]]:
        """Write the steps that follow each other. Place and id are those of the last."""
        return [*[self._embed(step, None) for step in steps[:-1]], self._embed(steps[-1], place, None, flow_id)]

    def _embed(
        self, flow: Flow[Any], place: _Place | None, group_id: str | None = None, flow_id: str | None = None
    ) -> tuple[str, Planned]:
        """Write what a worker is to send, as a signature in JSON.

        Args:
            flow: What it sends.
            place: Where that stands in a group.
            group_id: The group whose body it is.
            flow_id: Its id, where that was given.

        Returns:
            The signature, and what was planned.

        Raises:
            MessageError: It is nested too deeply.
        """
        more = "" if place is None and group_id is None else place_json(*(place or (group_id,)))
        if isinstance(flow, Signature):
            if "link" in flow.options or "link_error" in flow.options:
                linked = {name: self._linked(flow, name) for name in LINKS}
                more += "".join(f', "{name}": {written}' for name, written in linked.items() if written is not None)
            self.tasks += 1
            return self._steps.later(flow, self._steps.id_of(flow, flow_id, may_repeat=self._is_link), more)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MessageError(f"chains, groups and chords are nested more than {MAX_DEPTH} levels deep")
        try:
            return self._embed_parts(flow, place, more, flow_id)
        finally:
            self._depth -= 1

    def _embed_parts(
        self, flow: Flow[Any], place: _Place | None, more: str, flow_id: str | None
    ) -> tuple[str, Planned]:
        if isinstance(flow, Chain):
            steps = self._embed_steps(flow.steps, place, flow_id)
            parts = Parts(flow, None, tuple(part for _, part in steps))
            return chain_json([each for each, _ in steps], last_id(parts), more), parts
        if isinstance(flow, Chord):
            own_id = self._steps.new_id()
            header, members = self._embed_group(flow.header.members, own_id)
            body, last = self._embed(flow.body, place, own_id, flow_id)
            return chord_json(header, body, own_id, more), Parts(flow, own_id, (*members, last))
        own_id = flow_id or self._steps.new_id()
        written, members = self._embed_group(_members(flow), own_id)
        return written, Parts(flow, own_id, members)

    def _embed_group(self, members: Sequence[Any], own_id: str) -> tuple[str, tuple[Planned, ...]]:
        embedded = [self._embed(each, _Place(None, index, None)) for index, each in enumerate(members)]
        return group_json([each for each, _ in embedded], own_id), tuple(part for _, part in embedded)


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


def groups_of(planned: Planned) -> Iterator[Parts]:
    """Yield all groups and chords of a flow, also those that workers send later."""
    if isinstance(planned, Parts):
        if planned.id is not None:
            yield planned
        for part in planned.parts:
            yield from groups_of(part)


def _members(flow: Flow[Any]) -> Sequence[Any]:
    """Give the members of what can only be a group."""
    if isinstance(flow, Group):
        return flow.members
    raise TypeError(f"a signature, a chain, a group or a chord is wanted, not {type(flow).__name__}")
