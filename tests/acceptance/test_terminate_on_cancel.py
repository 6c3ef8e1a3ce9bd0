"""A task that runs on a real worker ends with the call that waits for it, if that was said, and the worker goes on."""

from __future__ import annotations

import asyncio

import pytest
from support.servers import stock_worker
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RemoteTask

sleep = RemoteTask[[float], float]("stock.sleep")
add = RemoteTask[[int, int], int]("stock.add")

STARTED = {"task_track_started": True}


@pytest.fixture(scope="module")
def prefork(redis_server):
    url = redis_server.fresh_url()
    with stock_worker(url, conf=STARTED) as process:
        yield url, process


@pytest.fixture(scope="module")
def threads(redis_server):
    url = redis_server.fresh_url()
    with stock_worker(url, conf=STARTED, pool="threads", concurrency=2) as process:
        yield url, process


async def leave(client, call):
    """Start a call, and cancel it once its task runs. Give the task's id."""
    caller = asyncio.create_task(call)
    running = []

    async def runs():
        running[:] = [task["id"] for tasks in (await client.inspect().active()).values() for task in tasks]
        return running

    await eventually(runs)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    (task_id,) = running
    return task_id


CALLS = {
    "call": lambda client, **options: client.call(sleep(60), **options),
    "call_many": lambda client, **options: client.call_many([sleep(60), sleep(60)], **options),
}


@pytest.mark.parametrize("verb", CALLS)
async def test_the_task_of_one_who_leaves_ends_and_the_worker_goes_on(prefork, verb):
    url, process = prefork
    async with CeleryClient(url, timeout=50) as client:
        task_id = await leave(client, CALLS[verb](client, terminate_on_cancel=True))
        assert await client.call(add(1, 2)) == 3  # Its only process would have slept for a minute.
        assert await client.result(task_id).state() in ("REVOKED", "PENDING")  # Its result is deleted soon.
    assert f"Terminating {task_id}" in process.log.read_text()
    process.check()


async def test_without_that_the_task_goes_on(threads):
    url, _ = threads
    async with CeleryClient(url, timeout=50) as client:
        task_id = await leave(client, client.call(sleep(1)))
        assert await client.result(task_id).get() == 1


async def test_a_pool_of_threads_cannot_end_it_and_goes_on(threads):
    url, process = threads
    async with CeleryClient(url, timeout=50) as client:
        task_id = await leave(client, client.call(sleep(1), terminate_on_cancel=True))
        assert await client.result(task_id).get() == 1
        assert await client.call(add(1, 2)) == 3
    process.check()
