"""Work composed of tasks, as in Celery's canvas: chains, groups and chords. Building one sends nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain as joined
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, Union, cast, overload

from fibo_client.celery.signature import Flow, Signature, check_links, check_option_names, links
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    # For the types of handles: `send` and `start` give these.
    from fibo_client.celery.flow_results import ChainResult, ChordResult, GroupResult
    from fibo_client.celery.owned_flow import OwnedFlow
    from fibo_client.celery.signature import SendOptions

__all__ = ["Chain", "Chord", "Group", "chain", "chord", "group", "join", "prepend", "signatures_of"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

OF_THE_FIRST: Final = frozenset({"countdown", "eta"})
"""Options that say when a flow begins: only the tasks that run first have them."""

LINKS: Final = ("link", "link_error")
"""Options of a task that say what its worker sends after it."""

Step: TypeAlias = Union["Signature[Any]", "Group[Any]", "Chord[Any]"]


@dataclass(frozen=True, repr=False)
class Chain(Flow[R_co], Generic[R_co]):
    """Tasks that run one after the other, each with the result of the one before as its first argument.

    Attributes:
        steps: All but the last are signatures: what follows a group or a chord is part of its body.
    """

    steps: tuple[Step, ...]

    if TYPE_CHECKING:

        def _sent(self) -> ChainResult[R_co]: ...
        def _started(self) -> OwnedFlow[R_co]: ...

    def __repr__(self) -> str:
        return f"<Chain {' | '.join(map(repr, self.steps))}>"


@dataclass(frozen=True, repr=False)
class Group(Flow[list[R_co]], Generic[R_co]):
    """Tasks that run beside each other. Its result is the list of theirs.

    Attributes:
        members: Signatures, chains and chords. A group in a group is part of it.
    """

    members: tuple[Signature[Any] | Chain[Any] | Chord[Any], ...]

    if TYPE_CHECKING:

        def _sent(self) -> GroupResult[R_co]: ...
        def _started(self) -> OwnedFlow[list[R_co]]: ...

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<Group of {len(self.members)}>"


@dataclass(frozen=True, repr=False)
class Chord(Flow[R_co], Generic[R_co]):
    """A group, and a body that runs when all of it has ended, with the list of the results as its first argument.

    Attributes:
        header: The group.
        body: What runs then.
    """

    header: Group[Any]
    body: Signature[R_co] | Chain[R_co] | Chord[R_co] | Group[Any]

    if TYPE_CHECKING:

        def _sent(self) -> ChordResult[R_co]: ...
        def _started(self) -> OwnedFlow[R_co]: ...

    def __repr__(self) -> str:
        return f"<Chord of {len(self.header)}, {self.body!r}>"


@overload
def chain(first: Flow[R], /) -> Chain[R]: ...
@overload
def chain(first: Flow[Any], last: Flow[R], /) -> Chain[R]: ...
@overload
def chain(first: Flow[Any], second: Flow[Any], last: Flow[R], /) -> Chain[R]: ...
@overload
def chain(first: Flow[Any], second: Flow[Any], third: Flow[Any], last: Flow[R], /) -> Chain[R]: ...
@overload
def chain(*steps: Flow[Any]) -> Chain[Any]: ...
def chain(*steps: Any) -> Any:
    """Compose tasks that run one after the other, as ``first | second | last`` does.

    Each gets the result of the one before as its first argument, unless it is `Signature.immutable`. A group that is
    followed by something is a chord, as in Celery.

    Args:
        *steps: Signatures, groups, chords and chains.

    Returns:
        The chain. Its result is that of its last step.

    Raises:
        MessageError: There is no step, or a chain in the header of a chord ends in a group.
        TypeError: A step is something else.
    """
    if not steps:
        raise MessageError("a chain needs a step at least; where there is nothing to run, send nothing")
    if all(isinstance(step, Signature) for step in steps):
        return Chain(steps)  # Most are so.
    flow: Any = _checked(steps[0])
    for step in steps[1:]:
        flow = join(flow, _checked(step))
    return flow if isinstance(flow, Chain) else Chain((flow,))


@overload
def group(members: Iterable[Flow[R]], /) -> Group[R]: ...
@overload
def group(*members: Flow[R]) -> Group[R]: ...
def group(*members: Any) -> Any:
    """Compose tasks that run beside each other.

    Args:
        *members: Signatures, chains, chords and groups; or one iterable of them.

    Returns:
        The group. Its result is the list of theirs, in order.

    Raises:
        TypeError: A member is something else.
    """
    if len(members) == 1 and not isinstance(members[0], Flow):
        members = tuple(members[0]) if isinstance(members[0], Iterable) else members
    return Group(tuple(joined.from_iterable(_flattened(_checked(each)) for each in members)))


def chord(header: Group[Any] | Iterable[Flow[Any]], body: Flow[R]) -> Chord[R]:
    """Compose a group with a body that runs when all of it has ended, with the list of the results.

    Args:
        header: The group, or what it is made of. If it is empty, the body runs at once, with an empty list.
        body: What runs then.

    Returns:
        The chord. Its result is that of its body.

    Raises:
        MessageError: A chain or chord in the header ends in a group.
        TypeError: Something in it is no task.
    """
    members = header if isinstance(header, Group) else group(header)
    for member in members.members:
        if isinstance(last_of(member), Group):
            raise MessageError(
                "a chain or chord in the header of a chord must not end in a group: let a task follow the group, which "
                "takes the list of its results"
            )
    last: Any = _checked(body)
    return Chord(members, last.steps[0] if isinstance(last, Chain) and len(last.steps) == 1 else last)


def join(first: Flow[Any], second: Flow[R]) -> Chain[R] | Chord[R]:
    """Let one thing follow another, as ``first | second``."""
    if isinstance(first, Group):
        return chord(first, second)
    if isinstance(first, Chord):
        body: Any = join(first.body, second)
        return Chord(first.header, body)
    before = first.steps if isinstance(first, Chain) else (first,)
    after = second.steps if isinstance(second, Chain) else (second,)
    if isinstance(before[-1], Signature):
        steps: Any = (*before, *after)
    else:
        steps = (*before[:-1], join(before[-1], second))
    return Chain(steps)


def signatures_of(flow: Any) -> Iterator[Signature[Any]]:
    """Yield all tasks of a flow."""
    if isinstance(flow, Signature):
        yield flow
    elif isinstance(flow, Chord):
        yield from signatures_of(flow.header)
        yield from signatures_of(flow.body)
    else:
        for part in flow.steps if isinstance(flow, Chain) else flow.members:
            yield from signatures_of(part)


def last_of(flow: Any) -> Any:
    """Give the part of a flow whose result is that of the whole: a task, or a group."""
    while isinstance(flow, (Chain, Chord)):
        flow = flow.steps[-1] if isinstance(flow, Chain) else flow.body
    return flow


F = TypeVar("F", bound=Flow[Any])


def with_options(flow: F, options: SendOptions) -> F:
    """Give options to the steps of what is composed. See `Flow.with_options`."""
    check_option_names(options)
    check_links(options)
    if "task_id" in options:
        raise MessageError("task_id is the send's, not that of what is composed: write send(flow, task_id=...)")
    if links(options, "link") and isinstance(last_of(flow), Group):
        raise MessageError(
            "link is not for a group, which has no last task: let a task follow it, as group(...) | task, or give link "
            "to its members"
        )
    given: Any = options
    first = {name: value for name, value in given.items() if name in OF_THE_FIRST}
    each = {name: value for name, value in given.items() if name not in OF_THE_FIRST and name not in LINKS}
    found: Any = _given(flow, each, first, links(options, "link"), links(options, "link_error"))
    return cast("F", found)


def _given(
    flow: Any,
    each: Mapping[str, Any],
    first: Mapping[str, Any],
    link: tuple[Flow[Any], ...],
    link_error: tuple[Flow[Any], ...],
) -> Any:
    """Give options to each task of a flow, to the first ones, and links to the last one and to those that may fail."""
    if isinstance(flow, Signature):
        options = {**each, **first, **flow.options}
        for name, more in (("link", link), ("link_error", link_error)):
            if more:
                options[name] = (*links(flow.options, name), *more)
        return replace(flow, options=options)
    if isinstance(flow, Group):
        return Group(tuple(_given(member, each, first, link, link_error) for member in flow.members))
    if isinstance(flow, Chord):
        return Chord(_given(flow.header, each, first, (), ()), _given(flow.body, each, {}, link, link_error))
    last = len(flow.steps) - 1
    return Chain(
        tuple(
            _given(step, each, {} if number else first, link if number == last else (), link_error)
            for number, step in enumerate(flow.steps)
        )
    )


def prepend(value: Any, flow: Any) -> Any:
    """Prepend an argument to each task that runs first in a flow, as workers do with the result of the step before."""
    match flow:
        case Chain():
            return Chain((prepend(value, flow.steps[0]), *flow.steps[1:]))
        case Chord():
            return Chord(prepend(value, flow.header), flow.body)
        case Group():
            return Group(tuple(prepend(value, member) for member in flow.members))
    return flow if flow.is_immutable else replace(flow, args=(value, *flow.args))


def _checked(step: object) -> Flow[Any]:
    if not isinstance(step, Flow):
        raise TypeError(f"a signature, a chain, a group or a chord is wanted, not {type(step).__name__}")
    return step


def _flattened(member: Any) -> Iterator[Any]:
    """Take a nested group apart. A chain or chord stays whole; one of a single step is that step."""
    if isinstance(member, Chain) and len(member.steps) == 1:
        member = member.steps[0]
    if isinstance(member, Group):
        yield from member.members
    else:
        yield member
