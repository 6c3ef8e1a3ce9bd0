"""Calls that no worker answers: nothing of them stays in the client, and nothing in the queue can still run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from support.unanswered import call_in_vain, still_to_run
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from support.servers import RedisServer


pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def deletes_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timed out is deleted once more half a minute after its deadline. A second does for what is shown here."""
    monkeypatch.setattr("fibo_client.celery.session.SETTLED_LATE", 1.0)


@pytest.mark.parametrize("coalesced", [True, False], ids=["fibonacci", "call"])
async def test_calls_without_a_worker_leave_nothing_that_grows_and_nothing_that_runs(
    redis_server: RedisServer, coalesced
):
    url = redis_server.fresh_url()
    came = await call_in_vain(url, "in-vain", 2_000, coalesced=coalesced, timeout=0.5)
    assert came.timed_out == 2_000
    assert set(came.left.values()) == {0}, came.left
    assert came.objects < 250  # Of a thousand calls: one that is kept for each would be as many.
    with redis_server.client(url) as client:
        assert client.llen("in-vain") > 0
        # Tasks expire two seconds after their deadline, and all deadlines have passed.
        assert still_to_run(client, "in-vain", time.time() + 2) == []


async def test_a_worker_that_comes_too_late_runs_none_of_them(redis_server: RedisServer):
    url = redis_server.fresh_url()
    for coalesced in (True, False):
        await call_in_vain(url, "late", 1_000, coalesced=coalesced, timeout=0.5)
    with redis_server.client(url) as client:

        async def all_expired() -> bool:
            return not still_to_run(client, "late", time.time())

        await eventually(all_expired)
        waiting = client.llen("late")
        assert waiting > 1_000
        with WorkerProcess(url, queues=["late"], stop_timeout=0):
            async with FiboClient(url, queue="late") as late:
                assert await late.fibonacci(10, timeout=40) == 55  # The queue is in order: all before it are done with.
                assert client.llen("late") == 0
                stored = [json.loads(client.get(key)) for key in client.keys("celery-task-meta-*")]
                revoked = [meta for meta in stored if meta["status"] == "REVOKED"]
                assert len(revoked) == waiting, stored
