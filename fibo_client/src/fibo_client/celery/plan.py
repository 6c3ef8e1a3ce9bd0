"""From chains, groups and chords to what is sent for them and what is awaited of them.

Source for the form on the wire: ``celery.canvas`` and ``celery.backends.redis``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.celery.budget import PIECE
from fibo_client.celery.canvas import LINKS, Chain, Chord, Group, prepend
from fibo_client.celery.protocol.groups import counter_names, result_name
from fibo_client.celery.protocol.signatures import chain_json, chord_json, embed_json, group_json, place_json
from fibo_client.celery.signature import Flow, Signature, links
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from fibo_client.celery.flow_encoder import FlowEncoder
    from fibo_client.celery.protocol.message import TaskMessage

__all__ = ["Piece", "Plan"]

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


class _Place(NamedTuple):
    """Where a task stands in a group or in a chord's header. Of a chain, that is its last task.

    The group of those that a worker sends is known by what they stand in.
    """

    group: str | None
    number: int
    body: str | None


class Plan:
    """What is sent for flows, and what is awaited of them.

    Args:
        encoder: Writes their tasks, and makes the handles.

    Attributes:
        messages: The messages of the tasks that run at once.
        sizes: How many results each chord waits for, by the id of its group. Stored before the messages are sent.
        counters: The names of what workers store of groups and chords that are not over: what chords count, and the
            error of a step before a group or a chord, which they store under the group's id.
        tasks: The handles of all tasks, in the order in which they are written.
        result: The handle of the last flow.
    """

    __slots__ = (
        "_depth",
        "_encoder",
        "_is_link",
        "_pieces",
        "_root",
        "counters",
        "messages",
        "result",
        "sizes",
        "tasks",
    )

    def __init__(self, encoder: FlowEncoder) -> None:
        self._encoder = encoder
        self._root: str | None = None
        self._depth = 0
        self._is_link = False
        self.messages: list[TaskMessage] = []
        self.sizes: dict[str, int] = {}
        self.counters: list[str] = []
        self.tasks: list[Any] = []
        self._pieces: list[Piece] = []
        self.result: Any = None

    @property
    def pieces(self) -> list[Piece]:
        """Where the messages and the tasks may be divided; the last is their end."""
        pieces, end = self._pieces, Piece(len(self.messages), len(self.tasks))
        if pieces and pieces[-1].messages == end.messages:
            pieces = pieces[:-1]  # Each has a message at least.
        return [*pieces, end]

    def add(self, flow: Flow[Any]) -> Generator[None, None, None]:
        """Plan how a flow is sent, a member of the outermost group at a time: a group may have very many.

        Args:
            flow: What is sent.

        Yields:
            None after each member.

        Raises:
            MessageError: It is nested too deeply, or a worker could not take one of its tasks.
        """
        if not isinstance(flow, (Group, Chord)):
            self.add_at_once(flow)
            return
        self._root = None
        messages, tasks = self.messages, self.tasks
        before = len(tasks)
        group_id, places, body = self._begin_group(flow, None, self._encoder.flow_id)
        after, tasks[before:] = tasks[before:], ()  # The tasks of the body come last.
        members, began = [], before
        for member, place in places:
            members.append(self._start(member, place))
            if len(tasks) - began >= PIECE:
                self._pieces.append(Piece(len(messages), len(tasks)))
                began = len(tasks)
            yield
        tasks += after
        self.result = self._encoder.result(flow, group_id, members + body)

    def add_at_once(self, flow: Flow[Any]) -> None:
        """Plan how a flow is sent, in one step. See `add`."""
        self._root = None
        self.result = self._start(flow, None, self._encoder.flow_id)

    def _start(self, flow: Flow[Any], place: _Place | None, flow_id: str | None = None) -> Any:
        """Plan what runs at once, and all that follows it. `flow_id` is the id of the whole, where it was given."""
        if isinstance(flow, Signature):
            return self._first(flow, (), place, flow_id)
        if isinstance(flow, Chain):
            return self._encoder.result(flow, None, self._start_chain(flow.steps, place, flow_id))
        before = len(self.tasks)
        group_id, places, body = self._begin_group(flow, place, flow_id)
        after, self.tasks[before:] = self.tasks[before:], ()  # The tasks of the body come last.
        members = [self._start(member, where) for member, where in places]
        self.tasks += after
        return self._encoder.result(flow, group_id, members + body)

    def _start_chain(self, steps: Sequence[Any], place: _Place | None, flow_id: str | None) -> list[Any]:
        if len(steps) == 1:
            return [self._start(steps[0], place, flow_id)]
        before = len(self.tasks)
        texts, parts = self._embed_steps(steps[1:], place, flow_id)
        parts.insert(0, self._first(steps[0], texts, None, None))
        self.tasks.insert(before, self.tasks.pop())  # It comes before those.
        return parts

    def _begin_group(
        self, flow: Flow[Any], place: _Place | None, flow_id: str | None
    ) -> tuple[str, Iterator[tuple[Flow[Any], _Place]], list[Any]]:
        """Plan the body of a chord; give the group's id, its members with their places, and the planned body."""
        group_id = self._encoder.new_id() if flow_id is None or isinstance(flow, Chord) else flow_id
        self.counters.append(result_name(group_id))
        written, body, header = None, list[Any](), flow
        if isinstance(flow, Chord):
            header = flow.header
            if not header.members:  # No member ends, so none sends the body.
                return group_id, iter(()), [self._start(prepend([], flow.body), place, flow_id)]
            written, planned = self._embed(flow.body, place, group_id, flow_id)
            self.sizes[group_id] = len(header)
            self.counters += counter_names(group_id)
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
        message, handle = self._encoder.first(signature, flow_id, group, self._root, embed)
        if self._root is None:
            self._root = message.id  # Celery has as many roots as messages.
        self.messages.append(message)
        self.tasks.append(handle)
        return handle

    def _linked(self, signature: Signature[Any], option: str) -> str | None:
        given = links(signature.options, option)
        if not given:
            return None
        tasks, counters, is_link = len(self.tasks), len(self.counters), self._is_link
        self._is_link = True
        linked = [self._embed(each, None)[0] for each in given]
        self._is_link = is_link
        del self.tasks[tasks:], self.counters[counters:]  # They are not awaited.
        return f"[{', '.join(linked)}]"

    def _embed_steps(
        self, steps: Sequence[Any], place: _Place | None, flow_id: str | None
    ) -> tuple[list[str], list[Any]]:
        """Write the steps that follow each other. Place and id are those of the last."""
        texts, parts = [], []
        for step in steps[:-1]:
            text, part = self._later(step, "", None)
            texts.append(text)
            parts.append(part)
        text, part = self._embed(steps[-1], place, None, flow_id)
        texts.append(text)
        parts.append(part)
        return texts, parts

    def _later(self, signature: Signature[Any], more: str, flow_id: str | None) -> tuple[str, Any]:
        if "link" in signature.options or "link_error" in signature.options:
            linked = {name: self._linked(signature, name) for name in LINKS}
            more += "".join(f', "{name}": {written}' for name, written in linked.items() if written is not None)
        written = self._encoder.later(signature, flow_id, more, self._is_link)
        self.tasks.append(written[1])
        return written

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
            return self._later(flow, more, flow_id)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MessageError(f"chains, groups and chords are nested more than {MAX_DEPTH} levels deep")
        written = self._embed_parts(flow, place, more, flow_id)
        self._depth -= 1
        return written

    def _embed_parts(self, flow: Flow[Any], place: _Place | None, more: str, flow_id: str | None) -> tuple[str, Any]:
        if isinstance(flow, Chain):
            texts, parts = self._embed_steps(flow.steps, place, flow_id)
            return chain_json(texts, parts[-1].id, more), self._encoder.result(flow, None, parts)
        if isinstance(flow, Chord):
            own_id = self._encoder.new_id()
            self.counters += (result_name(own_id), *counter_names(own_id))
            header, members = self._embed_group(flow.header.members, own_id)
            body, last = self._embed(flow.body, place, own_id, flow_id)
            return chord_json(header, body, own_id, more), self._encoder.result(flow, own_id, [*members, last])
        own_id = flow_id or self._encoder.new_id()
        self.counters.append(result_name(own_id))
        written, members = self._embed_group(_members(flow), own_id)
        return written, self._encoder.result(flow, own_id, members)

    def _embed_group(self, members: Sequence[Any], own_id: str) -> tuple[str, list[Any]]:
        embedded = [self._embed(each, _Place(None, index, None)) for index, each in enumerate(members)]
        return group_json([text for text, _ in embedded], own_id), [part for _, part in embedded]


def _members(flow: Flow[Any]) -> Sequence[Any]:
    """Give the members of what can only be a group."""
    if isinstance(flow, Group):
        return flow.members
    raise TypeError(f"a signature, a chain, a group or a chord is wanted, not {type(flow).__name__}")
