"""Questions to the workers while Redis, or a worker, fails: they end in time, and leave nothing in Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest
from support.hand import NAME
from support.outages import OVERRUN
from support.proxy import Proxy
from support.servers import RedisServer, stock_worker
from support.silent import silent_worker
from support.waiting import eventually

from fibo_client import FiboError
from fibo_client.celery import CeleryClient
from fibo_client.errors import TransportError

BINDINGS = "_kombu.binding.reply.celery.pidbox"
LATE = 0.5
"""The most seconds that a question may take beyond its own timeout, by the contract."""

IO_TIMEOUT = 0.5
"""Here for a single command, so that what cannot be done during a fault is given up while it lasts."""

QUESTIONS = (
    lambda client, seconds: client.ping(timeout=seconds),
    lambda client, seconds: client.inspect(timeout=seconds).active(),
)


@pytest.fixture
def server():
    """A Redis for this test alone, which it may stop."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def proxy(server):
    """A proxy before it."""
    async with Proxy(server.port).running() as proxy:
        yield proxy


@pytest.fixture
def direct(server):
    """A connection to it on which nothing fails."""
    with server.client(client_name=NAME, decode_responses=True) as direct:
        yield direct


# The faults. Each lasts until its block ends.


@asynccontextmanager
async def dies(server, proxy, direct):
    for each in direct.client_list():
        if each["name"] != NAME:
            direct.client_kill_filter(_id=each["id"])
    yield


@asynccontextmanager
async def is_cut(server, proxy, direct):
    proxy.cut()
    yield


@asynccontextmanager
async def is_refused(server, proxy, direct):
    proxy.refusing = True
    proxy.cut()
    yield
    proxy.refusing = False


@asynccontextmanager
async def stalls(server, proxy, direct):
    proxy.stalled = True
    yield
    proxy.stalled = False


@asynccontextmanager
async def stalls_and_is_cut(server, proxy, direct):
    proxy.stalled = True
    yield
    proxy.cut()
    proxy.stalled = False


@asynccontextmanager
async def is_dropped_in_silence(server, proxy, direct):
    proxy.forget()
    yield


@asynccontextmanager
async def stops(server, proxy, direct):
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


FAULTS = {
    each.__name__: each for each in (dies, is_cut, is_refused, stalls, stalls_and_is_cut, is_dropped_in_silence, stops)
}


def left(direct) -> dict[str, object]:
    """What is left of questions: places for answers, and lists of answers that do not expire."""
    lists = [key for key in direct.scan_iter("*.reply.celery.pidbox") if key != BINDINGS and direct.ttl(key) == -1]
    return {key: direct.type(key) for key in lists} | dict.fromkeys(direct.smembers(BINDINGS), "a place")


async def nothing_is_left(direct) -> None:
    await eventually(
        lambda: asyncio.to_thread(lambda: not left(direct)), lambda: f"left in Redis: {left(direct)}", timeout=10
    )


def heard(direct) -> int:
    """How many questions Redis has passed on so far."""
    return direct.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"]


async def asked(direct, client, seconds) -> list[asyncio.Task[object]]:
    """Ask all questions, and wait until the workers are asked."""
    before = heard(direct)
    asking = [asyncio.create_task(ask(client, seconds)) for ask in QUESTIONS]
    await eventually(
        lambda: asyncio.to_thread(lambda: heard(direct) >= before + len(asking)), "nothing was asked", timeout=10
    )
    return asking


