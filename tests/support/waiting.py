"""Waiting for a condition, with a deadline: `until` blocks, `eventually` is a coroutine."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    Message = str | Callable[[], str] | None

T = TypeVar("T")


def until(condition: Callable[[], T], message: Message = None, *, timeout: float = 30.0, interval: float = 0.02) -> T:
    """Wait until a condition is true.

    Args:
        condition: Called until what it returns is true.
        message: The text of the failure, or a function that gives it. None names the condition.
        timeout: The most seconds to wait.
        interval: Seconds between two calls.

    Returns:
        What it returned.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, _failure(condition, message, timeout)
        time.sleep(interval)  # The one place where tests wait like this.
    return answer


async def eventually(condition: Callable[[], Any], message: Message = None, *, timeout: float = 30.0) -> Any:
    """Wait as `until` does, while the event loop goes on. The condition may give an awaitable. Look ever less."""
    deadline = time.monotonic() + timeout
    interval = 0.005
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, _failure(condition, message, timeout)
        await asyncio.sleep(interval)
        interval = min(1.2 * interval, 0.05)


def _failure(condition: Callable[[], object], message: Message, timeout: float) -> str:
    if callable(message):
        return message()
    return message or f"{condition!r} was not true within {timeout:g} s"
