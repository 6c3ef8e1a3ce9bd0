"""An event loop that acts at the beginning of a chosen iteration, to interrupt a call at every step.

Each way to interrupt tells whether the call was not over yet, and checks that the interruption arrived once, where it
belongs, and left nothing behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Operation = Callable[[], Coroutine[Any, Any, None]]


class SteppedLoop(asyncio.SelectorEventLoop):
    """Counts its iterations."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0
        self._then: Callable[[], object] | None = None

    def after(self, steps: int, then: Callable[[], object]) -> None:
        """Do something once, after this many more iterations."""
        self._left, self._then = steps, then

    def forget(self) -> None:
        """Do nothing."""
        self._then = None

    def _run_once(self) -> None:
        if self._then is not None:
            if self._left == 0:
                then, self._then = self._then, None
                then()
            self._left -= 1
        super()._run_once()  # type: ignore[misc] # asyncio's own, in every version


class _StopError(Exception):
    pass


def _loop() -> SteppedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop


def _untouched() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


async def by_cancel(operation: Operation, steps: int) -> bool:
    """Cancel the task that makes the call."""
    task = asyncio.create_task(operation())
    _loop().after(steps, task.cancel)
    await asyncio.wait([task], timeout=10)
    _loop().forget()
    assert task.done(), "it took no notice of its cancellation"
    if task.cancelling():
        assert task.cancelling() == 1
        assert task.cancelled(), "the cancellation was swallowed"
        return True
    task.result()
    return False


async def by_timeout(operation: Operation, steps: int) -> bool:
    """Let a timeout around the call expire."""
    loop = _loop()
    raised: BaseException | None = None
    try:
        async with asyncio.timeout(None) as scope:
            loop.after(steps, lambda: scope.reschedule(loop.time()))
            try:
                await operation()
            finally:
                loop.forget()
    except TimeoutError as error:
        raised = error
    assert (type(raised) is TimeoutError) is scope.expired(), "the cancellation was swallowed"
    assert _untouched()
    return scope.expired()


async def by_group(operation: Operation, steps: int) -> bool:
    """Fail in the task group in which the call is made."""
    loop = _loop()
    stop: asyncio.Future[None] = loop.create_future()
    stopped = False
    try:
        async with asyncio.TaskGroup() as group:
            child = group.create_task(operation())
            loop.after(steps, lambda: stop.set_exception(_StopError()))
            await asyncio.wait([child, stop], return_when=asyncio.FIRST_COMPLETED)
            loop.forget()
            if stop.done():
                stop.result()
    except* _StopError:
        stopped = not child.done() or child.cancelled()
    assert child.done()
    assert _untouched()
    return stopped


async def by_scope(operation: Operation, steps: int) -> bool:
    """Cancel anyio's scope around the call. It cancels again and again, until the scope is left."""
    loop = _loop()
    with anyio.CancelScope() as scope:
        loop.after(steps, scope.cancel)
        try:
            await operation()
        finally:
            loop.forget()
        # The scope does not cancel a task that is about to run until it waits again, which it may never do.
        assert _untouched(), "the cancellation was swallowed"
    assert _untouched()
    return scope.cancelled_caught


WAYS: dict[str, Callable[[Operation, int], Awaitable[bool]]] = {
    "cancel": by_cancel,
    "timeout": by_timeout,
    "group": by_group,
    "scope": by_scope,
}
