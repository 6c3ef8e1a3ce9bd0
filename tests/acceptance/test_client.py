"""The client against real workers: the fibo worker, and a plain Celery worker that knows nothing of this project."""

from __future__ import annotations

import asyncio
import math
import time
import uuid

import gmpy2
import pytest
from support.waiting import eventually

from fibo_client import (
    FIBO_TASK,
    FIBONACCI_CHUNK,
    SQRT_TASK,
    FiboClient,
    ResultTimeoutError,
    TaskFailedError,
    TaskRevokedError,
)
from fibo_client.celery import CeleryClient, RemoteTask

PATIENCE = 30.0


@pytest.fixture(params=[True, False], ids=["push", "poll"])
async def client(request, worker):
    async with FiboClient(worker.url, push=request.param, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def plain(stock):
    async with FiboClient(stock.url, timeout=PATIENCE) as client:
        yield client


def fib(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


async def test_one_number(client):
    assert [await client.fibonacci(n) for n in (0, 1, 2, 10)] == [0, 1, 1, 55]


async def test_many_numbers_keep_their_order_and_their_duplicates(client):
    numbers = [4, 3, 8, 6, 10, 3, 0, 10]
    assert await client.fibonacci_many(numbers) == [fib(n) for n in numbers]
    assert await client.fibonacci_many(iter(numbers)) == [fib(n) for n in numbers]
    assert await client.fibonacci_many([]) == []


async def test_numbers_far_beyond_what_a_plain_result_could_carry(client):
    n = 1_000_000
    assert await client.fibonacci(n) == int(gmpy2.fib(n))


async def test_square_roots(client):
    assert await client.sqrt(4) == 2.0
    assert await client.sqrt(2) == math.sqrt(2)
    assert await client.sqrt(0) == 0.0


async def test_the_task_that_answers_a_sentence(client):
    n, message = await client.fibo_task(10)
    assert n == 10
    assert message.startswith("The Fibonacci calculated with task id ")
    assert message.endswith(" was 55")


async def test_handles_can_be_asked_and_awaited_in_any_way(client):
    handles = await client.submit_many([4, 3, 8])
    single = await client.submit(10, task=FIBO_TASK)
    assert [await handle.get(timeout=PATIENCE) for handle in handles] == [3, 2, 21]
    assert await client.ready(handles) == [True, True, True]
    assert await client.celery.gather(handles) == [3, 2, 21]
    assert await single == (10, f"The Fibonacci calculated with task id {single.id} was 55")
    again = client.celery.result(single.id, FIBO_TASK)
    assert await again == await single


async def test_a_chunk_tells_the_value_or_the_error_of_each(client):
    values = await client.celery.call(FIBONACCI_CHUNK, ([5, -1, 7],), timeout=PATIENCE)
    assert values[0] == 5
    assert values[2] == 13
    assert isinstance(values[1], TaskFailedError)
    assert values[1].exc_type == "ValueError"


async def test_what_the_worker_refuses_is_told_with_its_traceback(client):
    with pytest.raises(TaskFailedError, match="ValueError") as caught:
        await client.celery.call("fibo.fibonacci", (-1,))
    assert "Traceback" in caught.value.traceback
    assert "Remote traceback" in caught.value.__notes__[0]
    values = await client.celery.call_many(
        [FIBO_TASK(4), RemoteTask[[int], object]("fibo.fibonacci")(-1)], return_exceptions=True
    )
    assert values[0][0] == 4
    assert isinstance(values[1], TaskFailedError)


async def test_a_task_that_nobody_knows_is_told_at_once(client):
    began = time.monotonic()
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await client.celery.call("no.such.task", timeout=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2


async def test_a_thousand_callers_at_once(client):
    numbers = [n % 97 for n in range(1000)]
    assert await asyncio.gather(*map(client.fibonacci, numbers)) == [fib(n) for n in numbers]
    assert client.celery.stats().pending == 0


async def test_two_thousand_handles_over_a_plain_worker(plain):
    handles = await plain.submit_many([30] * 2000, task=FIBO_TASK)
    answers = await plain.celery.gather(handles, timeout=PATIENCE)
    assert answers == [(30, f"The Fibonacci calculated with task id {handle.id} was 832040") for handle in handles]


async def test_the_same_dispatcher_serves_a_plain_worker_with_just_two_tasks(plain):
    values = [4, 3, 8, 6, 10]
    handles = await plain.submit_many(values, task=FIBO_TASK)
    collected = {}
    deadline = time.monotonic() + PATIENCE
    while len(collected) < len(handles):
        assert time.monotonic() < deadline
        for handle, over in zip(handles, await plain.ready(handles), strict=True):
            if over and handle.id not in collected:
                collected[handle.id] = await handle.get(timeout=2)
    assert [collected[handle.id] for handle in handles] == [
        (n, f"The Fibonacci calculated with task id {handle.id} was {fib(n)}")
        for n, handle in zip(values, handles, strict=True)
    ]
    assert await plain.sqrt(4, timeout=5) == 2.0
    assert await plain.celery.call(SQRT_TASK, (9,), timeout=5) == 3.0


async def test_typed_references_call_any_task(plain):
    add = RemoteTask[[int, int], int]("stock.add")
    assert await plain.celery.call(add, (2, 3), timeout=10) == 5
    assert await plain.celery.call(add(2, y=3), timeout=10) == 5
    assert await plain.celery.call("stock.add", (2, 3), timeout=10) == 5
    handles = await plain.celery.send_many([add(n, 1) for n in range(10)])
    assert await plain.celery.gather(handles) == list(range(1, 11))
    assert await (await plain.celery.send_task(add, (2,), {"y": 3}, priority=9)) == 5


async def test_a_call_with_an_id_of_its_own_can_be_asked_again(plain):
    task_id = f"mine-{time.time_ns()}"
    assert await plain.celery.call("stock.add", (2, 3), task_id=task_id) == 5
    assert await plain.celery.result(task_id).get(timeout=0) == 5


async def test_an_ignored_result_is_none_at_once_as_in_celery(plain):
    handle = await plain.celery.send_task("stock.add", (1, 2), ignore_result=True)
    assert await handle.get() is None


async def test_progress_is_followed(plain):
    handle = await plain.celery.send_task("stock.progress", (3,))
    seen = [meta async for meta in handle.updates(timeout=PATIENCE)]
    assert seen[-1].state == "SUCCESS"
    assert {meta.state for meta in seen[:-1]} <= {"STARTED", "PROGRESS"}


async def test_a_cancelled_call_does_not_run(stock, plain):
    blockers = [await plain.celery.send_task("stock.sleep", (1.5,)) for _ in range(2)]
    owned = f"{uuid.uuid4()}"
    call = asyncio.create_task(plain.celery.call(FIBO_TASK(5), task_id=owned))
    await eventually(lambda: plain.stats().in_flight)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async def revoked():
        return await plain.celery.result(owned).state() == "REVOKED"

    await eventually(revoked)
    await plain.celery.gather(blockers)


async def test_a_revoked_task_says_so(plain):
    handle = await plain.celery.send_task("stock.sleep", (60,))

    async def runs():
        return any(handle.id == each["id"] for tasks in (await inspect.active()).values() for each in tasks)

    inspect = plain.celery.inspect()
    await eventually(runs)
    assert await handle.revoke(terminate=True, signal="SIGKILL") >= 1
    with pytest.raises(TaskRevokedError, match="terminated"):
        await handle.get(timeout=PATIENCE)


async def test_a_task_that_was_not_begun_in_time_is_not_run(plain):
    blockers = [await plain.celery.send_task("stock.sleep", (1.5,)) for _ in range(2)]
    handle = await plain.celery.send_task("stock.add", (1, 2), expires=0.2)
    with pytest.raises(ResultTimeoutError):
        await plain.celery.call("stock.add", (1, 2), timeout=0.2)
    with pytest.raises(TaskRevokedError, match="expired"):
        await handle.get(timeout=PATIENCE)
    await plain.celery.gather(blockers)


async def test_workers_can_be_asked(plain, stock):
    names = [each.name for each in await plain.celery.ping()]
    assert stock.node in names
    registered = await plain.celery.inspect([stock.node]).registered()
    assert "stock.add" in registered[stock.node]
    assert await plain.celery.ping(destination=["nobody@nowhere"], timeout=0.3) == []


async def test_a_diagnosis_tells_what_is_wrong(plain, stock, redis_url):
    done = await plain.celery.send_task("stock.add", (1, 2))
    await done.get()
    assert "it is over" in str(await plain.celery.diagnose(done))
    lost = await plain.celery.send_task("stock.add", (1, 2), queue="nobody-listens")
    diagnosis = await plain.celery.diagnose(lost)
    assert (diagnosis.depth, diagnosis.listening) == (1, ())
    assert "no worker takes tasks from 'nobody-listens'" in str(diagnosis)
    running = await plain.celery.send_task("stock.sleep", (2,))

    async def held():
        return f"{stock.node} holds it" in str(await plain.celery.diagnose(running))

    await eventually(held)
    unknown = plain.celery.result("never-sent", "stock.add")
    assert "never sent" in str(await plain.celery.diagnose(unknown))
    async with CeleryClient(redis_url) as alone:
        handle = await alone.send_task("stock.add", (1, 2))
        assert "no worker answers" in str(await alone.diagnose(handle, timeout=0.3))
    await running.revoke(terminate=True)
