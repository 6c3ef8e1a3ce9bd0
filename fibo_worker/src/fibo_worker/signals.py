"""End ``fibo-worker dev`` and ``fibo-worker demo`` cleanly at the first signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cancelled_by_signals", "interruptible"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """End the block at the first Ctrl-C, SIGTERM or SIGHUP, and ignore further ones while it ends.

    Yields:
        None.

    Raises:
        KeyboardInterrupt: One of these signals came.
    """

    def stop(_number: int, _frame: Any) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    # nohup ignores SIGHUP; keep it so.
    wanted = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """Inside `interruptible`, let the signal cancel the asyncio task that runs the block.

    A handler that raises would raise wherever the event loop is at that moment, perhaps in another task. So the block
    ends with CancelledError.

    Yields:
        None.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    handlers = {each: signal.getsignal(each) for each in _SIGNALS}
    caught = [each for each, handler in handlers.items() if handler != signal.SIG_IGN]

    def stop() -> None:
        for each in caught:
            loop.remove_signal_handler(each)
            handlers[each] = signal.SIG_IGN
            signal.signal(each, signal.SIG_IGN)
        if task is not None:
            task.cancel()

    for each in caught:
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in caught:
            loop.remove_signal_handler(each)
            signal.signal(each, handlers[each])
