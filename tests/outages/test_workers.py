"""A worker dies, loses its Redis, stops, takes too long, or is not there at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.outages import outage
from support.servers import RedisServer, stock_worker
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

SHORT = {
    "FIBO_VISIBILITY_TIMEOUT": "3",
    "FIBO_TIME_LIMIT": "2",
    "FIBO_SOFT_TIME_LIMIT": "1",
}
"""A worker's settings with which a task that was lost comes again soon."""


@pytest.fixture(scope="module")
def tracked(redis_server):
    """The URL of a plain Celery worker that says when a task has begun, and keeps results for two seconds."""
    url = redis_server.fresh_url()
    with stock_worker(url, conf={"task_track_started": True, "result_expires": 2}):
        yield url


async def that(condition: Callable[[], object]) -> None:
    """Wait until something is so that has to be asked of a client that blocks."""
    await eventually(lambda: asyncio.to_thread(condition))


async def process_of(handle) -> int:
    """Wait until a task runs, and give the id of the process that runs it."""
    async for meta in handle.updates(timeout=20):
        if meta.state == "STARTED":
            return meta.result["pid"]
    raise AssertionError("it ended before it was seen to run")


@contextlib.contextmanager
def about_to_die(url: str, **env: str) -> Iterator[WorkerProcess]:
    """A worker that takes a task and then does nothing: the processes that compute are stopped. SIGKILL ends it."""
    with WorkerProcess(url, env=env, stop_timeout=0) as worker:
        for child in children(worker):
            os.kill(child, signal.SIGSTOP)
        yield worker


def children(worker: WorkerProcess) -> list[int]:
    """The ids of the processes of a worker that compute."""
    return [int(child) for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]


async def kill_once_it_has_the_task(worker: WorkerProcess, direct: redis.Redis) -> None:
    """Kill a worker and all of its processes while it holds a task."""
    await that(lambda: direct.hlen("unacked") == 1)
    os.killpg(worker.pid, signal.SIGKILL)


@outage(
    "A process of a fibo-worker is killed while it computes",
    sees="the answer; the second time, `TaskFailedError`",
    within="some five seconds each time",
    submitted="yes",
    retry="after an error, only if the task did not kill its process",
    lost="nothing; it becomes a dead letter",
)
async def test_a_killed_process_of_our_worker_costs_the_caller_some_seconds(witness):
    with RedisServer() as redis, about_to_die(redis.url) as worker, redis.client() as direct:
        async with FiboClient(redis.url) as client:
            call = asyncio.create_task(witness.see(client.fibonacci(10, timeout=30), deadline=30))
            await that(lambda: direct.hlen("unacked") == 1)
            for child in children(worker):
                os.kill(child, signal.SIGKILL)
            assert await call == 55


@outage(
    "A process of a plain Celery worker is killed while it computes",
    sees="`TaskFailedError`",
    within="the few seconds until Celery notices",
    submitted="yes",
    retry="if the task may run twice",
    lost="that run (`WorkerLostError`)",
)
async def test_a_worker_process_that_is_killed_is_an_error_and_no_silence(witness, tracked):
    async with CeleryClient(tracked) as celery:
        handle = await celery.send_task("stock.sleep", (60,))
        os.kill(await process_of(handle), signal.SIGKILL)
        error = await witness.see(handle.get(timeout=30), deadline=30)
        assert error.exc_type == "WorkerLostError"
        assert await celery.call("stock.add", (1, 2), timeout=20) == 3


@outage(
    "A whole fibo-worker is killed while it holds a task, and another one starts",
    sees="the answer",
    within="the visibility timeout, and up to 10 s more",
    submitted="yes; it runs again",
    retry="not needed",
)
async def test_a_task_of_a_worker_that_was_killed_is_done_by_the_next_one(witness, redis_server):
    url = redis_server.fresh_url()
    async with FiboClient(url) as client:
        with redis_server.client(url) as direct, about_to_die(url, **SHORT) as worker:
            call = asyncio.create_task(witness.see(client.fibonacci(10, timeout=40), deadline=40))
            await kill_once_it_has_the_task(worker, direct)
        with WorkerProcess(url, env=SHORT, stop_timeout=0):
            assert await call == 55


@outage(
    "A whole worker is killed, and `timeout` is less than the visibility timeout (fibo-worker 180 s, Celery an hour)",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes",
    retry="ask the handle again after the visibility timeout",
)
async def test_a_handle_can_be_asked_again_after_its_task_was_redelivered(witness, redis_server):
    url = redis_server.fresh_url()
    async with FiboClient(url) as client:
        with redis_server.client(url) as direct:
            with about_to_die(url) as worker:
                handle = await client.submit(10)
                await kill_once_it_has_the_task(worker, direct)
            await witness.see(handle.get(timeout=0.5), deadline=0.5)
            (tag,) = direct.hkeys("unacked")
            # What is left of the visibility timeout passes at once.
            direct.zincrby("unacked_index", -180, tag)
        with WorkerProcess(url, stop_timeout=0):
            assert await handle.get(timeout=40) == 55


