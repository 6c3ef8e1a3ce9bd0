"""Blocking calls in daemon threads, which do not keep the process from ending."""

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
    """Call what may block for ever, in a thread that, unlike asyncio's, does not keep the process from ending."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # A caller may stop waiting; the call goes on.

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=call, name="fibo.blocking", daemon=True).start()
    return await asyncio.wrap_future(future)
