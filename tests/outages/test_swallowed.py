"""Something on the way forgets a worker's connections in silence: it swallows all, and tells neither side."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.outages import outage
from support.serving import SERVES_AGAIN, ended, idle, runs, sooner_or_later, worker_of
from support.waiting import eventually

from fibo_client import ResultTimeoutError
from fibo_client.celery import CeleryClient

pytestmark = pytest.mark.timeout(150)  # Each starts a worker, and has bounds of its own for all that follows.


@outage(
    "A worker's connections are dropped in silence; new ones can be made",
    sees="the answer",
    within="some ten seconds with the default `FIBO_SOCKET_TIMEOUT`; at most 30 s",
    submitted="yes",
    retry="safe",
    lost="a task that Redis handed to a lost connection",
)
async def test_a_worker_whose_connections_were_swallowed_serves_again_and_says_so(witness, proxy, redis_server):
    url = redis_server.fresh_url()
    async with worker_of(proxy.url(url), concurrency=2) as worker, CeleryClient(url) as client:
        assert await client.call("fibo.fibonacci", (10,), timeout=20) == "37"
        await eventually(client.ping)

        assert proxy.forget() > 3

        began = time.monotonic()
        await sooner_or_later(worker, lambda: client.call("fibo.fibonacci", (10,), timeout=1))
        await witness.see(client.call("fibo.fibonacci", (11,), timeout=20), deadline=20)
        await eventually(client.ping, timeout=SERVES_AGAIN - (time.monotonic() - began))
        assert "a connection to Redis was lost in silence" in worker.log.read_text()
        with redis_server.client(url) as direct:
            await idle(direct)

        proxy.forget()
        await ended(worker)


@outage(
    "A worker's connections are dropped in silence while it computes",
    sees="the answer",
    within="the task's own time, and `FIBO_SOCKET_TIMEOUT` (5 s)",
    submitted="yes",
    retry="not needed",
)
async def test_a_result_is_stored_although_the_connection_for_it_was_swallowed(witness, proxy, redis_server, tmp_path):
    url = redis_server.fresh_url()
    async with worker_of(proxy.url(url)), CeleryClient(url) as client:
        await client.call("poison.count", (str(tmp_path / "warm"), 0), timeout=20)

        call = asyncio.create_task(
            witness.see(client.call("poison.count", (str(tmp_path / "runs"), 1), timeout=40), deadline=40)
        )
        await eventually(lambda: runs(tmp_path / "runs"))
        proxy.forget()

        assert await call == "done"
        assert runs(tmp_path / "runs") == 1


@outage(
    "Only a worker's subscriptions are dropped in silence",
    sees="the answer",
    within="the task's own time; remote control is back within 30 s",
    submitted="yes",
    retry="not needed",
)
async def test_remote_control_answers_again_after_the_subscriptions_were_swallowed(witness, proxy, redis_server):
    url = redis_server.fresh_url()
    async with worker_of(proxy.url(url)) as worker, CeleryClient(url) as client:
        await eventually(client.ping)

        assert proxy.forget(subscribers=True) == 2
        assert not await client.ping(timeout=0.5)

        await witness.see(client.call("fibo.fibonacci", (10,), timeout=20), deadline=20)
        await eventually(client.ping, timeout=SERVES_AGAIN)
        await ended(worker)


@outage(
    "A worker is cut off from Redis for a while, then connected again",
    sees="the answer",
    within="30 s after that",
    submitted="yes",
    retry="safe",
    lost="a task that Redis handed to a lost connection",
)
async def test_a_worker_that_is_cut_off_for_a_while_serves_again(witness, proxy, redis_server):
    url = redis_server.fresh_url()
    async with worker_of(proxy.url(url)) as worker, CeleryClient(url) as client:
        assert await client.call("fibo.fibonacci", (10,), timeout=20) == "37"
        proxy.stalled = True
        proxy.forget()
        with pytest.raises(ResultTimeoutError):
            await client.call("fibo.fibonacci", (10,), timeout=15)
        proxy.stalled = False

        await sooner_or_later(worker, lambda: client.call("fibo.fibonacci", (10,), timeout=1))
        await witness.see(client.call("fibo.fibonacci", (11,), timeout=20), deadline=20)
        with redis_server.client(url) as direct:
            await idle(direct)  # A task whose result cannot be stored goes on until it may not try any more.

        proxy.stalled = True
        await ended(worker)
