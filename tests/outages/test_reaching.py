"""Redis cannot be reached, not any more, or hardly."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis as redis_py
from support.outages import outage
from support.servers import RedisServer, free_port
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_client.testing.results import encode_meta


def answer(redis, handle, value=55) -> None:
    """Store the answer to a submitted number, as the worker would."""
    redis.set(f"celery-task-meta-{handle.id}", encode_meta(handle.id, "SUCCESS", format(value, "x")))


def has_loaded(direct) -> bool:
    """Whether Redis has read its data: until then it answers with an error."""
    try:
        return bool(direct.ping())
    except redis_py.exceptions.BusyLoadingError:
        return False


@outage(
    "Redis is not there when the client first calls",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="safe",
)
async def test_a_redis_that_is_not_there_is_said_at_once_and_found_when_it_comes(witness):
    port = free_port()
    async with FiboClient(f"redis://127.0.0.1:{port}/0") as client:
        error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
        assert "Is Redis running there?" in str(error)
        with RedisServer(port=port) as redis, redis.client() as direct:
            await client.submit(10)
            assert direct.llen("celery") == 1


@outage(
    "The host's name cannot be resolved",
    sees="`PublishError`",
    within="at once, or what the resolver takes, `io_timeout` at most",
    submitted="no",
    retry="safe",
)
async def test_a_name_that_nobody_knows_is_said(witness):
    async with FiboClient("redis://no-such-host.invalid:6379/0", io_timeout=2) as client:
        error = await witness.see(client.fibonacci(10, timeout=10), deadline=2)
        assert "no-such-host.invalid" in str(error)


@outage(
    "Redis goes away before a number is submitted, and stays away",
    sees="`PublishError`",
    within="`timeout`",
    submitted="no",
    retry="safe",
)
async def test_a_redis_that_is_gone_at_submit_is_tried_until_the_deadline(witness):
    with RedisServer() as redis:
        async with FiboClient(redis.url) as client:
            await client.submit(1)
            redis.stop()
            error = await witness.see(client.fibonacci(10, timeout=0.5), deadline=0.5)
            assert "Is Redis running there?" in str(error)


@outage(
    "Redis goes away before a task is sent once (`send_task`)",
    sees="`PublishError`; at that very moment, `PublishUnknownError`",
    within="at once",
    submitted="depends on the error",
    retry="depends on the error",
)
async def test_a_redis_that_is_gone_is_said_to_who_sends_once(witness):
    with RedisServer() as redis:
        async with CeleryClient(redis.url) as celery:
            await celery.send_task("t.add", (1, 2))
            redis.stop()
            await witness.see(celery.send_task("t.add", (1, 2)), deadline=1)
            with RedisServer(port=redis.port) as again, again.client() as direct:
                await celery.send_task("t.add", (1, 2))
                assert direct.llen("celery") == 1


@outage(
    "Redis goes away while a result is awaited, and comes back without its data",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes",
    retry="safe for a number",
    lost="the task, and its result",
)
async def test_a_redis_that_comes_back_empty_costs_the_task_and_not_the_client(witness):
    with RedisServer() as redis:
        async with FiboClient(redis.url) as client:
            handle = await client.submit(10)
            waiting = asyncio.create_task(witness.see(handle.get(timeout=1.5), deadline=1.5))
            await asyncio.sleep(0)  # It begins to wait.
            redis.stop()
            with RedisServer(port=redis.port) as again, again.client() as direct:
                error = await waiting
                assert error.state == "PENDING"
                assert direct.dbsize() == 0
                handle = await client.submit(10)
                answer(direct, handle)
                assert await handle.get(timeout=5) == 55


@outage(
    "Redis is restarted with its data while a result is awaited",
    sees="the answer",
    within="half a second after the restart",
    submitted="yes",
    retry="not needed",
    lost="nothing with `appendfsync always`; else what was not yet on disk",
)
async def test_a_restart_with_its_data_costs_nothing(witness, tmp_path):
    disk = {"dir": str(tmp_path), "appendonly": "yes", "appendfsync": "always"}
    with RedisServer(options=disk) as redis:
        async with FiboClient(redis.url) as client:
            handle = await client.submit(10)
            waiting = asyncio.create_task(witness.see(handle.get(timeout=10), deadline=10))
            with redis.client() as direct:
                await eventually(lambda: asyncio.to_thread(lambda: direct.pubsub_channels()))
            redis.stop()
            with RedisServer(port=redis.port, options=disk) as again, again.client() as direct:
                await eventually(lambda: asyncio.to_thread(has_loaded, direct))
                assert direct.llen("celery") == 1
                answer(direct, handle)
                assert await waiting == 55


@outage(
    "Redis takes the connection and never answers",
    sees="`PublishError`",
    within="`io_timeout`",
    submitted="no",
    retry="safe",
)
async def test_a_redis_that_says_nothing_to_a_new_connection_is_given_up(witness, proxy, worker):
    proxy.stalled = True
    async with FiboClient(proxy.url(worker.url), io_timeout=0.3) as client:
        await witness.see(client.fibonacci(10, timeout=5), deadline=0.3)
        proxy.stalled = False
        assert await client.fibonacci(10) == 55


@outage(
    "Redis stops answering before a number is submitted, and goes on later",
    sees="the answer",
    within="`io_timeout` and a pause after it went on",
    submitted="yes, perhaps twice under one id",
    retry="not needed",
)
async def test_a_number_comes_through_a_stall(witness, proxy, worker):
    async with FiboClient(proxy.url(worker.url), io_timeout=0.3) as client:
        assert await client.fibonacci(10) == 55
        proxy.stalled = True
        asyncio.get_running_loop().call_later(0.5, setattr, proxy, "stalled", False)
        assert await witness.see(client.fibonacci(11, timeout=10), deadline=10) == 89


@outage(
    "Redis stops answering before a task is sent once (`send_task`)",
    sees="`PublishUnknownError`",
    within="`io_timeout`",
    submitted="not known",
    retry="under the same id, or if the task may run twice",
    lost="nothing; the task may run",
)
async def test_a_stall_leaves_the_outcome_of_sending_unknown(witness, proxy, worker):
    async with CeleryClient(proxy.url(worker.url), io_timeout=0.3) as celery:
        await celery.call("tasks.sqrt_task", (4,), timeout=10)
        proxy.stalled = True
        error = await witness.see(celery.send_task("tasks.sqrt_task", (2,), task_id="stalled"), deadline=0.3)
        assert error.task_ids == ("stalled",)
        proxy.stalled = False
        # It had left, and Redis has it as soon as the way is free.
        assert await celery.result("stalled").get(timeout=10) == pytest.approx(2**0.5)


@outage(
    "Redis stops answering while results are awaited, for good",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes",
    retry="safe for a number; else ask the handle again",
)
async def test_a_stall_while_waiting_ends_by_the_deadline_and_says_that_nothing_could_be_read(witness, proxy, stock):
    async with CeleryClient(proxy.url(stock.url), io_timeout=0.2) as celery:
        handle = await celery.send_task("stock.sleep", (0.3,))
        proxy.stalled = True
        error = await witness.see(handle.get(timeout=1), deadline=1)
        assert "cannot be read" in str(error) or "could not be read" in str(error), str(error)
        proxy.stalled = False
        assert await handle.get(timeout=10) == 0.3


@outage(
    "Redis answers slowly (50 kB a second)",
    sees="the answer",
    within="`timeout`",
    submitted="yes",
    retry="not needed",
)
async def test_a_slow_redis_is_waited_for(witness, proxy, stock):
    proxy.pace = 50_000
    async with CeleryClient(proxy.url(stock.url)) as celery:
        handle = await celery.send_task("stock.big", (40_000,))
        assert await witness.see(handle.get(timeout=10), deadline=10) == "x" * 40_000


@outage(
    "The network takes 50 ms each way",
    sees="the answer",
    within="two round trips more, 0.2 s",
    submitted="yes",
    retry="not needed",
)
async def test_latency_costs_round_trips_and_nothing_else(witness, proxy, worker):
    proxy.delay = 0.05
    async with FiboClient(proxy.url(worker.url)) as client:
        assert await client.fibonacci(1) == 1  # The connections are made.
        assert await witness.see(client.fibonacci(10, timeout=5), deadline=5) == 55
        values = await witness.see(client.fibonacci_many(range(2000), timeout=20), deadline=20)
        assert values[:11] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
        began = time.monotonic()
        await asyncio.gather(*(client.fibonacci(n, timeout=20) for n in range(100)))
        witness.times.append(time.monotonic() - began)
