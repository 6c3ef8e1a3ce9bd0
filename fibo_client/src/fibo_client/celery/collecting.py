"""Many tasks, chains, groups and chords that were sent before: as they end, or all together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fibo_client.celery.as_completed import as_completed as tasks_as_completed
from fibo_client.celery.budget import Budget
from fibo_client.celery.flow_results import FlowResult, wanted_of
from fibo_client.celery.result import check_handle
from fibo_client.errors import FiboError, ResultTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.session import Session


async def check_results(results: Iterable[Any]) -> tuple[list[Any], bool]:
    """Check what should be handles of tasks, or results of flows. The event loop gets its turn now and then.

    Args:
        results: What was given.

    Returns:
        All of them, and whether there are flows.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(results, FlowResult) or not isinstance(results, Iterable):
        check_handle(results)
    checked: list[Any] = []
    flows, budget = False, Budget()
    for each in results:
        if isinstance(each, FlowResult):
            flows = True
        else:
            check_handle(each)
        checked.append(each)
        if budget.is_spent():
            await budget.pause()
    return checked, flows


async def as_completed(session: Session, results: Sequence[Any], *, timeout: float | None) -> AsyncGenerator[Any, None]:
    """Give tasks and flows as they end. A flow has ended, too, once one of its tasks has ended badly.

    Args:
        session: The client's running parts.
        results: The handles of tasks, and the results of flows.
        timeout: Seconds for all of them. None is no limit, 0 is one read.

    Yields:
        Each once it is over; its answer is known then.

    Raises:
        ResultTimeoutError: Not all ended in time.
        FiboError: As for the tasks alone.
    """
    going, budget = _Going(), Budget()
    for result in results:
        if going.has_ended(result):
            yield result
        if budget.is_spent():
            await budget.pause()
    if not going.left:
        return
    try:
        async with aclosing(tasks_as_completed(session, going.tasks, timeout=timeout)) as completed:
            async for task in completed:
                for result in going.end(task):
                    yield result
                if not going.left:  # Celery never stores a state for tasks after one that ended badly.
                    break
    except ResultTimeoutError as error:
        told = error.replace(task_ids=going.missing(), total=len(results))
        raise told from None


async def gather(session: Session, results: Sequence[Any], *, timeout: float | None, return_exceptions: bool) -> Any:
    """Wait for many tasks and flows together.

    Args:
        session: The client's running parts.
        results: The handles of tasks, and the results of flows.
        timeout: Seconds for all of them. None is no limit, 0 is one read.
        return_exceptions: Whether to put the error of one that ended badly in the place of its result.

    Returns:
        The results, in order.

    Raises:
        ResultTimeoutError: Not all ended in time.
        FiboError: One ended badly. It is raised as soon as that is known.
    """
    values: dict[int, Any] = {}
    late: ResultTimeoutError | None = None
    try:
        async with aclosing(as_completed(session, results, timeout=timeout)) as completed:
            async for result in completed:
                values[id(result)] = await _value(result, return_exceptions=return_exceptions)
    except ResultTimeoutError as error:
        late = error
    if late is None:
        return [values[id(result)] for result in results]
    if not return_exceptions:
        finished = {index: values[id(each)] for index, each in enumerate(results) if id(each) in values}
        told = late.replace(finished=finished)
        raise told
    return [values.get(id(each), late.replace(task_ids=[each.id], total=1)) for each in results]


async def _value(result: AsyncResult[Any] | FlowResult[Any], *, return_exceptions: bool) -> Any:
    """Give the value, or the error, of a result that is over."""
    try:
        return await result.get(0)
    except FiboError as error:
        if not return_exceptions:
            raise
        return error


class _Awaited:
    """A result that is awaited, and how many of the tasks that make it up have not ended."""

    __slots__ = ("left", "result", "wanted")

    def __init__(self, result: Any, wanted: set[str]) -> None:
        self.result: Any = result
        self.wanted: set[str] = wanted
        self.left: int = len(wanted)


class _Going:
    """The results that have not ended.

    Attributes:
        tasks: The handles of all their tasks.
        left: How many results have not ended.
    """

    def __init__(self) -> None:
        self.tasks: list[AsyncResult[Any]] = []
        self.left: int = 0
        self._of: dict[int, deque[_Awaited]] = {}  # By the identity of a handle, which may be given twice.

    def has_ended(self, result: Any) -> bool:
        """Tell whether nothing of a result is awaited. If something is, add the result."""
        tasks = [each for each in result.tasks if not each.ignored] if isinstance(result, FlowResult) else [result]
        if not tasks:
            return True
        awaited = _Awaited(result, wanted_of(result) or {task.id for task in tasks})
        for task in tasks:
            self._of.setdefault(id(task), deque()).append(awaited)
        self.tasks += tasks
        self.left += 1
        return False

    def end(self, task: AsyncResult[Any]) -> list[Any]:
        """Note that a task is over. Return the result that is over by that, if any, as a list."""
        awaited = self._of[id(task)].popleft()
        if not awaited.left:
            return []  # Its result has ended badly before.
        seen = task.cached
        ended_badly = seen is None or seen.failure is not None
        awaited.left = 0 if ended_badly else awaited.left - (task.id in awaited.wanted)
        if awaited.left:
            return []
        self.left -= 1
        return [awaited.result]

    def missing(self) -> list[str]:
        """Return the ids of the tasks that are still awaited."""
        return [task.id for task in self.tasks if any(each.left for each in self._of[id(task)])]
