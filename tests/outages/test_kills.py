"""Connections are cut while they are used."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.killer import PREY, Killer, prey
from support.outages import outage
from support.waiting import eventually, until

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
    submitted="yes, perhaps twice under one id",
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


LARGE = 5_000_000


async def subscribed(direct, task_ids) -> None:
    """Wait until results are subscribed to."""
    channels = {f"celery-task-meta-{task_id}".encode() for task_id in task_ids}
    await eventually(lambda: asyncio.to_thread(lambda: channels <= set(direct.pubsub_channels())))


@outage(
    "Redis drops the subscription because the event loop is blocked while tasks are sent",
    sees="the answer",
    within="`timeout`",
    submitted="yes",
    retry="not needed",
)
async def test_a_subscription_that_redis_drops_costs_no_message_of_others(witness, stock, direct):
    before = direct.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    direct.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
    try:
        with prey(direct, stock.url) as url:
            for steps in range(1, 6):
                async with CeleryClient(url, io_timeout=1.0) as celery:
                    await held_up_while_much_is_pushed(celery, direct, witness, steps)
    finally:
        direct.config_set("client-output-buffer-limit", before)


async def held_up_while_much_is_pushed(celery, direct, witness, steps) -> None:
    over = False

    def begun(task, *args, **options):
        return asyncio.create_task(witness.see(celery.call(task, args, timeout=30, **options), deadline=30))

    async def send_again_and_again():
        while not over:
            handle = await witness.see(celery.send_task("stock.add", (1, 2)), deadline=5)
            assert await witness.see(handle.get(timeout=20), deadline=20) == 3

    ids = [f"large {steps} {n}" for n in range(6)]
    async with asyncio.TaskGroup() as senders:
        busy = [begun("stock.sleep", 0.5) for _ in range(2)]  # Until all below is subscribed to.
        large = [begun("stock.big", LARGE, task_id=task_id) for task_id in ids]
        for _ in range(20):
            senders.create_task(send_again_and_again())
        await subscribed(direct, ids)
        old = subscribers(direct)
        assert old
        small = [begun("stock.add", n, 1) for n in range(50)]
        for _ in range(steps):
            await asyncio.sleep(0)  # They begin, and get as far as that.
        until(lambda: not old & subscribers(direct))  # It blocks: the event loop is held up,
        time.sleep(1.2)  # noqa: ASYNC251 # and for longer than a command may take.
        small += [begun("stock.add", n, 1) for n in range(50, 100)]
        assert await asyncio.gather(*small) == list(range(1, 101))
        assert [len(each) for each in await asyncio.gather(*large)] == [LARGE] * len(large)
        await asyncio.gather(*busy)
        over = True
