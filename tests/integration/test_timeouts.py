"""Thousands of calls that all time out, for there is no worker: nothing of them is left, and nothing is run later."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from support.hand import eventually
from support.worker import NOTHING, leftovers

from fibo_client import FiboClient, ResultTimeoutError
from fibo_client.celery import RemoteTask
from fibo_client.celery.work import EXPIRY_MARGIN
from fibo_client.contract import FIBONACCI
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio

ROOT = RemoteTask[[int], float]("tasks.sqrt_task")
CALLS = 1000
TIMEOUT = 1.0

KINDS: dict[str, Callable[[FiboClient, int], Awaitable[object]]] = {
    "fibonacci": lambda client, number: client.fibonacci(number % 1000, timeout=TIMEOUT),
    "call": lambda client, number: client.celery.call(FIBONACCI, number % 1000, timeout=TIMEOUT),
}

SUBMISSIONS: dict[str, Callable[[FiboClient, float], Awaitable[object]]] = {
    # Making 2,000 messages takes a while.
    "call_many": lambda client, seconds: client.celery.call_many([ROOT(2)] * 2000, timeout=seconds),
    "call": lambda client, seconds: client.celery.call(ROOT, 2, timeout=seconds),
    "call with an id": lambda client, seconds: client.celery.call(ROOT, 2, timeout=seconds, task_id="mine"),
    "fibonacci_many": lambda client, seconds: client.fibonacci_many(range(2000), chunk_size=1, timeout=seconds),
    "fibonacci": lambda client, seconds: client.fibonacci(2, timeout=seconds),
}


async def time_out(client: FiboClient, kind: str, calls: int) -> int:
    """Make calls at once that all time out. Give how many objects are left more than before."""
    engine: Any = client.celery.engine

    async def call(number: int) -> None:
        with pytest.raises(ResultTimeoutError):
            await KINDS[kind](client, number)

    async def tidied() -> bool:
        return not (engine.tidier._deleted or engine.tidier._revoked or engine._publisher.unsent)

    async def make(count: int) -> int:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(call(number))
        await eventually(tidied, seconds=60)
        gc.collect()
        return len(gc.get_objects())

    before = await make(10)  # What is made once and kept is there from now on.
    return await make(calls) - before


async def messages(redis: redis.asyncio.Redis) -> list[dict[str, Any]]:
    """All task messages in the lists of the queue."""
    keys = [key for key in await redis.keys("celery*") if await redis.type(key) == b"list"]
    return [json.loads(payload) for key in keys for payload in await redis.lrange(key, 0, -1)]


@pytest.mark.parametrize("submit", SUBMISSIONS.values(), ids=SUBMISSIONS)
async def test_an_error_says_all_the_time_that_was_waited_the_making_of_the_messages_included(server, submit):
    async with FiboClient(server.url) as client:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError) as error:
            await submit(client, 0.25)
        assert 0.25 <= error.value.waited <= time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_that_all_time_out_leave_nothing_in_memory_and_nothing_that_could_still_run(server, hand, kind):
    async with FiboClient(server.url, max_in_flight=2 * CALLS) as client:
        grown = await time_out(client, kind, CALLS)
        assert leftovers(client) == NOTHING
        registry = client.celery.engine._watcher._registry
        assert (len(registry._timed), len(registry._deadlines), len(registry._looks)) == (0, 0, 0)
        assert grown < CALLS / 4  # One object kept for each call would be as many as calls.
    sent = await messages(hand.redis)
    assert sent
    latest = time.time() + EXPIRY_MARGIN
    assert all(datetime.fromisoformat(each["headers"]["expires"]).timestamp() <= latest for each in sent)

    async def expired() -> bool:
        return time.time() > latest

    async def emptied() -> bool:
        return not await messages(hand.redis)

    async def results() -> list[bytes]:
        keys = await hand.redis.keys("celery-task-meta-*")
        return [value for value in (await hand.redis.mget(keys) if keys else []) if value]

    async def all_answered() -> bool:
        return len(await results()) >= len(sent)

    await eventually(expired)
    with WorkerProcess(server.url, concurrency=1, stop_timeout=0):
        await eventually(emptied, seconds=30)
        await eventually(all_answered, seconds=30)
        assert {json.loads(value)["status"] for value in await results()} == {"REVOKED"}
