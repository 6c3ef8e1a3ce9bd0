"""Connections are cut while they are used."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from support.hand import eventually
from support.outages import outage

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_worker.fibonacci import fibonacci


class Killer:
    """Has Redis itself kill every connection of one user, again and again."""

    def __init__(self, direct, user: str) -> None:
        self._direct = direct
        self._user = user
        self.killed = 0

    @contextlib.asynccontextmanager
    async def every(self, seconds: float):
        """Do it so often, until the block ends."""
        task = asyncio.create_task(self._kill_forever(seconds))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _kill_forever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self.killed += await asyncio.to_thread(self._direct.execute_command, "CLIENT", "KILL", "USER", self._user)


def subscribers(direct) -> set[str]:
    """The ids of the connections of the user on which something is subscribed to."""
    return {each["id"] for each in direct.client_list(_type="pubsub") if each["user"] == "prey"}


@pytest.fixture
def as_user(redis_server):
    """The URL of a database for a user of the client's own, who is the only one to be killed."""
    with redis_server.client() as direct:
        direct.execute_command("ACL", "SETUSER", "prey", "on", "nopass", "~*", "&*", "+@all")

        def url(url: str) -> str:
            return url.replace("redis://", "redis://prey:any@")

        yield direct, url
        direct.execute_command("ACL", "DELUSER", "prey")


@outage(
    "The client's connections are killed every 200 ms",
    sees="the answer",
    within="`timeout`",
    submitted="yes; perhaps twice, under one id",
    retry="not needed",
)
async def test_numbers_come_although_the_connections_are_killed_all_the_time(witness, worker, as_user):
    direct, url = as_user
    expected = [fibonacci(n) for n in range(5000)]
    async with FiboClient(url(worker.url)) as client, Killer(direct, "prey").every(0.2) as killer:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert await witness.see(client.fibonacci_many(range(5000), timeout=20), deadline=20) == expected
        assert killer.killed > 10
        assert client.celery.engine._watcher.pending == 0
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
async def test_a_subscription_that_redis_drops_is_made_up_for_by_polling(witness, redis_server, stock, as_user):
    direct, url = as_user
    before = direct.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    direct.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 60")
    try:
        async with CeleryClient(url(stock.url)) as celery:
            handle = await celery.send_task("stock.big", (20_000_000,))
            waiting = asyncio.create_task(witness.see(handle.get(timeout=20), deadline=20))
            await eventually(lambda: asyncio.to_thread(subscribers, direct))
            (subscriber,) = subscribers(direct)
            assert len(await waiting) == 20_000_000
            assert subscriber not in subscribers(direct)
    finally:
        direct.config_set("client-output-buffer-limit", before)
