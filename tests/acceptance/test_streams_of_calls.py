"""Streams of one's own tasks, and `as_completed`, on a plain Celery worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
import redis
from support.servers import stock_worker
from support.waiting import eventually

from fibo_client import ResultTimeoutError, TaskFailedError
from fibo_client.celery import CeleryClient, RedisOptions, RemoteTask, remote_task

PATIENCE = 30.0
NAME = "streams-of-calls"

SIZES = pytest.mark.parametrize("chunk_size", [1, 20], ids=["alone", "in-chunks"])


@remote_task("stock.add", chunkable=True)
def add(x: int, y: int) -> int: ...


negated = RemoteTask[[int], int]("stock.negated", chunkable=True)
sleep = RemoteTask[[float], float]("stock.sleep", chunkable=True)


@pytest.fixture(scope="module")
def url(redis_server):
    """The URL of a plain worker of this module's own: what is left in its database is looked at."""
    url = redis_server.fresh_url()
    with stock_worker(url, concurrency=2):
        yield url


@pytest.fixture
async def celery(url):
    async with CeleryClient(url, timeout=PATIENCE, redis=RedisOptions(client_name=NAME)) as client:
        yield client


@pytest.fixture
def server(url):
    with redis.Redis.from_url(url, decode_responses=True) as server:
        yield server


# Leaving. First of all: what other tests leave to expire is not there yet.


async def leave(stream):
    async with stream as answers:
        await anext(answers)


async def drop(stream):
    async for _ in stream:
        break


async def cancel(stream):
    begun = asyncio.Event()

    async def read():
        async with stream as answers:
            async for _ in answers:
                begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


@SIZES
async def test_leaving_revokes_what_is_unfinished_and_leaves_nothing_in_redis(celery, server, chunk_size):
    for way in (leave, drop, cancel):
        revoked = celery.stats().revocations.delivered
        seconds = itertools.chain([0.0] * chunk_size, itertools.repeat(0.02))
        await way(celery.stream(sleep, seconds, chunk_size=chunk_size, max_in_flight=60, timeout=2.0))
        await eventually(lambda: celery.stats().in_flight == 0)
        assert celery.stats().pending == 0
        await eventually(lambda revoked=revoked: celery.stats().revocations.delivered > revoked)
    # Workers drop what was revoked when they come to it. What they store of it is deleted once it has expired.
    await eventually(
        lambda: not server.keys("celery-task-meta-*") and not server.hlen("unacked"),
        lambda: f"left: {server.keys()}",
    )
    assert await celery.queue_depth() == 0
    assert {key for key in server.scan_iter() if not key.startswith("_kombu.binding")} <= {"unacked_mutex"}


# Answers.


async def forever():
    for n in itertools.count():
        yield n
        await asyncio.sleep(0)


async def paused():
    for n in range(120):
        yield n
        if n % 40 == 0:
            await asyncio.sleep(0.05)


SOURCES = {"plain": lambda: range(120), "async": paused, "endless": itertools.count, "endless-async": forever}


@SIZES
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
@pytest.mark.parametrize("source", SOURCES)
async def test_each_input_is_answered_once(celery, chunk_size, source, ordered):
    found = []
    async with celery.stream(
        negated, SOURCES[source](), chunk_size=chunk_size, ordered=ordered, max_in_flight=100
    ) as answers:
        async for pair in answers:
            found.append(pair)
            if len(found) == 120:
                break
    assert all(answer == -n for n, answer in found)
    assert len(dict(found)) == 120
    if ordered or not source.startswith("endless"):
        assert (found if ordered else sorted(found)) == [(n, -n) for n in range(120)]


@SIZES
async def test_a_slow_reader_slows_the_source_down(celery, chunk_size):
    pulled = itertools.count()
    taken = 0
    async with celery.stream(negated, pulled, chunk_size=chunk_size, max_in_flight=40) as answers:
        async for _ in answers:
            taken += 1
            await asyncio.sleep(0.01)  # The reader's work.
            if taken == 60:
                break
    assert next(pulled) <= taken + 40


@SIZES
async def test_a_call_that_fails_ends_the_stream_and_its_input_is_named(celery, chunk_size):
    inputs = [*range(50), "dog"]
    with pytest.raises(TaskFailedError) as caught:
        async with celery.stream(lambda n: add(n, 1), inputs, chunk_size=chunk_size) as answers:
            assert [answer async for _, answer in answers]
    assert caught.value.task == "stock.add"
    (note,) = [note for note in caught.value.__notes__ if note.startswith("input = ")]
    assert note == "input = 'dog'" or chunk_size > 1  # In a chunk all fail, and the first of them is told.


@SIZES
async def test_with_return_exceptions_the_others_are_answered(celery, chunk_size):
    inputs = [*range(40), "dog", *range(41, 80)]
    async with celery.stream(
        lambda n: add(n, 1), inputs, chunk_size=chunk_size, return_exceptions=True, ordered=True
    ) as answers:
        answered = {n: answer async for n, answer in answers}
    assert list(answered) == inputs
    failed = {n for n, answer in answered.items() if isinstance(answer, TaskFailedError)}
    assert failed == ({"dog"} if chunk_size == 1 else {"dog", *range(41, 60)})
    assert all(answer == n + 1 for n, answer in answered.items() if n not in failed)


@SIZES
async def test_a_stream_goes_on_when_redis_drops_the_clients_connections(celery, server, chunk_size):
    found = {}
    async with celery.stream(negated, range(300), chunk_size=chunk_size, max_in_flight=100, retry=True) as answers:
        async for n, answer in answers:
            found[n] = answer
            if len(found) in (50, 150):
                killed = [each["id"] for each in server.client_list() if each["name"] == NAME]
                assert killed
                for each in killed:
                    server.client_kill_filter(_id=each)
    assert found == {n: -n for n in range(300)}
    assert celery.stats().reconnects > 0


@SIZES
async def test_each_input_has_its_own_timeout(celery, chunk_size):
    seconds = [0.0] * chunk_size + [3.0 / chunk_size] * chunk_size
    async with celery.stream(sleep, seconds, chunk_size=chunk_size, return_exceptions=True, timeout=1.0) as answers:
        came = [type(answer) async for _, answer in answers]
    assert came == [float] * chunk_size + [ResultTimeoutError] * chunk_size


async def test_as_completed_gives_results_as_they_end_and_handed_out_ones_stay(celery):
    slow = await celery.send(sleep(3.0))
    quick = await celery.send_many(negated(n) for n in range(10))
    given = [result async for result in celery.as_completed([slow, *quick])]
    assert given[-1] is slow
    assert {result.id for result in given[:-1]} == {result.id for result in quick}
    assert [await result.get(0) for result in quick] == [-n for n in range(10)]
    assert await celery.result(quick[0].id).get(0) == 0
