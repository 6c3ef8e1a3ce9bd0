"""Blocking calls in daemon threads, which do not keep the process from ending, however long they block."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def call_in_daemon_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call what may block for ever in a thread of its own. Its future cannot be cancelled."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # Who waits may stop; the call goes on.

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - a future hands on whatever was raised, as those of executors do
            future.set_exception(error)

    threading.Thread(target=call, name="fibo_client.blocking", daemon=True).start()
    return future


async def to_daemon_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Do as `asyncio.to_thread`, but in a daemon thread."""
    return await asyncio.wrap_future(call_in_daemon_thread(function, *arguments))
