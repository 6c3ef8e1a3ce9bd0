"""Connections are dropped in silence: something on the way forgets them, and tells neither side."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from support.outages import outage
from support.waiting import eventually

from fibo_client import PublishUnknownError
from fibo_client.celery import CeleryClient, RemoteTask

ADD = RemoteTask[[int, int], int]("stock.add")
SOON = 3.0
"""The most seconds that a call takes after a drop: one for a connection that is not heard of, and the call itself."""


async def send_task(client):
    assert (await client.send_task(ADD, (1, 2))).id


async def send_many(client):
    assert len(await client.send_many([ADD(1, 2), ADD(3, 4)])) == 2


async def call(client):
    assert await client.call(ADD, (1, 2), timeout=SOON) == 3


async def call_many(client):
    assert await client.call_many([ADD(1, 2), ADD(3, 4)], timeout=SOON) == [3, 7]


async def get(client, handle):
    assert await client.result(handle.id).get(timeout=SOON) == 3


async def look(client, handle):
    assert await client.result(handle.id).get(timeout=0) == 3


async def queue_depth(client):
    assert await client.queue_depth("nobody takes from it") == 0


async def ping(client):
    assert await client.ping(timeout=SOON)


USES = {each.__name__: each for each in (send_task, send_many, call, call_many, get, look, queue_depth, ping)}


async def warm(client):
    """Use every connection that a client makes. Gives what is then done with it, by `used`."""
    await eventually(client.ping)  # A worker that has just begun may not hear it yet.
    handle = await client.send_task(ADD, (1, 2))
    assert await handle.get(timeout=10) == 3
    assert await client.call(ADD, (1, 2)) == 3
    return handle


async def used(use, client, handle):
    await (use(client, handle) if use in (get, look) else use(client))


@outage(
    "Idle connections are dropped in silence",
    sees="the answer",
    within="a second more",
    submitted="yes",
    retry="not needed",
)
async def test_a_client_that_was_idle_for_twelve_seconds_goes_on_although_its_connections_were_dropped(
    witness, proxy, stock
):
    proxy.idle = 5.0
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(CeleryClient(proxy.url(stock.url))) for _ in USES]
        handles = await asyncio.gather(*map(warm, clients))
        made = proxy.accepted
        await asyncio.sleep(12)  # The idleness itself: longer than the proxy and the client put up with.
        uses = zip(USES.values(), clients, handles, strict=True)
        await asyncio.gather(*(witness.see(used(*each), deadline=SOON) for each in uses))
        assert proxy.accepted >= made + len(USES), "not all were dropped"


@pytest.fixture
def proven_for(monkeypatch):
    """How long a connection is taken to be alive after the last word: a moment here, not ten seconds."""
    seconds = 0.2
    monkeypatch.setattr("fibo_client.celery.redis.link.FRESH_FOR", seconds)
    return seconds


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_every_call_finds_out_that_its_connection_was_dropped_while_idle(proxy, stock, proven_for, use):
    async with CeleryClient(proxy.url(stock.url)) as client, asyncio.timeout(40):
        handle = await warm(client)
        await asyncio.sleep(2 * proven_for)  # The idleness itself.
        proxy.forget()
        async with asyncio.timeout(SOON):
            await used(use, client, handle)


async def test_a_connection_that_was_idle_and_is_well_is_kept(proxy, stock, proven_for):
    async with CeleryClient(proxy.url(stock.url)) as client:
        handle = await warm(client)
        await asyncio.gather(*(used(use, client, handle) for use in USES.values()))
        made = proxy.accepted
        for use in USES.values():
            await asyncio.sleep(2 * proven_for)  # The idleness itself.
            await used(use, client, handle)
        assert proxy.accepted == made
        assert client.stats().reconnects == 0


@outage(
    "Idle connections are dropped in silence, and no new one can be made",
    sees="`PublishError`",
    within="a second",
    submitted="no",
    retry="safe",
)
async def test_what_finds_no_connection_that_is_alive_was_certainly_not_sent(witness, proxy, stock, proven_for):
    async with CeleryClient(proxy.url(stock.url)) as client:
        await warm(client)
        await asyncio.sleep(2 * proven_for)  # The idleness itself.
        proxy.refusing = True
        proxy.forget()
        await witness.see(client.send_task(ADD, (1, 2)), deadline=SOON)
        proxy.refusing = False
        await send_task(client)


CALLS = 20
TASK_TAKES = 0.1


@outage(
    "Connections are dropped in silence while calls wait for answers",
    sees="the answer",
    within="`io_timeout` and a few seconds",
    submitted="yes",
    retry="not needed",
)
async def test_calls_in_flight_are_answered_although_all_connections_were_dropped(witness, proxy, stock):
    async with (
        CeleryClient(proxy.url(stock.url)) as pushed,
        CeleryClient(proxy.url(stock.url), push=False) as polled,
    ):
        await asyncio.gather(warm(pushed), warm(polled))
        calls = [
            asyncio.create_task(witness.see(client.call("stock.sleep", (TASK_TAKES,), timeout=20), deadline=10))
            for _ in range(CALLS)
            for client in (pushed, polled)
        ]
        await eventually(lambda: all(each.stats().published == CALLS + 2 for each in (pushed, polled)))
        assert pushed.stats().in_flight > 0
        proxy.forget()
        assert await asyncio.gather(*calls) == [TASK_TAKES] * len(calls)


@outage(
    "Connections are dropped in silence, and a task is sent at once",
    sees="the answer, or `PublishUnknownError` by `send_task`",
    within="`timeout`; by `send_task`, `io_timeout`",
    submitted="depends on the error",
    retry="depends on the error",
)
async def test_what_is_written_after_a_drop_may_be_unknown_and_is_sent_again_where_it_may_be(witness, proxy, stock):
    async with CeleryClient(proxy.url(stock.url)) as client, CeleryClient(proxy.url(stock.url)) as other:
        await asyncio.gather(warm(client), warm(other))
        proxy.forget()
        once, *again = await asyncio.gather(
            witness.see(client.send_task(ADD, (1, 2)), deadline=5),
            *(witness.see(other.call(ADD, (n, 1), timeout=20, retry=True), deadline=10) for n in range(100)),
        )
        assert again == list(range(1, 101))
        if not isinstance(once, PublishUnknownError):
            assert await once.get(timeout=10) == 3
        for each in (client, other):  # By now both know.
            await asyncio.wait_for(send_task(each), SOON)
            await asyncio.wait_for(call(each), SOON)
