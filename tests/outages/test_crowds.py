"""Many callers at once, and Redis stops, is cut off, or takes no connections."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest
from support.outages import outage
from support.servers import RedisServer
from support.waiting import eventually

from fibo_client import PublishError, PublishUnknownError, ResultTimeoutError
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.errors import TransportError

ADD = RemoteTask[[int, int], int]("stock.add")
CROWD = 1000
MOST_UNKNOWN = 64
"""The most messages whose sending may have an unknown outcome at a time."""

MOST_ATTEMPTS = 10
"""The most attempts to connect that one client makes in a second."""


@pytest.fixture
async def client(proxy, stock):
    """A client behind the proxy, which has reached Redis."""
    async with CeleryClient(proxy.url(stock.url)) as client:
        assert await client.call(ADD, (1, 2)) == 3
        yield client


async def attempts(proxy, seconds=5) -> list[tuple[int, float]]:
    """Count the attempts to connect in each second. Gives how many there were, and how long that second took."""
    counts = []
    for _ in range(seconds):
        before, began = proxy.accepted, time.monotonic()
        await asyncio.sleep(1)  # A rate is what is measured.
        counts.append((proxy.accepted - before, time.monotonic() - began))
    return counts


def check_rate(counts) -> None:
    """Check that not too many attempts were made: in none of the seconds, and not in all of them together."""
    for count, took in [*counts, tuple(map(sum, zip(*counts, strict=True)))]:
        assert count <= MOST_ATTEMPTS * took + 1, counts  # One that falls on the border.


@outage(
    "Redis takes no connections for five seconds, and a thousand callers wait",
    sees="the answer",
    within="a pause after it takes connections again",
    submitted="yes, perhaps twice under one id",
    retry="not needed",
)
async def test_a_thousand_who_wait_knock_ten_times_a_second_at_most_and_all_are_answered(witness, proxy, client):
    handles = await client.send_many([ADD(n, 1) for n in range(CROWD // 2)])
    proxy.refusing = True
    proxy.cut()

    async def called(n):
        assert await client.call(ADD, (n, 1), timeout=40, retry=True) == n + 1

    async def got(n):
        assert await handles[n].get(timeout=40) == n + 1

    calls = [asyncio.create_task(witness.see(each(n), deadline=40)) for n in range(400) for each in (called, got)]
    counting = asyncio.create_task(attempts(proxy))
    for n in range(400, CROWD // 2):  # Others come later, all the time.
        calls += [asyncio.create_task(witness.see(each(n), deadline=40)) for each in (called, got)]
        await asyncio.sleep(0.04)
    counts = await counting
    proxy.refusing = False
    await asyncio.gather(*calls)
    assert len(calls) == CROWD
    check_rate(counts)


@outage(
    "Redis takes no connections, and many callers keep calling `send_task`",
    sees="`PublishError`; at that very moment, `PublishUnknownError`",
    within="at once",
    submitted="depends on the error",
    retry="depends on the error",
)
async def test_who_sends_once_again_and_again_knocks_ten_times_a_second_at_most(witness, proxy, client):
    proxy.refusing = True
    proxy.cut()

    async def again_and_again():
        while not counting.done():
            await witness.see(client.send_task(ADD, (1, 2)), deadline=1)
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(attempts(proxy, 3))
    await asyncio.gather(*(again_and_again() for _ in range(20)))
    proxy.refusing = False

    async def sent():
        try:
            return await client.send_task(ADD, (1, 2))
        except PublishError:
            return None

    handle = await eventually(sent, timeout=5)
    assert await handle.get(timeout=5) == 3
    check_rate(counting.result())


async def called_while_stopped(server, client, witness):
    """Make a thousand calls of a Redis that stops at that moment, and goes on after three seconds."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        calls = [
            asyncio.create_task(witness.see(client.call(ADD, (n, 1), timeout=30), deadline=30)) for n in range(CROWD)
        ]
        await asyncio.sleep(3)  # The stop itself.
    finally:
        os.kill(server.pid, signal.SIGCONT)
    return calls


@outage(
    "Redis stops for three seconds, with a thousand calls in flight",
    sees="the answer",
    within="the three seconds, and the tasks' own time",
    submitted="yes",
    retry="not needed",
)
async def test_a_thousand_calls_sit_out_a_stop_that_is_shorter_than_the_time_of_a_command(witness, redis_server, stock):
    async with CeleryClient(stock.url) as client:
        assert await client.call(ADD, (1, 2)) == 3
        calls = await called_while_stopped(redis_server, client, witness)
        assert await asyncio.gather(*calls) == list(range(1, CROWD + 1))


def unknown(ends):
    """Count the messages of which their callers do not know whether they were sent."""
    return sum(len(each.task_ids) for each in ends if isinstance(each, PublishUnknownError))


