"""Chains and chords at the edges: cancelled at any moment, without time, without room, without a result backend."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from support.proxy import Proxy
from support.waiting import eventually

from fibo_client import ConfigError, MessageError, PublishError, ResultTimeoutError, TooManyPendingError
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

add = RemoteTask[..., int]("stock.add")
total = RemoteTask[..., int]("stock.total")


@pytest.fixture
async def client(server, hand, monkeypatch) -> AsyncIterator[CeleryClient]:
    """A client beside the hand, that deletes once more after a moment."""
    monkeypatch.setattr(session, "SETTLED", 0.5)
    async with CeleryClient(server.url, timeout=30) as client:
        yield client


def a_chord():
    return chord([add(1, 1), chord([add(2, 2)], total())], total())


async def has_nothing(hand) -> bool:
    return not [key async for key in hand.redis.scan_iter("celery-task*")]


@pytest.mark.parametrize("verb", ["call", "send"])
async def test_cancelled_at_any_moment_it_leaves_nothing_that_nobody_can_use(client, hand, verb):
    await client.send(add(1, 1))  # There are connections.
    for turns in range(30):
        await hand.redis.delete("celery")
        call = asyncio.create_task(getattr(client, verb)(a_chord()))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        (end,) = await asyncio.gather(call, return_exceptions=True)
        sent = verb == "send" and (not isinstance(end, asyncio.CancelledError) or await hand.redis.llen("celery"))
        if sent:  # Its sizes are needed.
            await hand.redis.flushdb()
    assert client.stats().pending == 0
    await eventually(lambda: has_nothing(hand))


async def test_without_time_it_is_late_at_once_and_leaves_nothing(client, hand):
    for timeout in (0, 0.01):
        with pytest.raises(ResultTimeoutError):
            await client.call(a_chord(), timeout=timeout)
    await eventually(lambda: has_nothing(hand))


async def test_a_server_that_is_silent_holds_nobody_longer_than_the_timeout(server, hand):
    proxy = Proxy(server.port)
    async with proxy.running(), CeleryClient(proxy.url(server.url), timeout=30) as client:
        await client.send(add(1, 1))
        proxy.stalled = True
        for verb, error in (("call", ResultTimeoutError), ("send", PublishError)):
            began = time.monotonic()
            with pytest.raises(error):
                await getattr(client, verb)(a_chord(), timeout=0.3)
            assert time.monotonic() - began < 3
        proxy.stalled = False


async def test_more_than_there_is_room_for_is_refused_before_anything_is_stored(server, hand):
    async with CeleryClient(server.url, max_pending=3) as client:
        with pytest.raises(TooManyPendingError):
            await client.call(a_chord())
        assert await has_nothing(hand)
        assert not await hand.redis.llen("celery")


async def test_a_flow_can_be_sent_again_and_has_new_ids(client):
    flow = a_chord() | add.s(1)
    first, second = await client.send(flow), await client.send(flow)
    assert not {task.id for task in first.tasks} & {task.id for task in second.tasks}


@pytest.mark.parametrize(
    "make",
    [
        lambda one, two: chain(one, two),
        lambda one, two: group(one, two),
        lambda one, two: chord([one], two),
        lambda one, two: chord([add(1, 1) | one], total() | two),
    ],
)
async def test_two_steps_of_one_id_are_refused(client, hand, make):
    one, two = (add.s(1, 1).with_options(task_id="mine") for _ in range(2))
    for verb in (client.send, client.call):
        with pytest.raises(MessageError, match="same task_id, mine"):
            await verb(make(one, two))
    assert not await hand.redis.llen("celery")
    assert await has_nothing(hand)


@pytest.mark.parametrize("task_id", ["", "a\nb", "\ud800", 5])
@pytest.mark.parametrize("place", ["first", "later"])
async def test_an_id_that_cannot_be_one_is_refused_in_every_step(client, hand, task_id, place):
    bad = add.s(1, 1).with_options(task_id=task_id)
    with pytest.raises(MessageError):
        await client.send(bad | add.s(1) if place == "first" else add(1, 1) | bad)
    assert not await hand.redis.llen("celery")


@pytest.mark.parametrize("backend", ["disabled://", "db+postgresql://db/results"])
async def test_without_results_chains_are_sent_and_chords_are_refused(server, hand, backend):
    async with CeleryClient(server.url, backend) as client:
        result = await client.send(add(1, 1) | add.s(1))
        assert await hand.redis.llen("celery") == 1
        with pytest.raises(ConfigError):
            await result.get()
        for flow in (a_chord(), group(add(1, 1), a_chord())):
            with pytest.raises(ConfigError):
                await client.send(flow)
        assert await hand.redis.llen("celery") == 1


async def test_many_tasks_are_revoked_some_at_a_time(client, monkeypatch):
    result = await client.send(group(add(n, n) for n in range(250)))
    sizes = []

    async def heard(request):
        sizes.append(len(request.arguments["task_id"]))
        return 2

    monkeypatch.setattr(client._session.broker, "broadcast", heard)
    assert await result.revoke() == 2
    assert sizes == [100, 100, 50]