async def end(asking, seconds) -> None:
    """Wait for the end of a question, in time: no answer, or an error of this client."""
    began = time.monotonic()
    (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    assert time.monotonic() - began < seconds + LATE + OVERRUN
    assert outcome in ([], {}) or isinstance(outcome, FiboError), outcome


async def lasts() -> None:
    """Let a fault go on, until all commands that were given meanwhile have failed."""
    await asyncio.sleep(3 * IO_TIMEOUT)


async def usable(client) -> None:
    """Wait until the client has found out that the fault is over, and asks without one."""

    async def asks():
        try:
            return await client.ping(timeout=0.2) == []
        except TransportError:
            return False

    await eventually(asks, timeout=10)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_question_whose_connection_fails_in_the_middle_leaves_nothing(server, proxy, direct, fault):
    async with silent_worker(server.url, NAME), CeleryClient(proxy.url(server.url), io_timeout=IO_TIMEOUT) as client:
        asking = await asked(direct, client, 1.0)
        async with fault(server, proxy, direct):
            await asyncio.gather(*(end(each, 1.0) for each in asking))
            await lasts()
        await nothing_is_left(direct)
        await usable(client)
        await nothing_is_left(direct)
    assert all(direct.ttl(key) > 0 for key in direct.scan_iter())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_question_that_is_asked_while_the_connection_fails_leaves_nothing(server, proxy, direct, fault):
    async with silent_worker(server.url, NAME), CeleryClient(proxy.url(server.url), io_timeout=IO_TIMEOUT) as client:
        assert await client.ping(timeout=0.1) == []  # The connections are made.
        async with fault(server, proxy, direct):
            await asyncio.gather(*(end(ask(client, 1.0), 1.0) for ask in QUESTIONS))
            await lasts()
        await usable(client)  # What was on the way has arrived, if it ever does, before this has.
        await nothing_is_left(direct)
    assert all(direct.ttl(key) > 0 for key in direct.scan_iter())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_question_that_is_given_up_while_the_connection_fails_leaves_nothing(server, proxy, direct, fault):
    async with silent_worker(server.url, NAME), CeleryClient(proxy.url(server.url), io_timeout=IO_TIMEOUT) as client:
        asking = await asked(direct, client, 30.0)
        async with fault(server, proxy, direct):
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await lasts()
        await nothing_is_left(direct)
    assert all(direct.ttl(key) > 0 for key in direct.scan_iter())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_worker_that_answers_after_its_asker_has_failed_leaves_nothing_that_stays(server, proxy, direct, fault):
    with stock_worker(server.url, pool="solo") as worker:
        async with CeleryClient(proxy.url(server.url), io_timeout=IO_TIMEOUT) as client:
            await eventually(client.ping)
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                asking = await asked(direct, client, 30.0)  # A worker answers no question whose time is up.
                async with fault(server, proxy, direct):
                    await asyncio.wait(asking, timeout=2 * IO_TIMEOUT)
                    for each in asking:
                        each.cancel()
                    await asyncio.gather(*asking, return_exceptions=True)
            finally:
                os.kill(worker.pid, signal.SIGCONT)

            async def answered():
                try:
                    return await client.ping()
                except TransportError:
                    return []

            await eventually(answered)  # It takes one question after the other.
            await nothing_is_left(direct)


@asynccontextmanager
async def nobody(url, name):
    yield


@pytest.mark.parametrize("workers", [nobody, silent_worker], ids=["no worker", "a silent worker"])
async def test_fifty_questions_at_once_end_by_their_own_timeout(server, direct, workers):
    async with workers(server.url, NAME), CeleryClient(server.url) as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(client.ping(timeout=1.0) for _ in range(50)))
        assert time.monotonic() - began < 1.0 + LATE
        assert answers == [[]] * 50
        await nothing_is_left(direct)


async def test_fifty_questions_to_a_silent_worker_do_not_hold_up_calls(server, direct):
    with stock_worker(server.url, pool="solo") as worker:
        async with CeleryClient(server.url) as client:
            await eventually(client.ping)
            before = heard(direct)
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                questions = [asyncio.create_task(client.ping(timeout=1.0)) for _ in range(50)]
                await eventually(lambda: heard(direct) > before, "nothing was asked")
                handle = await client.send_task("stock.add", (1, 2))
                assert not await handle.ready()
                assert not any(each.done() for each in questions), "it waited for them"
                assert await asyncio.gather(*questions) == [[]] * 50
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            assert await handle.get(timeout=10) == 3
            assert await eventually(client.ping)
            await nothing_is_left(direct)
