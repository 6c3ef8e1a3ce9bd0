"""Calls that all time out, for there is no worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fibo_client import FiboClient, ResultTimeoutError
from fibo_client.celery import RemoteTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


ROOT = RemoteTask[[int], float]("tasks.sqrt_task")

SUBMISSIONS: dict[str, Callable[[FiboClient, float], Awaitable[object]]] = {
    # Making 2,000 messages takes a while.
    "call_many": lambda client, seconds: client.celery.call_many([ROOT(2)] * 2000, timeout=seconds),
    "call": lambda client, seconds: client.celery.call(ROOT, (2,), timeout=seconds),
    "call with an id": lambda client, seconds: client.celery.call(ROOT, (2,), timeout=seconds, task_id="mine"),
    "fibonacci_many": lambda client, seconds: client.fibonacci_many(range(2000), chunk_size=1, timeout=seconds),
    "fibonacci": lambda client, seconds: client.fibonacci(2, timeout=seconds),
}


@pytest.mark.parametrize("submit", SUBMISSIONS.values(), ids=SUBMISSIONS)
async def test_an_error_says_all_the_time_that_was_waited_the_making_of_the_messages_included(server, submit):
    async with FiboClient(server.url) as client:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError) as error:
            await submit(client, 0.25)
        assert 0.25 <= error.value.waited <= time.monotonic() - began
