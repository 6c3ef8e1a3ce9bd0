"""Calls that block, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
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
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # Nobody waits any more.
        if error is None:
            future.set_result(value)  # type: ignore[arg-type] # with no error there is a value
        else:
            future.set_exception(error)

    def call() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = function(*arguments), None
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            outcome = None, error
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:
            pass  # The loop is closed: the process ends.

    threading.Thread(target=call, name="fibo.blocking", daemon=True).start()
    return await future