@outage(
    "The worker's connections to Redis are killed",
    sees="the answer or `ResultTimeoutError`",
    within="some seconds, or `timeout`",
    submitted="yes",
    retry="safe",
    lost="a task that Redis had just popped",
)
async def test_a_worker_that_loses_its_connections_comes_back(witness):
    with RedisServer() as server, server.client() as direct, WorkerProcess(server.url, stop_timeout=0):
        direct.execute_command("ACL", "SETUSER", "caller", "on", "nopass", "~*", "&*", "+@all")
        async with FiboClient(server.url.replace("redis://", "redis://caller:any@")) as client:
            for n in (10, 11, 12):
                # It may be in the middle of coming back from the last kill. The first time it is not.
                await that(lambda: direct.execute_command("CLIENT", "KILL", "USER", "default", "SKIPME", "yes"))
                await witness.see(client.fibonacci(n, timeout=10), deadline=10)
            # In the end it serves again.
            assert await client.fibonacci(13, timeout=20) == 233


@outage(
    "The worker is stopped warm (SIGTERM) while tasks run",
    sees="the answer",
    within="the task's own time",
    submitted="yes",
    retry="not needed",
    lost="nothing",
)
async def test_a_worker_that_is_stopped_answers_what_it_has_begun(witness, redis_server):
    url = redis_server.fresh_url()
    with stock_worker(url, conf={"task_track_started": True}) as worker:
        async with CeleryClient(url) as celery:
            handle = await celery.send_task("stock.sleep", (1,))
            await process_of(handle)
            os.kill(worker.pid, signal.SIGTERM)
            assert await witness.see(handle.get(timeout=20), deadline=20) == 1


@outage(
    "A task passes its hard time limit",
    sees="`TaskFailedError`",
    within="the time limit, and a second",
    submitted="yes",
    retry="it would end the same way",
    lost="that run (`TimeLimitExceeded`)",
)
async def test_a_hard_time_limit_is_an_error(witness, stock):
    async with CeleryClient(stock.url) as celery:
        error = await witness.see(celery.call("stock.sleep", (60,), time_limit=1, timeout=20), deadline=20)
        assert error.exc_type == "TimeLimitExceeded"


@outage(
    "A task passes its soft time limit",
    sees="`TaskFailedError`",
    within="the time limit, and a second",
    submitted="yes",
    retry="it would end the same way",
    lost="that run (`SoftTimeLimitExceeded`)",
)
async def test_a_soft_time_limit_is_an_error(witness, stock):
    async with CeleryClient(stock.url) as celery:
        error = await witness.see(celery.call("stock.sleep", (60,), soft_time_limit=1, timeout=20), deadline=20)
        assert error.exc_type == "SoftTimeLimitExceeded"


@outage(
    "There is no worker",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes; it expires 2 s after the deadline",
    retry="safe",
)
async def test_what_nobody_took_in_time_is_not_run_later(witness, redis_server):
    url = redis_server.fresh_url()
    with redis_server.client(url) as direct:
        async with FiboClient(url) as client:
            await witness.see(client.fibonacci(10, timeout=0.3), deadline=0.3)
            (message,) = direct.lrange("celery", 0, -1)
            headers = json.loads(message)["headers"]
            expires = datetime.fromisoformat(headers["expires"])
            await that(lambda: datetime.now(UTC) > expires)
            with WorkerProcess(url, stop_timeout=0):
                handle = client.celery.result(headers["id"])
                await eventually(handle.ready)
                assert await handle.state() == "REVOKED"


@outage(
    "No worker knows the task's name",
    sees="`TaskFailedError`",
    within="at once",
    submitted="yes",
    retry="it would end the same way",
    lost="nothing (`NotRegistered`)",
)
async def test_a_task_that_nobody_knows_is_an_error_at_once(witness, stock):
    async with CeleryClient(stock.url) as celery:
        error = await witness.see(celery.call("nobody.knows", timeout=20), deadline=5)
        assert error.exc_type == "NotRegistered"


@outage(
    "The result has expired before it is asked for",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes; it has run",
    retry="if the task may run twice",
    lost="the result; the state is `PENDING`",
)
async def test_a_result_that_has_expired_is_not_waited_for_beyond_the_deadline(witness, tracked, redis_server):
    async with CeleryClient(tracked) as celery:
        handle = await celery.send_task("stock.add", (1, 2))
        assert await handle.get(timeout=20) == 3
        with redis_server.client(tracked) as direct:
            await that(lambda: not direct.exists(f"celery-task-meta-{handle.id}"))
        error = await witness.see(celery.result(handle.id).get(timeout=0.3), deadline=0.3)
        assert error.state == "PENDING"