@outage(
    "Redis stops for longer than `io_timeout`, with a thousand calls in flight",
    sees="the answer, `PublishError`, or `PublishUnknownError` for at most 64",
    within="`timeout`",
    submitted="depends on the error",
    retry="depends on the error",
    lost="nothing; the 64 may run",
)
async def test_of_a_thousand_calls_64_at_most_end_unknown_when_redis_stops_for_long(witness, redis_server, stock):
    async with CeleryClient(stock.url, io_timeout=1.0) as client:
        assert await client.call(ADD, (1, 2)) == 3
        calls = await called_while_stopped(redis_server, client, witness)
        ends = await asyncio.gather(*calls)
    assert unknown(ends) <= MOST_UNKNOWN


@outage(
    "Redis stops for three seconds and then cuts connections, with a thousand calls in flight",
    sees="the answer, `PublishError`, or `PublishUnknownError` for at most 64",
    within="`timeout`",
    submitted="depends on the error",
    retry="depends on the error",
)
async def test_of_a_thousand_calls_64_at_most_end_unknown_when_the_connection_is_cut(witness, proxy, client):
    proxy.stalled = True
    calls = [asyncio.create_task(witness.see(client.call(ADD, (n, 1), timeout=30), deadline=30)) for n in range(CROWD)]
    await asyncio.sleep(3)  # The stall itself.
    proxy.cut()
    proxy.stalled = False
    assert unknown(await asyncio.gather(*calls)) <= MOST_UNKNOWN
    assert await client.call(ADD, (1, 2), timeout=10) == 3


def cut(proxy):
    proxy.cut()


def stall_and_cut(proxy):
    proxy.stalled = True
    asyncio.get_running_loop().call_later(1, lambda: (proxy.cut(), setattr(proxy, "stalled", False)))


def refuse(proxy):
    proxy.refusing = True
    proxy.cut()


def forget(proxy):
    proxy.forget()


FAULTS = {each.__name__: each for each in (cut, stall_and_cut, refuse, forget)}


@pytest.mark.parametrize("begun", [False, True], ids=["before they begin", "once they have begun"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_what_each_of_a_thousand_senders_is_told_is_true(proxy, client, redis_server, stock, fault, begun):
    """Whoever is told that it was sent, or that it was not, can rely on it; and few are told that nobody knows."""
    queue = f"of nobody {time.monotonic_ns()}"

    def send_all():
        return [
            asyncio.create_task(client.send_task(ADD, (n, 1), task_id=f"{queue} {n}", queue=queue))
            for n in range(CROWD)
        ]

    if begun:
        sending = send_all()
        await asyncio.sleep(0)  # They begin.
        fault(proxy)
    else:
        fault(proxy)
        sending = send_all()
    ends = await asyncio.gather(*sending, return_exceptions=True)
    others = [each for each in ends if isinstance(each, Exception)]
    assert {type(each) for each in others} <= {PublishError, PublishUnknownError}, others
    assert unknown(ends) <= MOST_UNKNOWN
    proxy.refusing = False

    async def usable():
        try:
            return await client.queue_depth(queue) >= 0
        except TransportError:
            return False

    await eventually(usable, timeout=10)
    with redis_server.client(stock.url) as direct:
        there = [json.loads(each)["headers"]["id"] for each in direct.lrange(queue, 0, -1)]
    assert len(there) == len(set(there)), "sent twice"
    sent = {each.id for each in ends if not isinstance(each, Exception)}
    unsent = {task_id for each in ends if isinstance(each, PublishError) for task_id in each.task_ids}
    assert sent <= set(there)
    assert unsent.isdisjoint(there)


def replica(direct):
    direct.replicaof("127.0.0.1", "1")
    return lambda: direct.replicaof("NO", "ONE")


def maxclients(direct):
    before = direct.config_get("maxclients")["maxclients"]
    direct.config_set("maxclients", 1)
    direct.client_kill_filter(_type="normal", skipme=True)
    return lambda: direct.config_set("maxclients", before)


@pytest.mark.parametrize("fault", [replica, maxclients])
async def test_a_thousand_who_wait_for_a_redis_that_takes_connections_in_vain_make_ten_a_second_at_most(fault):
    def taken():
        stats = direct.info("stats")
        return stats["total_connections_received"] + stats["rejected_connections"]

    with RedisServer() as server, server.client(single_connection_client=True) as direct:
        async with CeleryClient(server.url) as client:
            await client.send_task(ADD, (1, 2))
            mend = fault(direct)
            calls = [asyncio.create_task(client.call(ADD, (n, 1), timeout=6, retry=True)) for n in range(CROWD)]
            counts = []
            for _ in range(4):
                before, began = taken(), time.monotonic()
                await asyncio.sleep(1)  # A rate is what is measured.
                counts.append((taken() - before, time.monotonic() - began))
            mend()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in ends} <= {ResultTimeoutError, PublishError}  # Nobody works there.
            await client.send_task(ADD, (1, 2))
    check_rate(counts)
