"""Waiting on a real Redis, with a hand that plays the worker: every way in which a result can come."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time

import pytest
from support.outages import OVERRUN
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_client.errors import ResultDecodeError, ResultTimeoutError, TaskFailedError, TaskRevokedError

LATE = 10 * OVERRUN


@pytest.fixture(params=[True, False], ids=["push", "poll"])
async def client(request, server, hand):
    async with CeleryClient(server.url, push=request.param) as client:
        yield client


async def looked_for(client, looks=0):
    """Wait until results have been read more often than that: a wait has begun."""
    await eventually(lambda: client.stats().polls > looks)


async def test_a_result_that_was_there_before_the_wait_began(client, hand):
    await hand.put("a", result=55)
    assert await client.result("a").get(timeout=5) == 55
    assert await client.result("a").get(timeout=0) == 55


async def test_a_result_that_is_stored_later(client, hand):
    waiting = asyncio.create_task(client.result("a").get(timeout=10))
    await looked_for(client)
    await hand.put("a", result=[1, {"b": None}])
    assert await waiting == [1, {"b": None}]


async def test_a_result_that_is_stored_without_a_push(client, hand):
    waiting = asyncio.create_task(client.result("a").get(timeout=10))
    await looked_for(client)
    await hand.put("a", result=1, publish=False)
    assert await waiting == 1


async def test_a_result_that_is_published_twice(client, hand):
    waits = [asyncio.create_task(client.result("a").get(timeout=10)) for _ in range(3)]
    await looked_for(client)
    for _ in range(2):
        await hand.put("a", result=1)
    assert await asyncio.gather(*waits) == [1, 1, 1]
    assert client.stats().pending == 0


async def test_a_result_after_much_noise(client, hand):
    waiting = asyncio.create_task(client.result("a").get(timeout=10))
    await looked_for(client)
    for status in ("STARTED", "RETRY", "STARTED", "PROGRESS", "RECEIVED"):
        await hand.put("a", status, {"exc_type": "E", "exc_message": ["noise"]})
    await hand.put("a", result=9)
    assert await waiting == 9


async def test_a_result_that_is_pushed_into_a_dead_subscription(server, hand):
    async with CeleryClient(server.url) as client:
        waiting = asyncio.create_task(client.result("a").get(timeout=60))
        await eventually(hand.channels)
        await hand.redis.client_kill_filter(_type="pubsub")
        await hand.put("a", result=3)
        began = time.monotonic()
        assert await waiting == 3
        assert time.monotonic() - began < 10 * client.config.longest_poll  # Long before its time is up.
        waiting = asyncio.create_task(client.result("b").get(timeout=10))
        await eventually(hand.channels)
        await hand.put("b", result=4)
        assert await waiting == 4


async def test_a_result_that_no_look_has_found_is_seen_by_the_one_at_the_deadline(server, hand):
    async def looked() -> bool:
        return "mget" in await hand.commands()

    async with CeleryClient(server.url, push=False, poll_min=600, poll_max=600) as client:
        waiting = asyncio.create_task(client.result("a").get(timeout=1))
        await eventually(looked)
        await hand.put("a", result=1)
        assert await waiting == 1
        assert client.stats().polls == 2


async def test_results_of_every_kind_are_told_apart(client, hand):
    await hand.put("failed", "FAILURE", {"exc_type": "KeyError", "exc_module": "builtins", "exc_message": ["k", 1]})
    await hand.put("revoked", "REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["terminated"]})
    await hand.put_bytes("broken", b"\x80\x04pickle")
    with pytest.raises(TaskFailedError, match=r"raised KeyError\('k', 1\)") as failed:
        await client.result("failed").get(timeout=5)
    assert failed.value.exc_args == ("k", 1)
    with pytest.raises(TaskRevokedError, match="terminated"):
        await client.result("revoked").get(timeout=5)
    with pytest.raises(ResultDecodeError, match="pickle"):
        await client.result("broken").get(timeout=5)


@pytest.mark.parametrize("timeout", [0.01, 0.08, 0.3, 1.0])
async def test_a_call_without_an_answer_ends_on_time(client, timeout):
    began = time.monotonic()
    with pytest.raises(ResultTimeoutError, match=r"nobody\.knows.*PENDING") as caught:
        await client.call("nobody.knows", timeout=timeout)
    took = time.monotonic() - began
    assert timeout <= took + 0.01
    assert took < timeout + LATE
    assert isinstance(caught.value, TimeoutError)


async def test_two_hundred_calls_without_an_answer_end_on_time(client):
    async def lateness() -> float:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            await client.call("nobody.knows", timeout=1.0)
        return time.monotonic() - began - 1.0

    assert max(await asyncio.gather(*(lateness() for _ in range(200)))) < LATE


async def test_a_call_on_a_redis_that_hangs_ends_on_time(client, server):
    await client.ready([client.result("a")])
    os.kill(server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            await client.result("a").get(timeout=0.5)
        assert time.monotonic() - began < 0.5 + LATE
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_timeout_can_be_repeated_and_loses_nothing(client, hand):
    result = client.result("a", "some.task")
    for _ in range(2):
        with pytest.raises(ResultTimeoutError):
            await result.get(timeout=0.05)
    await hand.put("a", result=1)
    assert await result.get(timeout=5) == 1
    assert await result.get() == 1
    assert await result == 1
    assert result.cached.state == "SUCCESS"


async def test_ready_asks_once_for_all_and_never_again_for_what_is_over(client, hand):
    results = [client.result(task_id) for task_id in "abc"]
    await hand.put("b")
    await hand.put("c", "STARTED", {"pid": 1})
    before = (await hand.commands()).get("mget", 0)
    assert await client.ready(results) == [False, True, False]
    assert (await hand.commands())["mget"] == before + 1
    assert await client.ready(results[1:2]) == [True]
    assert (await hand.commands())["mget"] == before + 1  # What is over is not asked for again.
    assert await results[0].ready() is False
    assert await asyncio.create_task(results[1].ready()) is True
    assert await client.ready([]) == []


async def test_states_are_followed_until_the_last(client, hand):
    seen, one_more = [], asyncio.Semaphore(0)

    async def work():
        for step in range(3):
            await hand.put("a", "PROGRESS", {"current": step})
            await one_more.acquire()  # Else the next one may take its place unseen.
        await hand.put("a", result="done")

    working = asyncio.create_task(work())
    async for meta in client.result("a").updates(timeout=10):
        seen.append((meta.state, meta.result))
        one_more.release()
    await working
    assert seen[-1] == ("SUCCESS", "done")
    assert seen[:-1] == [("PROGRESS", {"current": step}) for step in range(3)]
    assert [meta.state async for meta in client.result("a").updates(timeout=1)] == ["SUCCESS"]


async def test_following_states_ends_with_the_deadline(client, hand):
    await hand.put("a", "STARTED")
    updates = client.result("a").updates(timeout=0.2)
    assert (await anext(updates)).state == "STARTED"
    with pytest.raises(ResultTimeoutError, match="STARTED"):
        await anext(updates)


async def test_leaving_while_following_leaves_nothing_behind(client, hand):
    await hand.put("a", "STARTED")
    updates = client.result("a").updates(timeout=60)
    async for _ in updates:
        break
    await updates.aclose()
    assert client.stats().pending == 0


async def test_gathering_keeps_order_and_duplicates_and_tells_what_finished(client, hand):
    results = [client.result(task_id) for task_id in "abca"]
    await hand.put("a", result=1)
    await hand.put("c", result=3)
    with pytest.raises(ResultTimeoutError, match="3 of 4 results") as caught:
        await client.gather(results, timeout=0.1)
    assert caught.value.finished == {0: 1, 2: 3, 3: 1}
    assert caught.value.task_ids == ("b",)
    await hand.put("b", result=2)
    assert await client.gather(results, timeout=5) == [1, 2, 3, 1]
    assert await client.gather(results) == [1, 2, 3, 1]
    assert await client.gather([]) == []


async def test_gathering_raises_the_first_failure_at_once_or_returns_it(client, hand):
    results = [client.result(task_id) for task_id in "ab"]
    await hand.put("b", "FAILURE", {"exc_type": "ValueError", "exc_message": ["no"]})
    began = time.monotonic()
    with pytest.raises(TaskFailedError):
        await client.gather(results, timeout=10)
    assert time.monotonic() - began < 5
    await hand.put("a", result=1)
    values = await client.gather(results, timeout=5, return_exceptions=True)
    assert values[0] == 1
    assert isinstance(values[1], TaskFailedError)


async def test_gathering_raises_a_failure_that_is_known_already_at_once(client, hand):
    await hand.put("a", "FAILURE", {"exc_type": "ValueError", "exc_message": ["no"]})
    failed, pending = client.result("a"), client.result("b")
    assert await failed.ready()
    began = time.monotonic()
    with pytest.raises(TaskFailedError):
        await client.gather([failed, pending], timeout=10)
    assert time.monotonic() - began < 5


async def test_a_timeout_leaves_the_last_state_in_the_handle(client, hand):
    await hand.put("a", "STARTED", {"pid": 1})
    result = client.result("a")
    with pytest.raises(ResultTimeoutError, match="STARTED"):
        await result.get(timeout=0.2)
    assert result.cached.state == "STARTED"


async def test_what_cannot_be_read_is_over_and_says_so_when_it_is_asked_for(client, hand):
    await hand.put_bytes("a", b"nonsense")
    result = client.result("a")
    assert await result.ready() is True
    assert await client.ready([result]) == [True]
    with pytest.raises(ResultDecodeError):
        await result.get(timeout=5)


async def test_cancelling_a_thousand_callers_at_once_closes_no_connection(client, hand):
    await asyncio.gather(client.call("nobody.knows", timeout=0.2), return_exceptions=True)
    before = await hand.connections()
    calls = [asyncio.create_task(client.call("nobody.knows", timeout=60)) for _ in range(1000)]
    await eventually(lambda: client.stats().in_flight == 1000)
    for call in calls:
        call.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*calls, return_exceptions=True)
    )
    assert client.stats().pending == 0
    await hand.put("a", result=1)
    assert await client.result("a").get(timeout=5) == 1
    assert before
    assert before <= await hand.connections()


async def test_no_command_reaches_redis_while_nobody_waits(client, hand):
    for task_id in "abc":
        looks = client.stats().polls
        waiting = asyncio.create_task(client.result(task_id).get(timeout=5))
        await looked_for(client, looks)
        await hand.put(task_id, result=1)
        await waiting

    async def nothing_is_subscribed_to() -> bool:
        return not await hand.channels()

    await eventually(nothing_is_subscribed_to, timeout=3)
    await hand.redis.config_resetstat()
    await asyncio.sleep(1.5)  # That nothing happens in a while is what is tested.
    # Redis before 7 does not tell the subcommands of CONFIG apart.
    assert set(await hand.commands()) <= {"config", "config|resetstat", "info"}


async def test_an_owned_result_is_deleted_and_one_that_was_handed_out_is_not(client, hand):
    calling = asyncio.create_task(client.call("some.task", timeout=10))
    handle = await client.send_task("some.task")

    async def both_are_sent():
        return await hand.redis.llen("celery") == 2

    await eventually(both_are_sent)
    messages = [json.loads(each) for each in await hand.redis.lrange("celery", 0, -1)]
    ids = {message["headers"]["id"]: message["headers"] for message in messages}
    (owned,) = set(ids) - {handle.id}
    assert ids[owned]["expires"] is not None
    assert ids[handle.id]["expires"] is None
    assert base64.b64decode(messages[0]["body"]).startswith(b"[[]")
    for task_id in ids:
        await hand.put(task_id, result=1)
    assert await calling == 1
    assert await handle.get(timeout=5) == 1

    async def deleted():
        return not await hand.redis.exists(f"celery-task-meta-{owned}")

    await eventually(deleted)
    assert await hand.redis.exists(f"celery-task-meta-{handle.id}")
    await handle.forget()
    assert not await hand.redis.exists(f"celery-task-meta-{handle.id}")
    assert handle.cached is None


async def test_a_worker_that_finds_an_owned_task_expired_means_that_time_was_up(client, hand):
    calling = asyncio.create_task(client.call("some.task", timeout=30))
    await eventually(lambda: hand.redis.llen("celery"))
    task_id = json.loads((await hand.redis.lrange("celery", 0, 0))[0])["headers"]["id"]
    await hand.put(task_id, "REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["expired"]})
    with pytest.raises(ResultTimeoutError, match="compare the clocks"):
        await calling
