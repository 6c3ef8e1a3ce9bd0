"""How many connections a client has, and that they miss nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.killer import PREY, prey
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RemoteTask

ADD = RemoteTask[[int, int], int]("stock.add")
MOST_CONNECTIONS = 3


@pytest.fixture
def direct(redis_server):
    with redis_server.client() as direct:
        yield direct


async def call(client, n):
    assert await client.call(ADD, (n, 1), timeout=20) == n + 1


async def call_many(client, n):
    assert await client.call_many([ADD(n, each) for each in range(20)], timeout=20) == [n + each for each in range(20)]


async def send_and_get(client, n):
    handle = await client.send_task(ADD, (n, 1))
    assert await handle.get(timeout=20) == n + 1
    await handle.forget()


async def gather(client, n):
    handles = await client.send_many([ADD(n, each) for each in range(20)])
    assert await client.gather(handles, timeout=20) == [n + each for each in range(20)]
    assert await client.ready(handles) == [True] * 20


async def ask(client, n):
    assert await client.ping(timeout=5)
    assert await client.inspect(timeout=5).active_queues()
    assert await client.queue_depth("nobody takes from it") == 0
    await client.revoke("nothing-of-anybody")


USES = [call, call_many, send_and_get, gather, ask]


@pytest.mark.parametrize("push", [True, False], ids=["push", "no push"])
async def test_a_client_has_three_connections_at_most_whatever_runs_at_once(stock, direct, push):
    seen = []

    async def watch():
        while True:
            clients = await asyncio.to_thread(direct.client_list)
            seen.append(sum(each["user"] == PREY for each in clients))
            await asyncio.sleep(0.005)

    with prey(direct, stock.url) as url:
        async with CeleryClient(url, push=push) as client:
            await eventually(client.ping)  # A worker that has just begun may not hear it yet.
            watching = asyncio.create_task(watch())
            try:
                until, n = time.monotonic() + 2, 0
                while time.monotonic() < until:
                    await asyncio.gather(*(use(client, n + each) for use in USES for each in range(20)))
                    n += 20
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            assert client.stats().reconnects == 0
    assert len(seen) > 10
    assert 1 <= max(seen) <= MOST_CONNECTIONS


async def test_an_event_loop_that_was_held_up_for_longer_than_a_command_may_take_has_missed_no_answer(stock):
    async with CeleryClient(stock.url, io_timeout=0.5) as client:
        await call(client, 1)
        for steps in range(8):
            sending = [asyncio.create_task(send_and_get(client, n)) for n in range(10)]
            sending += [asyncio.create_task(call(client, n)) for n in range(10)]
            for _ in range(steps):
                await asyncio.sleep(0)  # A step further.
            time.sleep(0.8)  # noqa: ASYNC251 # That the loop is held up is what is tested: all is answered meanwhile.
            await asyncio.gather(*sending)
        assert client.stats().reconnects == 0
