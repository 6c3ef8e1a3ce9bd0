"""From chains, groups and chords to what is sent for them and what is awaited of them. Pure.

Source for the form on the wire: ``celery.canvas`` and ``celery.backends.redis``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from fibo_client.celery.canvas import LINKS, Chain, Chord, Group, prepend
from fibo_client.celery.protocol.signatures import chain_json, chord_json, embed_json, group_json, place_json
from fibo_client.celery.signature import Flow, Signature, links
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from fibo_client.celery.protocol.message import TaskMessage

__all__ = ["Piece", "Plan", "Steps", "Where", "plan_in_steps"]

MAX_DEPTH: Final = 30
"""How deeply groups and chords may be nested in what workers send. It bounds the depth of a message's JSON."""


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
        groups: The ids of all groups, those of chords included, of those too that workers send later.
        chords: The ids of those that are of chords.
        result: What `Steps` made of the flow.
        tasks: What `Steps` made of each of its tasks, in the order in which they are written.
        pieces: Where the messages and the tasks may be divided; the last is their end.
    """

    messages: list[TaskMessage]
    sizes: dict[str, int]
    groups: list[str]
    chords: list[str]
    result: Any
    tasks: list[Any]
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
    """What writes the tasks of a flow, and makes their handles."""

    def new_id(self) -> str:
        """Make the id of a group."""
        ...

    def first(self, signature: Signature[Any], flow_id: str | None, where: Where) -> tuple[TaskMessage, Any]:
        """Make the message of a task that runs at once, and its handle. `flow_id` is its id, where that was given."""
        ...

    def later(self, signature: Signature[Any], flow_id: str | None, more: str, may_repeat: bool) -> tuple[str, Any]:
        """Write a task that a worker sends as a signature in JSON, with more options; and its handle.

        Several tasks may have the same link, of which one alone runs: its id may repeat.
        """
        ...

    def composed(self, flow: Flow[Any], group_id: str | None, parts: list[Any]) -> Any:
        """Make the handle of a chain, a group or a chord, which has an ``id``, of those of its parts.

        Args:
            flow: What it is.
            group_id: Of a group or chord, the id of the group.
            parts: The steps of a chain, the members of a group; the members of a chord's header, and its body last.
        """
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
    messages, tasks = planner.messages, planner.tasks
    pieces: list[Piece] = []
    if isinstance(flow, (Group, Chord)):
        group_id, places, body = planner.begin_group(flow, None, flow_id)
        after, tasks[:] = tasks[:], ()
        members, began = [], 0
        for member, place in places:
            members.append(planner.start(member, place))
            if len(tasks) - began >= piece:
                pieces.append(Piece(len(messages), len(tasks)))
                began = len(tasks)
            yield
        tasks += after
        result = steps.composed(flow, group_id, members + body)
    else:
        result = planner.start(flow, None, flow_id)
    if pieces and pieces[-1].messages == len(messages):
        pieces.pop()  # Each has a message at least.
    pieces.append(Piece(len(messages), len(tasks)))
    return Plan(messages, planner.sizes, planner.groups, planner.chords, result, tasks, pieces)


class _Planner:
    """Plans one flow.

    Args:
        steps: Writes its tasks.

    Attributes:
        messages: As of `Plan`.
        sizes: As of `Plan`.
        groups: As of `Plan`.
        chords: As of `Plan`.
        tasks: As of `Plan`.
    """

    __slots__ = ("_depth", "_is_link", "_steps", "chords", "groups", "messages", "sizes", "tasks")

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._depth = 0
        self._is_link = False
        self.messages: list[TaskMessage] = []
        self.sizes: dict[str, int] = {}
        self.groups: list[str] = []
        self.chords: list[str] = []
        self.tasks: list[Any] = []

    def start(self, flow: Flow[Any], place: _Place | None, flow_id: str | None = None) -> Any:
        """Plan what runs at once, and all that follows it. `flow_id` is the id of the whole, where it was given."""
        if isinstance(flow, Signature):
            return self._first(flow, (), place, flow_id)
        if isinstance(flow, Chain):
            return self._steps.composed(flow, None, self._start_chain(flow.steps, place, flow_id))
        before = len(self.tasks)
        group_id, places, body = self.begin_group(flow, place, flow_id)
        after, self.tasks[before:] = self.tasks[before:], ()  # The tasks of the body come last.
        members = [self.start(member, where) for member, where in places]
        self.tasks += after
        return self._steps.composed(flow, group_id, members + body)

    def _start_chain(self, steps: Sequence[Any], place: _Place | None, flow_id: str | None) -> list[Any]:
        if len(steps) == 1:
            return [self.start(steps[0], place, flow_id)]
        before = len(self.tasks)
        texts, parts = self._embed_steps(steps[1:], place, flow_id)
        started = self._first(steps[0], texts, None, None)
        self.tasks.insert(before, self.tasks.pop())  # It comes before those.
        return [started, *parts]

    def begin_group(
        self, flow: Flow[Any], place: _Place | None, flow_id: str | None
    ) -> tuple[str, Iterator[tuple[Flow[Any], _Place]], list[Any]]:
        """Plan the body of a chord; give the group's id, its members with their places, and the planned body."""
        group_id = self._steps.new_id() if flow_id is None or isinstance(flow, Chord) else flow_id
        self.groups.append(group_id)
        written, body, header = None, list[Any](), flow
        if isinstance(flow, Chord):
            header = flow.header
            if not header.members:  # None will end and send the body.
                return group_id, iter(()), [self.start(prepend([], flow.body), place, flow_id)]
            written, planned = self._embed(flow.body, place, group_id, flow_id)
            self.sizes[group_id] = len(header)
            self.chords.append(group_id)
            body = [planned]
        members = enumerate(_members(header))
        return group_id, ((member, _Place(group_id, index, written)) for index, member in members), body

    def _first(self, signature: Signature[Any], rest: Sequence[str], place: _Place | None, flow_id: str | None) -> Any:
        group = body = callbacks = errbacks = None
        if "link" in signature.options or "link_error" in signature.options:
            callbacks, errbacks = (self._linked(signature, name) for name in LINKS)
        if place is not None:
            body = place.body
            group = None if place.group is None else (place.group, place.number)
        embed = embed_json(callbacks, errbacks, rest, body) if rest or body or callbacks or errbacks else None
        root = self.messages[0].id if self.messages else None  # Celery has as many roots as messages.
        message, handle = self._steps.first(signature, flow_id, Where(group, root, embed))
        self.messages.append(message)
        self.tasks.append(handle)
        return handle

    def _linked(self, signature: Signature[Any], option: str) -> str | None:
        given = links(signature.options, option)
        if not given:
            return None
        tasks, groups, chords, is_link = len(self.tasks), len(self.groups), len(self.chords), self._is_link
        self._is_link = True
        linked = [self._embed(each, None)[0] for each in given]
        self._is_link = is_link
        del self.tasks[tasks:], self.groups[groups:], self.chords[chords:]  # They are not awaited.
        return f"[{', '.join(linked)}]"

    def _embed_steps(
        self, steps: Sequence[Flow[Any]], place: _Place | None, flow_id: str | None
    ) -> tuple[list[str], list[Any]]:
        """Write the steps that follow each other. Place and id are those of the last."""
        written = [self._embed(step, None) for step in steps[:-1]]
        written.append(self._embed(steps[-1], place, None, flow_id))
        return [text for text, _ in written], [part for _, part in written]

    def _embed(
        self, flow: Flow[Any], place: _Place | None, group_id: str | None = None, flow_id: str | None = None
    ) -> tuple[str, Any]:
        """Write what a worker is to send, as a signature in JSON.

        Args:
            flow: What it sends.
            place: Where that stands in a group.
            group_id: The group whose body it is.
            flow_id: Its id, where that was given.

        Returns:
            The signature, and the handle.

        Raises:
            MessageError: It is nested too deeply.
        """
        more = "" if place is None and group_id is None else place_json(*(place or (group_id,)))
        if isinstance(flow, Signature):
            if "link" in flow.options or "link_error" in flow.options:
                linked = {name: self._linked(flow, name) for name in LINKS}
                more += "".join(f', "{name}": {written}' for name, written in linked.items() if written is not None)
            text, handle = self._steps.later(flow, flow_id, more, self._is_link)
            self.tasks.append(handle)
            return text, handle
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MessageError(f"chains, groups and chords are nested more than {MAX_DEPTH} levels deep")
        written = self._embed_parts(flow, place, more, flow_id)
        self._depth -= 1
        return written

    def _embed_parts(self, flow: Flow[Any], place: _Place | None, more: str, flow_id: str | None) -> tuple[str, Any]:
        if isinstance(flow, Chain):
            texts, parts = self._embed_steps(flow.steps, place, flow_id)
            return chain_json(texts, parts[-1].id, more), self._steps.composed(flow, None, parts)
        if isinstance(flow, Chord):
            own_id = self._steps.new_id()
            self.groups.append(own_id)
            self.chords.append(own_id)
            header, members = self._embed_group(flow.header.members, own_id)
            body, last = self._embed(flow.body, place, own_id, flow_id)
            return chord_json(header, body, own_id, more), self._steps.composed(flow, own_id, [*members, last])
        own_id = flow_id or self._steps.new_id()
        self.groups.append(own_id)
        written, members = self._embed_group(_members(flow), own_id)
        return written, self._steps.composed(flow, own_id, members)

    def _embed_group(self, members: Sequence[Any], own_id: str) -> tuple[str, list[Any]]:
        embedded = [self._embed(each, _Place(None, index, None)) for index, each in enumerate(members)]
        return group_json([text for text, _ in embedded], own_id), [part for _, part in embedded]


def _members(flow: Flow[Any]) -> Sequence[Any]:
    """Give the members of what can only be a group."""
    if isinstance(flow, Group):
        return flow.members
    raise TypeError(f"a signature, a chain, a group or a chord is wanted, not {type(flow).__name__}")
