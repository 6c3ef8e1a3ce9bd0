"""Work composed of tasks, as in Celery's canvas: chains, groups and chords. Building one sends nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain as joined
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, Union, overload

from fibo_client.celery.signature import Flow, Signature
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Chain", "Chord", "Group", "chain", "chord", "group", "join"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Step: TypeAlias = Union["Signature[Any]", "Group[Any]", "Chord[Any]"]


@dataclass(frozen=True, repr=False)
class Chain(Flow[R_co], Generic[R_co]):
    """Tasks that run one after the other, each with the result of the one before as its first argument.

    Attributes:
        steps: All but the last are signatures: what follows a group or a chord is part of its body.
    """

    steps: tuple[Step, ...]

    def __repr__(self) -> str:
        return f"<Chain {' | '.join(map(repr, self.steps))}>"


@dataclass(frozen=True, repr=False)
class Group(Flow[list[R_co]], Generic[R_co]):
    """Tasks that run beside each other. Its result is the list of theirs.

    Attributes:
        members: Signatures, chains and chords. A group in a group is part of it.
    """

    members: tuple[Signature[Any] | Chain[Any] | Chord[Any], ...]

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
        MessageError: There is no step.
        TypeError: A step is something else.
    """
    if not steps:
        raise MessageError("a chain needs a step at least")
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
        header: The group, or what it is made of.
        body: What runs then.

    Returns:
        The chord. Its result is that of its body.

    Raises:
        MessageError: The header is empty, or a chain in it ends in a group.
        TypeError: Something in it is no task.
    """
    members = header if isinstance(header, Group) else group(header)
    if not members.members:
        raise MessageError("a chord needs a task in its header at least")
    for member in members.members:
        if isinstance(member, Chain) and isinstance(member.steps[-1], Group):
            raise MessageError(
                "a chain in the header of a chord must not end in a group: let a task follow the group, which takes "
                "the list of its results"
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
