"""Calls that block, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["to_daemon_thread"]

T = TypeVar("T")


async def to_daemon_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that may block for ever, such as a read of a terminal.

    Unlike those of ``asyncio.to_thread``, its thread does not keep the process from ending.

    Args:
        function: What to call.
        *arguments: Its arguments.

    Returns:
        What it returns.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # It cannot be cancelled: whoever waits may leave, and it goes on.

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=call, name="fibo.blocking", daemon=True).start()
    return await asyncio.wrap_future(future)
