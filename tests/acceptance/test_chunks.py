"""What a plain Celery worker makes of a chunk: of a good one, and of one with each kind of call that it is not for.

`docs/explanation/chunks.md` has a line for each.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import redis
from support.waiting import eventually

from fibo_client import ChunkRetriedError, ResultDecodeError, ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import CeleryClient, RemoteTask, remote_task

PATIENCE = 30.0


@remote_task("stock.add", chunkable=True)
def add(x: int, y: int) -> int: ...


def chunkable(name: str) -> RemoteTask:
    return RemoteTask(name, chunkable=True)


@pytest.fixture
async def celery(stock):
    async with CeleryClient(stock.url, timeout=PATIENCE) as client:
        yield client


async def outcomes(celery: CeleryClient, task: str, arguments: list[tuple], **options) -> list:
    """Call a task in one chunk. Give what came of each call."""
    calls = [chunkable(task)(*each) for each in arguments]
    return await celery.call_many(calls, chunk_size=len(calls), return_exceptions=True, **options)


async def test_a_chunk_answers_each_call(celery):
    published = celery.stats().published
    assert await celery.call_many([add(n, y=1) for n in range(1000)], chunk_size=100) == list(range(1, 1001))
    assert celery.stats().published == published + 10


async def test_a_call_may_return_anything_that_json_has(celery):
    values = [None, [], {}, "é🎈", 2**64, [1, {"a": None}]]
    assert await outcomes(celery, "stock.echo", [(value,) for value in values]) == [[[value], {}] for value in values]


async def test_the_result_of_a_task_that_is_declared_to_ignore_it_is_there_all_the_same(celery):
    assert await outcomes(celery, "stock.forgetful", [(1,), (2,)]) == [1, 2]


async def test_a_call_that_raises_fails_all_of_its_chunk_with_its_own_exception(celery):
    first, *others = await outcomes(celery, "stock.fail", [("one", 1), ("two", 2), ("three", 3)])
    assert [type(each) for each in (first, *others)] == [TaskFailedError] * 3
    assert (first.task, first.exc_type, first.exc_args) == ("stock.fail", "ValueError", ("one", 1))
    assert "raise ValueError(*args)" in first.traceback
    assert {each.task_id for each in others} == {first.task_id}


@pytest.mark.parametrize(
    ("task", "arguments", "exc_type"),
    [
        ("stock.unknown", (), "NotRegistered"),
        ("stock.unserialisable", (), "EncodeError"),
        ("stock.add", (1,), "TypeError"),
        ("stock.exit", (3,), "WorkerLostError"),
        ("stock.progress", (1,), "ValueError"),  # Its request has no id, of which the state could be.
    ],
    ids=["unknown", "no-json", "wrong-arguments", "exit", "update-state"],
)
async def test_what_goes_wrong_in_one_call_fails_all_of_its_chunk(celery, task, arguments, exc_type):
    answers = await outcomes(celery, task, [arguments] * 3)
    assert [type(each) for each in answers] == [TaskFailedError] * 3
    assert {(each.task, each.exc_type) for each in answers} == {(task, exc_type)}


async def test_a_task_is_not_retried_by_autoretry_for(celery):
    answers = await outcomes(celery, "stock.autoretried", [("once",), ("once",)])
    assert {(each.exc_type, each.exc_args) for each in answers} == {("ValueError", ("once",))}


async def test_a_task_that_retries_because_of_an_exception_fails_with_that(celery):
    answers = await outcomes(celery, "stock.retry_once", [(), ()])
    assert {(each.exc_type, each.exc_args) for each in answers} == {("ValueError", ("once more",))}


async def test_a_task_that_retries_stores_retry_for_its_chunk_and_the_calls_end_soon(celery):
    began = time.monotonic()
    answers = await outcomes(celery, "stock.retry_in", [("celery",), ("celery",)], timeout=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 3
    assert [type(each) for each in answers] == [ChunkRetriedError] * 2
    # Nothing runs it again. The client has revoked it, of which the worker may have heard by now.
    result = celery.result(answers[0].task_id)
    assert await result.state() in ("RETRY", "REVOKED")
    await outcomes(celery, "stock.add", [(1, 2)] * 2)
    assert await result.state() in ("RETRY", "REVOKED")
    assert await celery.queue_depth() == 0


async def test_a_task_that_ignores_ends_its_chunk_by_the_timeout(celery):
    answers = await outcomes(celery, "stock.ignored", [(), ()], timeout=1.0)
    assert [type(each) for each in answers] == [ResultTimeoutError] * 2
    assert {(each.task, each.state) for each in answers} == {("stock.ignored", "PENDING")}
    assert await celery.call(add(1, 2)) == 3


async def test_a_task_that_rejects_fails_all_of_its_chunk(celery):
    answers = await outcomes(celery, "stock.reject", [(), ()])
    assert {each.exc_type for each in answers} == {"Reject"}
    assert await celery.queue_depth() == 0


async def test_the_limits_of_the_task_itself_do_not_go_for_a_chunk(celery):
    # Alone, a call may take 1 s, and the second would wait for an hour.
    assert await outcomes(celery, "stock.limited", [(1.2,), (0.0,), (0.0,)]) == [1.2, 0.0, 0.0]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_chunk_is_acknowledged_before_it_runs_also_of_a_task_that_is_declared_with_acks_late(
    celery, stock, chunked
):
    late = chunkable("stock.late")

    async def names():
        return [each["name"] for each in (await celery.inspect([stock.node]).active())[stock.node]]

    async with asyncio.TaskGroup() as group:
        group.create_task(celery.call_many([late(2.0), late(0.0)], chunk_size=2) if chunked else celery.call(late(2.0)))
        await eventually(names)
        task = "celery.starmap" if chunked else "stock.late"
        with redis.Redis.from_url(stock.url) as server:

            def is_held():  # Tests before this one may have left others, such as those with an ETA.
                return task in {json.loads(message)[0]["headers"]["task"] for message in server.hvals("unacked")}

            # A worker shows a task as active just before it acknowledges it.
            await eventually(lambda: is_held() is not chunked)
        assert await names() == [task]


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
async def test_a_limit_of_the_message_goes_for_all_calls_together(celery, limit):
    answers = await outcomes(celery, "stock.sleep", [(0.6,), (0.6,), (60,)], **{limit: 1})
    assert {each.exc_type for each in answers} == {
        "TimeLimitExceeded" if limit == "time_limit" else "SoftTimeLimitExceeded"
    }


async def test_a_call_knows_nothing_of_its_message(celery):
    known = {"id": None, "delivery_info": None, "retries": 0, "called_directly": True}
    assert await outcomes(celery, "stock.request", [tuple(known)] * 2) == [known] * 2


async def test_a_chunk_may_have_an_eta_a_priority_a_queue_and_compression(celery, stock):
    began = time.monotonic()
    calls = [add(n, 1) for n in range(10)]
    assert await celery.call_many(calls, chunk_size=10, countdown=0.5, priority=0, compression="gzip") == [
        n + 1 for n in range(10)
    ]
    assert time.monotonic() - began >= 0.5
    with pytest.raises(ResultTimeoutError):
        await celery.call_many(calls, chunk_size=10, queue="nobody", timeout=0.5)
    assert await celery.queue_depth("nobody") == 1


async def test_a_chunk_that_expired_is_late_for_all_of_its_calls(celery):
    with pytest.raises(TaskRevokedError, match="expired"):
        await celery.call_many([add(1, 1), add(2, 2)], chunk_size=2, expires=0.001, countdown=0.3)


async def test_a_value_that_a_task_should_not_answer_fails_alone(celery):
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value

    task = RemoteTask[[int, int], int]("stock.add", even, chunkable=True)
    two, three, four = await celery.call_many(
        [task(1, 1), task(1, 2), task(2, 2)], chunk_size=3, return_exceptions=True
    )
    assert (two, four) == (2, 4)
    assert isinstance(three, ResultDecodeError)


@pytest.mark.parametrize("hide", [False, True])
async def test_logs_and_events_show_how_many_calls_there_are_and_none_of_their_arguments(stock, hide):
    secret = "swordfish"
    async with CeleryClient(stock.url, hide_arguments=hide) as client:
        calls = [add(secret, n).with_options(argsrepr="('***',)") for n in range(2)]
        with pytest.raises(TaskFailedError) as caught:
            await client.call_many(calls, chunk_size=2)
        with pytest.raises(ResultTimeoutError):
            await client.call_many(calls, chunk_size=2, queue="unserved", timeout=0.3)
    said = stock.process.log.read_text()
    assert f"Task celery.starmap[{caught.value.task_id}] raised unexpected" in said
    assert secret not in said
    with redis.Redis.from_url(stock.url) as server:
        (message,) = server.lrange("unserved", 0, -1)
        server.delete("unserved")
    headers = json.loads(message)["headers"]
    assert headers["kwargsrepr"] == "{'task': 'stock.add', 'it': <2 calls>}"
    assert headers["argsrepr"] == ("<hidden>" if hide else "()")


async def test_fibo_worker_takes_chunks_too_and_its_guard_lets_them_through(worker):
    async with CeleryClient(worker.url, timeout=PATIENCE) as client:
        sqrt = RemoteTask[[float], float]("tasks.sqrt_task", chunkable=True)
        assert await client.call_many([sqrt(n * n) for n in range(500)], chunk_size=100, queue="celery") == [
            float(n) for n in range(500)
        ]
        with pytest.raises(TaskFailedError, match=r"tasks\.sqrt_task"):
            await client.call_many([sqrt(-1), sqrt(4)], chunk_size=2)
