"""Crowds of calls that end at once: the event loop has its turn in between."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker

from fibo_client.celery import CeleryClient, budget
from fibo_client.errors import ClientStateError, PublishError, ResultTimeoutError, TransportError

CROWD = 1000
AT_ONCE = 2 * budget.EACH + 64
"""More may not end in one turn of the event loop: two loops' worth, and deadlines pass in portions of 64."""


class Unreachable(MemoryBroker):
    """A broker that is never reached."""

    ready = False

    async def prepare(self) -> None:
        await asyncio.sleep(0.1)
        raise TransportError("there is no server")


class Servers:
    """A broker and a result backend in memory."""

    def __init__(self, broker=None) -> None:
        self.broker, self.backend = broker or MemoryBroker(), MemoryBackend()

    def connect(self, config):
        return self.broker, self.backend


@pytest.fixture(autouse=True)
def no_time(monkeypatch):
    """Let each look at the clock say that the time is up, however quick the machine is."""
    monkeypatch.setattr(budget, "SECONDS", -1.0)


async def most_at_once(calls):
    """Wait until all calls have ended; tell how many ended in one turn of the event loop at most."""
    loop = asyncio.get_running_loop()
    turns = [0]

    def next_turn():
        if sum(turns) < len(calls):
            turns.append(0)
            loop.call_soon(next_turn)

    def count(_):
        turns[-1] += 1
        if len(turns) == 1:
            next_turn()

    for call in calls:
        call.add_done_callback(count)
    await asyncio.wait(calls)
    return max(turns)


def start(client, **options):
    return [asyncio.create_task(client.call("proj.add", (n,), **options)) for n in range(CROWD)]


@virtual
async def test_a_crowd_whose_messages_cannot_be_sent_is_told_in_turns():
    async with CeleryClient(transport=Servers(Unreachable())) as client:
        calls = start(client, timeout=5)
        assert await most_at_once(calls) <= AT_ONCE
        assert {type(call.exception()) for call in calls} == {PublishError}


@virtual
async def test_a_crowd_whose_time_is_up_is_told_in_turns():
    async with CeleryClient(transport=Servers()) as client:
        calls = start(client, timeout=5)
        assert await most_at_once(calls) <= AT_ONCE
        assert {type(call.exception()) for call in calls} == {ResultTimeoutError}


@virtual
async def test_a_crowd_that_waits_is_told_in_turns_that_the_client_is_closed():
    client = await CeleryClient(transport=Servers()).open()
    calls = start(client, timeout=60)
    await asyncio.sleep(5)
    closing = asyncio.create_task(client.aclose())
    assert await most_at_once(calls) <= AT_ONCE
    await closing
    assert {type(call.exception()) for call in calls} == {ClientStateError}


@virtual
async def test_an_answered_call_does_not_stay_in_memory_although_sending_it_failed_once():
    servers = Servers()
    servers.broker.outcomes += [0.0, PublishError("refused for now", [])]
    async with CeleryClient(transport=servers) as client:
        await client.send_task("proj.add")
        calling = asyncio.create_task(client.call("proj.add", (1,), timeout=3600, retry=True))
        await asyncio.sleep(1)
        job = weakref.ref(*client._session._owned)
        assert len(servers.broker.commands) == 3
        servers.backend.put(servers.broker.commands[-1][0].id, result=1)
        assert await calling == 1
        del calling
        await asyncio.sleep(10)
        gc.collect()
        assert job() is None
