"""Waiting for something to happen, with a deadline: `until` where nothing else goes on, `eventually` in a coroutine."""

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
    """Ask until the answer is true.

    Args:
        condition: The question.
        message: What to say if it does not become true in time, or what gives that. None names the condition.
        timeout: For how many seconds to ask.
        interval: How many seconds lie between two questions.

    Returns:
        The answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, _failure(condition, message, timeout)
        time.sleep(interval)  # The one place where tests wait like this.
    return answer


async def eventually(condition: Callable[[], Any], message: Message = None, *, timeout: float = 30.0) -> Any:
    """Ask until the answer is true, while the event loop goes on; like `until`, but what it asks may be awaitable."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, _failure(condition, message, timeout)
        await asyncio.sleep(0.005)


def _failure(condition: Callable[[], object], message: Message, timeout: float) -> str:
    if callable(message):
        return message()
    return message or f"{condition!r} was not true within {timeout:g} s"
