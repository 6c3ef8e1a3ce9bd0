"""Workers die with tasks in their hands that have not started: only what had started can have been the cause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from support.outages import outage
from support.pools import POOLS, without
from support.servers import TESTS, RedisServer
from support.waiting import eventually, until

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

pytestmark = pytest.mark.timeout(300)  # Each starts three workers, one after another.

MANY = 1000
VISIBILITY_TIMEOUT = 180  # fibo-worker's default


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of its own, whose keys are looked at as a whole."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def direct(server) -> Iterator[redis.Redis]:
    with server.client() as direct:
        yield direct


def poisoned(url: str, *, pool: str = "prefork", prefetch: int = 1) -> WorkerProcess:
    arguments = ["--prefetch-multiplier", str(prefetch)]
    env = {"PYTHONPATH": str(TESTS), **without(pool)}
    return WorkerProcess(url, app="support.poisoned", pool=pool, arguments=arguments, env=env, stop_timeout=0)


def let_the_timeout_pass(direct: redis.Redis) -> None:
    """Make the messages look as if nobody had renewed them for the visibility timeout. A worker looks as it starts."""
    with direct.pipeline() as step:
        for tag in direct.hkeys("unacked"):
            step.zincrby("unacked_index", -VISIBILITY_TIMEOUT, tag)
        step.execute()


def let_the_countdown_pass(direct: redis.Redis) -> None:
    """Make it look as if the time of each task that is in the hands of a worker had come."""
    past = b'"eta": "%s"' % datetime.now(UTC).isoformat().encode()
    with direct.pipeline() as step:
        for tag, message in direct.hgetall("unacked").items():
            step.hset("unacked", tag, re.sub(rb'"eta": "[^"]+"', past, message))
        step.execute()


def kill_with_all_in_its_hands(
    worker: WorkerProcess, direct: redis.Redis, number: int, before: set[bytes]
) -> set[bytes]:
    """Kill a worker once it has taken this many messages. Gives their delivery tags, which no worker had before."""

    def taken() -> bool:
        return len(set(direct.hkeys("unacked")) - before) == number

    until(taken, lambda: f"it has {direct.hlen('unacked')}: {worker.log.read_text()[-3000:]}", timeout=90)
    os.killpg(worker.pid, signal.SIGKILL)
    let_the_timeout_pass(direct)
    return set(direct.hkeys("unacked"))


def is_dead(worker: WorkerProcess) -> bool:
    try:
        worker.check()
    except RuntimeError:
        return True
    return False


def buried(direct: redis.Redis) -> list[str | None]:
    """The names of the tasks that became dead letters."""
    return [DeadLetter.decode(each).task for each in direct.lrange("celery.dead", 0, -1)]


def nothing_is_left(direct: redis.Redis) -> None:
    until(lambda: not direct.keys("unacked*"), lambda: f"there are {direct.keys('unacked*')}")


@outage(
    "A worker that holds a thousand tasks with a `countdown` is killed, and so is the next",
    sees="the answer",
    within="the visibility timeout after each, and the `countdown`",
    submitted="yes",
    retry="not needed",
)
async def test_tasks_that_wait_for_their_time_are_run_however_often_their_worker_is_lost(witness, server, direct):
    async with CeleryClient(server.url) as celery:
        later = [celery.call("fibo.fibonacci", (n,), countdown=900, timeout=2000) for n in range(MANY)]
        calls = [asyncio.create_task(witness.see(each, deadline=200)) for each in later]
        tags: set[bytes] = set()
        for _ in range(2):
            with poisoned(server.url) as worker:
                tags |= await asyncio.to_thread(kill_with_all_in_its_hands, worker, direct, MANY, tags)
        let_the_countdown_pass(direct)
        with poisoned(server.url):
            answers = await asyncio.gather(*calls)
            assert answers[10] == "37"
            assert not any(isinstance(each, BaseException) for each in answers)
            assert buried(direct) == []
            nothing_is_left(direct)


@pytest.mark.parametrize("pool", POOLS)
@outage(
    "A task kills its whole worker as it starts, twice",
    sees="`TaskFailedError`",
    within="the visibility timeout after each",
    submitted="yes",
    retry="no",
    lost="nothing; it becomes a dead letter",
)
async def test_a_task_that_kills_two_workers_is_buried(witness, server, direct, pool):
    async with CeleryClient(server.url) as celery:
        call = asyncio.create_task(witness.see(celery.call("poison.kill_all", timeout=200), deadline=200))
        for _ in range(2):
            with poisoned(server.url, pool=pool) as worker:
                await eventually(lambda worker=worker: is_dead(worker))
            let_the_timeout_pass(direct)
        with poisoned(server.url, pool=pool):
            assert (await call).exc_type == "WorkerLostError"
            assert buried(direct) == ["poison.kill_all"]
            nothing_is_left(direct)


async def test_of_four_tasks_in_the_hands_of_two_lost_workers_only_one_that_ran_twice_is_buried(
    server, direct, tmp_path
):
    gate = tmp_path / "gate"
    async with CeleryClient(server.url) as celery:
        for _ in range(4):
            await celery.send_task("poison.kill_all", (str(gate),))
        for _ in range(2):
            with poisoned(server.url, prefetch=4) as worker:
                await eventually(lambda: direct.hlen("unacked") == 4)
                gate.touch()
                await eventually(lambda worker=worker: is_dead(worker))
                gate.unlink()
            let_the_timeout_pass(direct)
        with poisoned(server.url, prefetch=4):
            await eventually(lambda: direct.hlen("unacked") + len(buried(direct)) == 4)
            assert len(buried(direct)) <= 1


@outage(
    "Two workers, one after the other, freeze for longer than the visibility timeout while they run a task",
    sees="`TaskFailedError`, and the answer if asked again later",
    within="the visibility timeout after each",
    submitted="yes; it runs twice",
    retry="ask the handle again: a later success replaces the failure",
    lost="nothing (`WorkerLostError`); it becomes a dead letter",
)
async def test_a_result_that_comes_after_the_worker_was_given_up_wins(witness, server, direct, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    async with CeleryClient(server.url) as celery:
        handle = await celery.send_task("poison.wait", (str(log), str(gate)))
        with contextlib.ExitStack() as stack:
            for number in (1, 2):
                worker = stack.enter_context(poisoned(server.url))
                await eventually(lambda number=number: log.exists() and len(log.read_text().split()) == number)
                os.killpg(worker.pid, signal.SIGSTOP)
                let_the_timeout_pass(direct)
            stack.enter_context(poisoned(server.url))
            assert (await witness.see(handle.get(timeout=60), deadline=60)).exc_type == "WorkerLostError"
            os.killpg(worker.pid, signal.SIGCONT)
            gate.touch()
            await eventually(lambda: b'"SUCCESS"' in direct.get(f"celery-task-meta-{handle.id}"))
            assert await witness.see(celery.result(handle.id).get(timeout=60), deadline=60) == "done"
            assert buried(direct) == ["poison.wait"]
