"""Which task of a chain, a group or a chord is waited for, and where it stands there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fibo_client.celery.protocol import states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.outcome import Awaited
    from fibo_client.errors import ResultTimeoutError

__all__ = ["Composed", "Step", "has_begun", "is_waited_for"]


class Step(NamedTuple):
    """A task of what is composed.

    Attributes:
        task: Its handle.
        position: Where it stands, such as ``step 2 of 3``.
        chord: The innermost chord that it is of. None is no chord.
    """

    task: Awaited
    position: str
    chord: Composed | None


class Composed:
    """What has parts: tasks, and what is composed of tasks.

    Attributes:
        parts: Them, in the order in which they were written.
        is_chord: Whether the last part runs after all others, which run beside each other.
    """

    __slots__ = ()

    parts: Sequence[Any]
    is_chord: bool = False

    def label(self, number: int) -> str:
        """Say where a part stands, by its index."""
        raise NotImplementedError

    def begun(self) -> int:
        """Give the index of the first part that may be waited for: one that has a state shows that those before ran."""
        return 0

    def waited_step(self) -> Step | None:
        """Find the task that is waited for, by what was last seen of all: the first that has not ended.

        Returns:
            The task. None is that all have ended, or have no result.
        """
        return _find(self, is_waited_for, in_order=True)

    def failed_step(self) -> Step | None:
        """Find the task that ended badly first, by what was last seen of all: those after it may fail with it."""
        return _find(self, lambda task: task.cached is not None and task.cached.failure is not None, in_order=False)

    def named(self, error: ResultTimeoutError) -> ResultTimeoutError:
        """Let a timeout name the task that is waited for, and not one after it, which cannot have begun.

        Args:
            error: The timeout of a wait for all.

        Returns:
            The error that says so.
        """
        step = self.waited_step()
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


def has_begun(part: Any) -> bool:
    """Tell whether a task, or one of what is composed, was seen in any state."""
    if isinstance(part, Composed):
        return any(map(has_begun, part.parts))
    return part.cached is not None and part.cached.state != states.PENDING


def is_waited_for(part: Any) -> bool:
    """Tell whether a task, or one of what is composed, was not seen to have ended, and has a result."""
    if isinstance(part, Composed):
        return part.waited_step() is not None
    return not part.ignored and not (part.cached is not None and part.cached.ready)


def _find(flow: Composed, is_it: Callable[[Awaited], bool], *, in_order: bool) -> Step | None:
    for number in range(flow.begun() if in_order else 0, len(flow.parts)):
        part = flow.parts[number]
        if isinstance(part, Composed):
            found = _find(part, is_it, in_order=in_order)
            if found is not None:
                chord = found.chord or (flow if flow.is_chord else None)
                return Step(found.task, f"{flow.label(number)}, {found.position}", chord)
        elif is_it(part):
            return Step(part, flow.label(number), flow if flow.is_chord else None)
    return None
