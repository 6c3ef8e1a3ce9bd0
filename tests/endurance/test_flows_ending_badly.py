"""Every bad end of a task in a chain, a group or a chord ends the wait, and the error names that task.

On a stock worker, and on one under the guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from support.servers import stock_worker
from support.waiting import eventually

from fibo_client import ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.servers import RedisServer

PATIENCE = 20.0

add = RemoteTask[..., int]("stock.add")
total = RemoteTask[..., int]("stock.total")
sleep = RemoteTask[..., float]("stock.sleep")


def of(name, *args, **options):
    """A step that does not care for what was before it."""
    return RemoteTask[..., object](f"stock.{name}")(*args).with_options(**options).immutable()


BAD = {
    "raises": (of("fail", "no"), "ValueError"),
    "has no more retries": (of("autoretried", "no"), "ValueError"),
    "gives no JSON": (of("unserialisable"), "EncodeError"),
    "is not registered": (of("no_such_task"), "NotRegistered"),
    "has expired": (of("add", 1, 1, expires=0.001), "expired"),
    "was revoked": (of("add", 1, 1), "revoked"),
    "is over its limit": (of("sleep", 60, time_limit=1), "TimeLimitExceeded"),
    "is over its soft limit": (of("sleep", 60, soft_time_limit=1), "SoftTimeLimitExceeded"),
    "ends its process": (of("exit", 3), "WorkerLostError"),
}
"""Tasks that end badly, and the class of the remote error, or why they were revoked."""

PLACES = {
    "the first of a chain": lambda bad: chain(bad, add.s(3)),
    "in a chain": lambda bad: chain(add(1, 1), bad, add.s(3)),
    "the last of a chain": lambda bad: chain(add(1, 1), bad),
    "in a group": lambda bad: group(add(1, 1), bad),
    "in a header": lambda bad: chord([add(1, 1), bad], total()),
    "the first of a chain in a header": lambda bad: chord([bad | add.s(1), add(2, 2)], total()),
    "the last of a chain in a header": lambda bad: chord([add(1, 1) | bad, add(2, 2)], total()),
    "the body": lambda bad: chord([add(1, 1), add(2, 2)], bad),
    "in a chain that is the body": lambda bad: chord([add(1, 1)], total() | bad | add.s(1)),
    "the body of a chord in a header": lambda bad: chord([chord([add(1, 1)], bad), add(2, 2)], total()),
    "in a header in a header": lambda bad: chord([chord([add(1, 1), bad], total()), add(2, 2)], total()),
    "in a group that a worker sends": lambda bad: add(1, 1) | group(add.s(1), bad),
    "in a header that a worker sends": lambda bad: add(1, 1) | group(add.s(1), bad) | total(),
    "in a group that is the body": lambda bad: chord([add(1, 1)], group(total(), bad)),
}

SLOW = {"is over its limit", "is over its soft limit", "ends its process"}
FEW = ("in a chain", "in a header", "the body")


@pytest.fixture(scope="module", params=["support.stock", "support.guarded"])
def url(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[str]:
    url = redis_server.fresh_url()
    with stock_worker(url, concurrency=3, app=request.param):
        yield url


@pytest_asyncio.fixture
async def client(url) -> AsyncIterator[CeleryClient]:
    async with CeleryClient(url, timeout=PATIENCE) as client:
        yield client


def named(step):
    task_id = str(uuid.uuid4())
    return step.with_options(task_id=task_id), task_id


async def revoke(client, task_id):
    """Revoke a task, and see that the worker has heard it: it answers in order."""
    await eventually(client.ping)
    assert await client.revoke(task_id) == 1
    assert await client.ping(timeout=PATIENCE)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", [what for what in BAD if what not in SLOW])
async def test_the_wait_ends_with_the_task_that_ends_badly(client, what, place):
    await ends_badly(client, what, place)


@pytest.mark.parametrize("place", FEW)
@pytest.mark.parametrize("what", sorted(SLOW))
async def test_the_wait_ends_with_the_task_that_the_worker_ends(client, what, place):
    await ends_badly(client, what, place)


async def ends_badly(client, what, place):
    step, reason = BAD[what]
    bad, task_id = named(step)
    if what == "was revoked":
        await revoke(client, task_id)
    result = await client.send(PLACES[place](bad))
    with pytest.raises((TaskFailedError, TaskRevokedError)) as caught:
        await result.get()
    error = caught.value
    assert (error.task_id, getattr(error, "exc_type", None) or error.reason) == (task_id, reason)
    assert step.task in str(error)
    assert await result.ready()


async def running(client, task_id):
    """The process that runs a task."""
    for tasks in (await client.inspect().active()).values():
        for task in tasks:
            if task["id"] == task_id:
                return task["worker_pid"]
    return None


@pytest.mark.parametrize("place", FEW)
async def test_the_wait_ends_with_a_task_that_is_terminated_while_it_runs(client, place):
    bad, task_id = named(of("sleep", 60))
    result = await client.send(PLACES[place](bad))
    await eventually(lambda: running(client, task_id))
    await client.revoke(task_id, terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError) as caught:
        await result.get()
    assert (caught.value.task_id, caught.value.task) == (task_id, "stock.sleep")


@pytest.mark.parametrize("place", FEW)
async def test_the_wait_ends_with_a_task_whose_process_is_killed(client, place):
    bad, task_id = named(of("sleep", 60))
    waiting = asyncio.create_task((await client.send(PLACES[place](bad))).get())

    async def killed():
        if process := await running(client, task_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return waiting.done()

    await eventually(killed)  # The guard lets a task run once more.
    with pytest.raises(TaskFailedError) as caught:
        await waiting
    assert (caught.value.task_id, caught.value.exc_type) == (task_id, "WorkerLostError")


@pytest.mark.parametrize("place", ["in a chain", "in a header", "in a header that a worker sends"])
@pytest.mark.parametrize("task", ["ignored", "requeue"])
async def test_of_a_task_that_stores_nothing_the_timeout_names_it(client, task, place):
    bad, task_id = named(of(task))
    result = await client.send(PLACES[place](bad))
    with pytest.raises(ResultTimeoutError) as caught:
        await result.get(timeout=1.5)
    assert caught.value.task_ids[0] == task_id


async def test_a_link_to_a_task_that_is_not_registered_changes_nothing_for_its_own(client):
    after, task_id = named(of("no_such_task"))
    assert await client.call(chain(add(1, 1).with_options(link=after), add.s(1))) == 3
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await client.result(task_id).get()


async def test_a_link_for_errors_that_is_not_registered_changes_nothing_for_its_own(client):
    after, task_id = named(RemoteTask[..., None]("stock.no_such_task").s())
    with pytest.raises(TaskFailedError, match=r"stock\.fail"):
        await client.call(chain(add(1, 1), of("fail", "no").with_options(link_error=after)))
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await client.result(task_id).get()
