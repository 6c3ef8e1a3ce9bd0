"""Which task of a chain, a group or a chord is waited for, or ended badly, and where it stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from fibo_client.celery.budget import Budget
from fibo_client.celery.protocol import states
from fibo_client.errors import ResultTimeoutError, TaskFailedError, TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.outcome import Awaited

__all__ = ["NAMED", "Composed", "Kind", "Step", "failed_step", "is_waited_for", "named", "waited_step"]

Kind: TypeAlias = Literal["chain", "group", "chord"]
Named: TypeAlias = ResultTimeoutError | TaskFailedError | TaskRevokedError

NAMED: Final = (ResultTimeoutError, TaskFailedError, TaskRevokedError)
"""The errors that say where their task stands."""


class Composed:
    """The result of a flow, as far as it concerns where its tasks stand.

    Attributes:
        kind: How its parts run: of a chord, the last one is the body.
        parts: The handles of tasks, and the results of flows in this one, in the order in which they were written.
    """

    __slots__ = ()

    kind: Kind
    parts: Sequence[Any]


class Step(NamedTuple):
    """A task in a flow.

    Attributes:
        task: Its handle.
        position: Where it stands, such as ``step 2 of 3``.
        chord: The innermost chord that it is part of. None is no chord.
    """

    task: Awaited
    position: str
    chord: Composed | None


def waited_step(flow: Composed) -> Step | None:
    """Find the task that is waited for, by what was last seen of all: the first that has not ended.

    Args:
        flow: The result of the flow.

    Returns:
        The task. None: all have ended, or have no result.
    """
    return _find(flow, _is_open, in_order=True)


def failed_step(flow: Composed) -> Step | None:
    """Find the task that ended badly first, by what was last seen of all: those after it may fail with it.

    Args:
        flow: The result of the flow.

    Returns:
        The task. None: none has failed.
    """
    return _find(flow, lambda task: task.cached is not None and task.cached.failure is not None, in_order=False)


def is_waited_for(part: Any) -> bool:
    """Tell whether a task, or one in a flow, has a result and was not seen to have ended."""
    return waited_step(part) is not None if isinstance(part, Composed) else _is_open(part)


async def named(flow: Composed, error: Named) -> Named:
    """Let an error say where its task stands. The event loop gets its turn now and then.

    Args:
        flow: What was waited for.
        error: The error of a task that ended badly. Or a timeout, which then names the task that is waited for: those
            after it cannot have begun.

    Returns:
        The error that says so.
    """
    if isinstance(error, ResultTimeoutError):
        return _named(flow, error)
    return error.replace(step=await _position(flow, error.task_id, Budget()))


def _named(flow: Composed, error: ResultTimeoutError) -> ResultTimeoutError:
    step = waited_step(flow)
    if step is None:
        return error
    task = step.task
    if task.id == error.task_ids[0]:
        return error.replace(step=step.position)
    return error.replace(
        step=step.position,
        task=task.task,
        task_ids=[task.id, *(each for each in error.task_ids if each != task.id)],
        queue=task.queue,
        state=states.PENDING if task.cached is None else task.cached.state,
        ignored=task.ignored,
        decoded=task.decode is not None,
    )


async def _position(flow: Composed, task_id: str, budget: Budget) -> str | None:
    for number, part in enumerate(flow.parts):
        if isinstance(part, Composed):
            found = await _position(part, task_id, budget)
            if found is not None:
                return f"{_label(flow, number)}, {found}"
        elif part.id == task_id:
            return _label(flow, number)
        if budget.is_spent():
            await budget.pause()
    return None


def _is_open(task: Awaited) -> bool:
    return not task.ignored and not (task.cached is not None and task.cached.ready)


def _find(flow: Composed, is_it: Callable[[Awaited], bool], *, in_order: bool) -> Step | None:
    own = flow if flow.kind == "chord" else None
    for number in range(_begun(flow) if in_order else 0, len(flow.parts)):
        part = flow.parts[number]
        if isinstance(part, Composed):
            found = _find(part, is_it, in_order=in_order)
            if found is not None:
                return Step(found.task, f"{_label(flow, number)}, {found.position}", found.chord or own)
        elif is_it(part):
            return Step(part, _label(flow, number), own)
    return None


def _label(flow: Composed, number: int) -> str:
    """Say where a part stands, by its index."""
    size = len(flow.parts)
    if flow.kind == "chain":
        return f"step {number + 1} of {size}"
    if flow.kind == "group":
        return f"member {number + 1} of {size}"
    return "the body" if number == size - 1 else f"member {number + 1} of {size - 1} of the header"


def _begun(flow: Composed) -> int:
    """Give the index of the first part that may be waited for: one that has a state shows that those before it ran."""
    if flow.kind == "chain":
        return max((number for number, part in enumerate(flow.parts) if _has_begun(part)), default=0)
    return len(flow.parts) - 1 if flow.kind == "chord" and _has_begun(flow.parts[-1]) else 0


def _has_begun(part: Any) -> bool:
    """Tell whether a task, or one in a flow, was seen in any state."""
    if isinstance(part, Composed):
        return any(map(_has_begun, part.parts))
    return part.cached is not None and part.cached.state != states.PENDING
