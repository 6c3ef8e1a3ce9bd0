"""Connections are cut while they are used."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.killer import PREY, Killer, prey
from support.outages import outage
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_worker.fibonacci import fibonacci


def subscribers(direct) -> set[str]:
    """The ids of the connections of the user on which something is subscribed to."""
    return {each["id"] for each in direct.client_list(_type="pubsub") if each["user"] == PREY}


@pytest.fixture
def direct(redis_server):
    """A connection to the session's Redis that nobody kills."""
    with redis_server.client() as direct:
        yield direct


@outage(
    "The client's connections are killed every 200 ms",
    sees="the answer",
    within="`timeout`",
    submitted="yes; perhaps twice, under one id",
    retry="not needed",
)
async def test_numbers_come_although_the_connections_are_killed_all_the_time(witness, worker, direct):
    expected = [fibonacci(n) for n in range(5000)]
    with prey(direct, worker.admin_url) as url:
        async with FiboClient(url) as client, Killer(direct).every(0.2) as killer:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                call = client.fibonacci_many(range(5000), timeout=20, chunk_size=10)
                assert await witness.see(call, deadline=20) == expected
            assert killer.killed > 10
            assert client.celery.stats().pending == 0
            await eventually(lambda: asyncio.to_thread(lambda: not direct.pubsub_channels("celery-task-meta-*")))


@outage(
    "The client's connections are cut every 200 ms, handles are awaited",
    sees="the answer",
    within="`timeout`",
    submitted="yes",
    retry="not needed",
)
async def test_handles_are_answered_although_the_connections_are_cut_all_the_time(witness, proxy, stock):
    async with CeleryClient(proxy.url(stock.url)) as celery:
        until = time.monotonic() + 2
        last_cut = time.monotonic()
        while time.monotonic() < until:
            handle = await celery.send_task("stock.sleep", (0.05,), retry=True)
            if time.monotonic() - last_cut > 0.2:
                proxy.cut()
                last_cut = time.monotonic()
            assert await witness.see(handle.get(timeout=10), deadline=10) == 0.05


@outage(
    "A connection is cut in the middle of a reply",
    sees="the answer",
    within="`timeout`",
    submitted="yes",
    retry="not needed",
)
async def test_half_a_reply_is_thrown_away_and_read_again(witness, proxy, stock):
    async with CeleryClient(proxy.url(stock.url), push=False) as celery:
        handle = await celery.send_task("stock.big", (100_000,))
        await eventually(handle.ready)
        for length in (1, 5, 50, 1000, 50_000):
            proxy.truncate = length
            again = celery.result(handle.id)  # This one has not read it yet.
            assert await witness.see(again.get(timeout=10), deadline=10) == "x" * 100_000
            assert proxy.truncate is None


@outage(
    "Redis drops the subscription because its output buffer is full",
    sees="the answer",
    within="`timeout`",
    submitted="yes",
    retry="not needed",
)
async def test_a_subscription_that_redis_drops_is_made_up_for_by_polling(witness, stock, direct):
    before = direct.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    direct.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 60")
    try:
        with prey(direct, stock.url) as url:
            async with CeleryClient(url) as celery:
                handle = await celery.send_task("stock.big", (20_000_000,))
                waiting = asyncio.create_task(witness.see(handle.get(timeout=20), deadline=20))
                await eventually(lambda: asyncio.to_thread(subscribers, direct))
                (subscriber,) = subscribers(direct)
                assert len(await waiting) == 20_000_000
                assert subscriber not in subscribers(direct)
    finally:
        direct.config_set("client-output-buffer-limit", before)
