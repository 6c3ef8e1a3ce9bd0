"""Keys of a worker have a wrong type: somebody wrote something else there."""

from __future__ import annotations

import asyncio

import pytest
from support.outages import outage
from support.servers import RedisServer
from support.serving import SERVES_AGAIN
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess


@pytest.fixture(scope="module")
def place():
    """A Redis and a worker, which serves through all of this."""
    with RedisServer() as server, WorkerProcess(server.url, stop_timeout=0) as worker, server.client() as direct:
        yield server, worker, direct


@outage(
    "A key of a worker, such as its queue, has a wrong type, and somebody deletes it",
    sees="the answer",
    within="some ten seconds after that",
    submitted="no, if it is the queue; else yes",
    retry="safe",
    lost="what the wrong key took the place of",
)
@pytest.mark.parametrize(
    "key", ["celery", "celery\x06\x163", "unacked", "unacked_index", "_kombu.binding.celery.pidbox"]
)
async def test_a_worker_waits_until_a_key_of_a_wrong_type_is_gone_and_names_it(witness, place, key):
    server, worker, direct = place
    so_far = len(worker.log.read_text())

    async def said() -> bool:
        return f"the key {key!r} is a string" in worker.log.read_text()[so_far:]

    async with CeleryClient(server.url) as client:
        await client.call("fibo.fibonacci", (10,), timeout=SERVES_AGAIN)
        direct.delete(key)
        direct.set(key, "of somebody else")
        if key == "_kombu.binding.celery.pidbox":  # It is written when the worker connects.
            direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        call = None if key == "celery" else asyncio.create_task(client.call("fibo.fibonacci", (10,), timeout=60))
        await eventually(said, lambda: worker.log.read_text()[so_far:], timeout=SERVES_AGAIN)
        worker.check()

        direct.delete(key)
        if call is None:
            call = asyncio.create_task(client.call("fibo.fibonacci", (10,), timeout=SERVES_AGAIN))
        assert await witness.see(call, deadline=60) == "37"


@outage(
    "The key of a result has a wrong type",
    sees="the answer",
    within="the task's own time",
    submitted="yes",
    retry="not needed",
    lost="what was in the key",
)
async def test_a_result_is_stored_over_what_has_a_wrong_type(witness, place):
    server, worker, direct = place
    task_id = "a-result-of-a-wrong-type"
    direct.rpush(f"celery-task-meta-{task_id}", "of somebody else")
    async with CeleryClient(server.url) as client:
        handle = await client.send_task("fibo.fibonacci", (10,), task_id=task_id)
        await witness.see(handle.get(timeout=20), deadline=20)
    assert f"the key 'celery-task-meta-{task_id}' has the type" in worker.log.read_text()
