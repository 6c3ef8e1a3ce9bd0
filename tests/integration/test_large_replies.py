"""Replies that are larger than a client takes: they cost no memory, and fail nobody but who asked for them."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc

import pytest
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_client.errors import ResultTooLargeError
from fibo_client.testing.results import encode_meta

SIZE = 64 * 1024 * 1024
BOUND = 1024 * 1024
A_FEW_MB = 8 * 1024 * 1024
OTHERS = 20
STORE_AND_PUSH = "local v = redis.call('GET', KEYS[1]) redis.call('SET', KEYS[2], v) redis.call('PUBLISH', KEYS[2], v)"
"""What a worker does. The bytes are in the server only: this process shall not have them."""


@pytest.fixture
async def hand(hand):
    """The hand, on a server with a large value, which pushes whatever is published."""
    before = (await hand.redis.config_get("client-output-buffer-limit"))["client-output-buffer-limit"]
    await hand.redis.config_set("client-output-buffer-limit", "pubsub 0 0 0")
    await hand.redis.setrange("large", SIZE - 1, "x")
    yield hand
    await hand.redis.flushall()
    await hand.redis.config_set("client-output-buffer-limit", before)


async def store(hand, task_id):
    """Store and push a result that is far too large."""
    await hand.redis.eval(STORE_AND_PUSH, 2, "large", f"celery-task-meta-{task_id}")


@contextlib.contextmanager
def few_bytes():
    """Check that the block takes no more than a few megabytes of memory at any moment."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < A_FEW_MB, f"{(peak - before) / 1024 / 1024:.0f} MB for a reply that is not taken"


@pytest.mark.parametrize("push", [True, False], ids=["pushed", "polled"])
async def test_a_reply_beyond_the_bound_is_dropped_and_fails_its_own_waiter_alone(server, hand, push):
    async with CeleryClient(server.url, push=push, max_result_bytes=BOUND) as client:
        waiting = asyncio.create_task(client.result("large").get(timeout=20))
        others = [asyncio.create_task(client.result(f"{n}").get(timeout=20)) for n in range(OTHERS)]
        if push:

            async def subscribed():
                return len(await hand.channels()) == OTHERS + 1

            await eventually(subscribed)
        looks = client.stats().polls
        await eventually(lambda: client.stats().polls > looks)
        with few_bytes():
            for n in range(0, OTHERS, 2):
                await hand.put(f"{n}", result=n)
            await store(hand, "large")
            for n in range(1, OTHERS, 2):
                await hand.put(f"{n}", result=n)
            with pytest.raises(ResultTooLargeError, match="max_result_bytes") as caught:
                await waiting
            assert await asyncio.gather(*others) == list(range(OTHERS))
        assert caught.value.task_id == "large"
        assert client.stats().decode_failures == 1
        assert await client.result("0").get(timeout=5) == 0


@pytest.mark.parametrize("push", [True, False], ids=["pushed", "polled"])
async def test_a_reply_beyond_the_bound_that_was_there_before_is_dropped_among_the_others(server, hand, push):
    await store(hand, "large")
    for n in range(OTHERS):
        await hand.put(f"{n}", result=n)
    async with CeleryClient(server.url, push=push, max_result_bytes=BOUND) as client:
        handles = [client.result("large" if n == OTHERS // 2 else f"{n}") for n in range(OTHERS)]
        with few_bytes():
            ends = await client.gather(handles, return_exceptions=True, timeout=20)
            error = ends.pop(OTHERS // 2)
            assert ends == [n for n in range(OTHERS) if n != OTHERS // 2]
            assert isinstance(error, ResultTooLargeError)
            assert error.task_id == "large"
            with pytest.raises(ResultTooLargeError, match="max_result_bytes"):
                await client.result("large").get(timeout=0)
            assert await client.ready([client.result("large"), client.result("0")]) == [True, True]


@pytest.mark.parametrize("push", [True, False], ids=["pushed", "polled"])
async def test_a_reply_of_just_the_bound_is_taken_and_one_byte_more_is_not(server, hand, push):
    def result(task_id, size):
        return encode_meta(task_id, result="x" * (size - len(encode_meta(task_id, result=""))))

    async with CeleryClient(server.url, push=push, max_result_bytes=BOUND) as client:
        await hand.put_bytes("a", result("a", BOUND))
        await hand.put_bytes("b", result("b", BOUND + 1))
        assert await client.result("a").get(timeout=10)
        with pytest.raises(ResultTooLargeError, match="max_result_bytes"):
            await client.result("b").get(timeout=10)
        waiting = [asyncio.create_task(client.result(task_id).get(timeout=10)) for task_id in "cd"]
        looks = client.stats().polls
        await eventually(lambda: client.stats().polls > looks)
        await hand.put_bytes("c", result("c", BOUND))
        await hand.put_bytes("d", result("d", BOUND + 1))
        assert await waiting[0]
        with pytest.raises(ResultTooLargeError, match="max_result_bytes"):
            await waiting[1]


async def test_large_results_that_have_been_there_for_long_do_not_cost_the_subscription(server, hand):
    """Together they are more than Redis takes for a subscribed connection, so they are read on another one."""
    await hand.redis.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
    async with CeleryClient(server.url) as client:

        async def push(task_id):
            waiting = asyncio.create_task(client.result(task_id).get(timeout=20))

            async def subscribed():
                return f"celery-task-meta-{task_id}".encode() in await hand.channels()

            await eventually(subscribed)
            await hand.put(task_id, result=1)
            assert await waiting == 1

        await push("before")
        for n in range(OTHERS):
            await hand.put(f"{n}", result="x" * (BOUND // 4))
        pushes = client.stats().pushes
        answers = await client.gather([client.result(f"{n}") for n in range(OTHERS)], timeout=20)
        assert [len(answer) for answer in answers] == [BOUND // 4] * OTHERS
        await push("after")
        assert client.stats().pushes == pushes + 1
        assert client.stats().reconnects == 0


async def test_questions_and_deletions_beside_replies_beyond_the_bound_are_answered(server, hand):
    """None of what is asked at the same time fails, however often a connection is given up."""

    async def again_and_again(ask):
        while not is_over:
            await ask()

    is_over = False
    async with CeleryClient(server.url, push=False, max_result_bytes=BOUND) as client:
        asking = [
            asyncio.create_task(again_and_again(each))
            for each in (
                lambda: client.ping(timeout=1),
                lambda: client.inspect(timeout=1).active_queues(),
                client.queue_depth,
                client.result("nothing-of-anybody").forget,
            )
            for _ in range(3)
        ]
        for n in range(10):
            await store(hand, f"large {n}")
            with pytest.raises(ResultTooLargeError):
                await client.result(f"large {n}").get(timeout=10)
        is_over = True
        await asyncio.gather(*asking)
        assert client.stats().reconnects >= 10
