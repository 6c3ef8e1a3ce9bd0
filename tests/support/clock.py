"""An event loop with virtual time: its clock jumps to the next timer when nothing else can happen."""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")


class _Selector(selectors.DefaultSelector):
    """Instead of sleeping, move the clock forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.turns = 0

    def select(self, timeout=None):
        self.turns += 1
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing will ever happen")
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    @property
    def turn(self) -> int:
        """The number of the present iteration."""
        return self._virtual.turns


def virtual(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run a test on such a loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    # By this attribute pytest-asyncio would take it for a coroutine function, and run it again.
    del run.__wrapped__
    run.__signature__ = inspect.signature(test)
    return run
