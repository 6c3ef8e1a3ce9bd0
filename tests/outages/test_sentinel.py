"""Sentinels make the replica the master, or die themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.outages import outage
from support.sentinels import MASTER, SentinelSet
from support.waiting import eventually

from fibo_client import FiboClient, PublishError, RedisOptions
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.servers import RedisServer


@pytest.fixture
def guarded(tmp_path) -> Iterator[SentinelSet]:
    """A Sentinel set for this test alone, which it may spoil."""
    with SentinelSet.running(tmp_path) as guarded:
        yield guarded


async def that(condition: Callable[[], object]) -> None:
    """Wait until something is so that has to be asked of a client that blocks."""
    await eventually(lambda: asyncio.to_thread(condition), timeout=20)


def worker_of(guarded: SentinelSet) -> WorkerProcess:
    return WorkerProcess(guarded.url, env={"FIBO_MASTER_NAME": MASTER}, stop_timeout=0)


def is_master(server: RedisServer) -> bool:
    with server.client() as direct:
        return direct.info("replication")["role"] == "master"


@outage(
    "The master is killed, and Sentinel fails over",
    sees="the answer or `ResultTimeoutError`",
    within="once Sentinel is done and the worker is back, or `timeout`",
    submitted="yes, perhaps twice under one id",
    retry="safe",
    lost="what the replica had not yet got",
)
async def test_a_client_and_a_worker_go_on_with_the_new_master(witness, guarded):
    with worker_of(guarded):
        async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
            assert await client.fibonacci(10, timeout=20) == 55
            guarded.master.stop()
            await witness.see(client.fibonacci(11, timeout=20), deadline=20)
            assert is_master(guarded.replica)
            # The same client, and the same worker.
            assert await client.fibonacci(12, timeout=30) == 144


@outage(
    "Sentinel fails over on command; connections to the old master stay open and get READONLY",
    sees="the answer or `ResultTimeoutError`",
    within="`timeout`",
    submitted="yes, perhaps twice under one id",
    retry="safe",
    lost="what the old master took in the ten seconds until it was demoted",
)
async def test_a_client_leaves_a_master_that_has_become_a_replica(witness, guarded):
    async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
        with worker_of(guarded), guarded.master.client() as old:
            assert await client.fibonacci(10, timeout=20) == 55
            await asyncio.to_thread(guarded.sentinels[0].tell, "SENTINEL", "FAILOVER", MASTER)
            await that(lambda: all(each.master() == guarded.replica.port for each in guarded.sentinels))
            # Sentinel does this some ten seconds later, and cuts all connections with it. Here they stay.
            await asyncio.to_thread(old.replicaof, "127.0.0.1", str(guarded.replica.port))
            call = asyncio.create_task(witness.see(client.fibonacci(11, timeout=20), deadline=20))
            await that(lambda: "errorstat_READONLY" in old.info("errorstats"))
            # The same client, and the same worker, whose BRPOP the old master has answered with UNBLOCKED.
            await call
            assert await client.fibonacci(12, timeout=20) == 144


@outage(
    "One Sentinel of three is dead",
    sees="the answer",
    within="at once",
    submitted="yes",
    retry="not needed",
)
async def test_one_dead_sentinel_is_not_noticed(witness, guarded):
    with worker_of(guarded):
        async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
            assert await client.fibonacci(10, timeout=20) == 55
        guarded.sentinels[0].kill()
        async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
            assert await witness.see(client.fibonacci(10, timeout=20), deadline=20) == 55


@outage(
    "All Sentinels are dead, and Redis is well",
    sees="the answer",
    within="at once: open connections go on",
    submitted="yes",
    retry="not needed",
)
async def test_a_client_goes_on_without_sentinels_until_it_has_to_ask_them(witness, guarded):
    with worker_of(guarded):
        async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
            assert await client.fibonacci(10, timeout=20) == 55
            for sentinel in guarded.sentinels:
                sentinel.kill()
            assert await witness.see(client.fibonacci(11, timeout=20), deadline=20) == 89


@outage(
    "All Sentinels are dead when the client first calls",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="safe",
)
async def test_a_new_client_without_sentinels_says_so(witness, guarded):
    for sentinel in guarded.sentinels:
        sentinel.kill()
    async with FiboClient(guarded.url, redis=RedisOptions(master_name=MASTER)) as client:
        error = await witness.see(client.fibonacci(10, timeout=5), deadline=5)
        assert isinstance(error, PublishError)
        assert "the Sentinels' addresses" in str(error)
