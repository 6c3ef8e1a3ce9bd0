"""A task that takes its process with it: the main part. `tests/outages/test_poison.py` has the others."""

from __future__ import annotations

import json

import pytest
from support.servers import TESTS

from fibo_client import FiboClient, TaskFailedError
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters


@pytest.fixture
def bad(redis_server):
    """A worker with one process and little memory, whose tasks misbehave, and its URL."""
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(TESTS), "FIBO_MAX_MEMORY": "1024"}
    with WorkerProcess(url, app="support.poisoned", env=env, stop_timeout=0) as process:
        yield url, process


async def test_what_ends_a_process_is_run_once_more_and_dead_lettered_and_what_wants_too_much_memory_fails(
    bad, redis_server
):
    url, process = bad
    async with FiboClient(url) as fibo:
        with pytest.raises(TaskFailedError, match="SIGKILL") as killed:
            await (await fibo.celery.send_task("poison.kill")).get(timeout=30)
        with pytest.raises(TaskFailedError) as greedy:
            await (await fibo.celery.send_task("poison.memory", (3 * 10**9,))).get(timeout=30)
        assert await fibo.fibonacci(10, timeout=20) == 55
    process.check()

    assert killed.value.exc_type == "WorkerLostError"
    assert greedy.value.exc_type == "MemoryError"
    with redis_server.client(url) as direct:
        (dead_letter,) = map(DeadLetter.decode, DeadLetters(direct, "celery").stored())
    assert (dead_letter.task, dead_letter.id) == ("poison.kill", killed.value.task_id)
    assert "lost 2 times" in dead_letter.reason
    assert "fibo_losses" not in json.loads(dead_letter.raw)["properties"]
