"""Remote control of a plain Celery worker: with and without prefix, on database 0 and another."""

import asyncio
import contextlib
import json
import uuid
from dataclasses import replace

import celery
import pytest
from support.servers import stock_worker
from support.waiting import eventually

from fibo_client.celery.client import CeleryClient
from fibo_client.celery.inspect import WorkerInfo
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.errors import ResultTimeoutError, TaskRevokedError, TransportError


@pytest.fixture
async def client(side):
    async with side.client() as client:
        yield client


def lasting(side):
    """What there is of answers that would stay for ever: lists without an expiry, and places to answer to."""
    with side.redis() as redis:
        keys = [key for key in redis.scan_iter("*reply*pidbox*") if redis.ttl(key) == -1]
        return {key: redis.smembers(key) if redis.type(key) == b"set" else None for key in keys}


async def test_a_worker_answers_to_ping(side, client):
    assert await client.ping(timeout=10) == [WorkerInfo(side.node)]
    assert await client.inspect(timeout=10).ping() == {side.node: {"ok": "pong"}}


async def test_a_question_ends_as_soon_as_all_who_listen_have_answered(client):
    async with asyncio.timeout(10):
        assert len(await client.ping(timeout=60)) == 1


async def test_only_those_who_are_asked_answer(side, client):
    assert await client.ping(destination=[side.node], timeout=10) == [WorkerInfo(side.node)]
    assert await client.ping(destination=["nobody@nowhere"], timeout=0.2) == []
    assert await client.ping(destination=[side.node, "nobody@nowhere"], timeout=0.5) == [WorkerInfo(side.node)]


async def test_where_nobody_listens_the_answer_comes_at_once(redis_server):
    async with CeleryClient(redis_server.fresh_url()) as client, asyncio.timeout(10):
        assert await client.ping(timeout=60) == []
        assert await client.worker_count() == 0


async def test_workers_that_listen_are_counted(client):
    assert await client.worker_count() == 1


async def test_answers_leave_nothing_behind(side, client):
    before = lasting(side)
    await client.ping(timeout=10)
    await client.inspect(["nobody@nowhere"], timeout=0.05).stats()
    await asyncio.gather(*(client.inspect(timeout=10).active_queues() for _ in range(20)))
    assert lasting(side) == before


async def test_answers_that_come_too_late_leave_nothing_behind(side, client):
    before = lasting(side)
    for tenths in range(40):  # Milliseconds: answers come around the end of a question, and after it.
        with contextlib.suppress(TransportError):  # Redis itself may be too late for so little time.
            await client.inspect(timeout=tenths / 10_000).ping()
    await client.ping(timeout=10)  # The worker answers in order: it is done with those before.
    assert lasting(side) == before


async def test_questions_asked_at_once_get_their_own_answers(side, client):
    ids = [str(uuid.uuid4()) for _ in range(10)]
    inspect = client.inspect(timeout=10)
    pings, queues, *queries = await asyncio.gather(
        inspect.ping(), inspect.active_queues(), *(inspect.query_task(each) for each in ids)
    )
    assert pings == {side.node: {"ok": "pong"}}
    assert queues[side.node][0]["name"] == "celery"
    assert queries == [{side.node: {}}] * 10


@pytest.mark.parametrize("method", ["ping", "registered", "stats", "active_queues", "conf"])
async def test_a_worker_tells_us_what_it_tells_celerys_own_client(side, client, method):
    ours = await getattr(client.inspect(timeout=10), method)()
    with side.celery() as app:
        inspect = app.control.inspect(timeout=10, limit=1)
        theirs = getattr(inspect, method)()
    if method == "stats":  # Counters and clocks go on.
        assert ours[side.node].keys() == theirs[side.node].keys()
        assert ours[side.node]["pid"] == theirs[side.node]["pid"] == side.process.pid
    else:
        assert ours == theirs
    assert ours.keys() == {side.node}


@pytest.mark.parametrize("items", [(), ("ignore_result",), ("max_retries", "no_such", "ignore_result")])
async def test_a_worker_tells_us_of_its_tasks_what_it_tells_celerys_own_client_of_them(side, client, items):
    ours = await client.inspect(timeout=10).registered(*items)
    with side.celery() as app:
        assert ours == app.control.inspect(timeout=10, limit=1).registered(*items)
    for task, ignored in (("stock.add", False), ("stock.forgetful", True)):
        (told,) = [each for each in ours[side.node] if each.split()[0] == task]
        assert (f"ignore_result={ignored}]" in told) is ("ignore_result" in items)


async def test_a_worker_lists_tasks_by_what_it_does_with_them(side, client):
    """One runs in each process of the worker, one waits, one is for later; all are asked for by id too."""
    inspect = client.inspect(timeout=10)
    processes = 2 if side.node.startswith("stock") else 1
    running = [await client.send_task("stock.sleep", [60]) for _ in range(processes)]
    await eventually(lambda: have(inspect.active(), side.node, running), "not all are running")
    waiting = await client.send_task("stock.sleep", [60])
    later = await client.send_task("stock.add", [1, 1], countdown=600)
    every = [*running, waiting, later]
    try:
        await eventually(lambda: have(inspect.reserved(), side.node, [waiting]), "none waits")
        await eventually(lambda: have(inspect.scheduled(), side.node, [later], "request"), "none is for later")
        queried = (await inspect.query_task(every))[side.node]
        states = {task_id: state for task_id, (state, _) in queried.items()}
        assert states == {
            **{result.id: "active" for result in running},
            waiting.id: "reserved",
            later.id: "scheduled",
        }
        for one in (later, later.id, [later.id]):
            assert await inspect.query_task(one) == await celerys_answer(side, later.id)
        assert (await inspect.query_task(waiting.id, [later, "unknown"]))[side.node].keys() == {waiting.id, later.id}
        active = await inspect.active()
        assert {task["args"] == [60] and task["name"] == "stock.sleep" for task in active[side.node]} == {True}
        diagnosis = await client.diagnose(running[0], timeout=10)
        assert diagnosis.held == {side.node: "active"}
        assert diagnosis.listening == diagnosis.registered == (side.node,)
    finally:
        assert await client.revoke(every, terminate=True) == 1
    for result in every:
        with pytest.raises(TaskRevokedError):
            await result.get(timeout=20)


async def celerys_answer(side, task_id):
    def ask():
        with side.celery() as app:
            return app.control.inspect(timeout=10, limit=1).query_task(task_id)

    return await asyncio.to_thread(ask)


SECRETIVE = RemoteTask("stock.sleep", argsrepr="('anna', ***)")


@pytest.mark.parametrize(
    ("settings", "task", "options", "shown"),
    [
        (None, "stock.sleep", {"argsrepr": "('anna', ***)"}, "('anna', ***)"),
        ({}, "stock.sleep", {"argsrepr": "('anna', ***)"}, "('anna', ***)"),
        ({}, SECRETIVE, {}, "('anna', ***)"),
        ({"hide_arguments": True}, "stock.sleep", {}, "<hidden>"),
    ],
    ids=["by celerys own call", "by the call", "by the task", "by the setting"],
)
async def test_a_worker_shows_of_arguments_what_it_was_told_to_show(side, settings, task, options, shown):
    def send_with_celery():
        with side.celery() as app:
            return app.send_task(task, (60,), **options).id

    async with side.client(**settings or {}) as client:
        if settings is None:
            sent = client.result(await asyncio.to_thread(send_with_celery))
        else:
            sent = await client.send_task(task, (60,), **options)
        inspect = client.inspect(timeout=10)
        await eventually(lambda: have(inspect.active(), side.node, [sent]), "it does not run")
        (told,) = (await inspect.active(safe=True))[side.node]
        assert (told["id"], told["args"]) == (sent.id, shown)
        await client.revoke(sent, terminate=True)
        with pytest.raises(TaskRevokedError):
            await sent.get(timeout=20)


async def have(question, node, results, inside=None):
    tasks = (await question)[node]
    ids = {(task[inside] if inside else task)["id"] for task in tasks}
    return ids >= {result.id for result in results}


async def test_a_running_task_is_ended_if_asked_for_and_not_otherwise(side, client):
    result = await client.send_task("stock.sleep", [60])
    inspect = client.inspect(timeout=10)
    await eventually(lambda: have(inspect.active(), side.node, [result]), "it does not run")
    assert await result.revoke() == 1
    with pytest.raises(ResultTimeoutError):
        await result.get(timeout=0.5)
    assert await result.revoke(terminate=True, signal="SIGKILL") == 1
    with pytest.raises(TaskRevokedError) as caught:
        await result.get(timeout=20)
    assert caught.value.reason == "terminated"


async def test_a_task_that_has_not_been_sent_yet_is_revoked_by_its_id(client):
    task_id = str(uuid.uuid4())
    assert await client.revoke(task_id) == 1
    with pytest.raises(TaskRevokedError) as caught:
        await client.result(task_id).get(timeout=20)
    assert caught.value.reason == "revoked"


async def test_celerys_own_questions_are_answered_beside_ours(side, client):
    def ping():
        with side.celery() as app:
            return app.control.ping(timeout=2, limit=1)

    theirs, ours = await asyncio.gather(asyncio.to_thread(ping), client.ping(timeout=10))
    assert theirs == [{side.node: {"ok": "pong"}}]
    assert ours == [WorkerInfo(side.node)]


async def test_a_retried_task_shows_its_arguments_also_where_celerys_own_client_hid_them(plain):
    with plain.celery() as app, plain.redis() as redis:
        app.send_task("stock.retry_in", ("secret",), argsrepr="(***)")
        async with plain.client() as client:
            await client.send_task("stock.retry_in", ("secret",), argsrepr="(***)")
        for _ in range(2):
            _, message = await asyncio.to_thread(redis.brpop, "secret", 20)
            assert json.loads(message)["headers"]["argsrepr"] == "('secret',)"


async def held_by(client, handle, node):
    return (await client.diagnose(handle, timeout=10)).workers == (node,)


@pytest.mark.parametrize(
    ("conf", "ours"),
    [
        ({"fanout_prefix": False}, RedisOptions(fanout_prefix=False)),
        (
            {"fanout_prefix": "/here{db}.", "global_keyprefix": "pfx:"},
            RedisOptions(fanout_prefix="/here{db}.", broker_prefix="pfx:"),
        ),
    ],
    ids=["none", "of one's own"],
)
async def test_a_worker_with_another_fanout_prefix_is_reached_by_who_has_the_same(redis_server, conf, ours):
    url = redis_server.fresh_url()
    conf = {"broker_transport_options": conf}
    with stock_worker(url, conf=conf, name="fanned") as process:
        async with CeleryClient(url, timeout=20, redis=ours) as client:
            assert await eventually(lambda: client.ping(timeout=1)) == [WorkerInfo(process.node)]
            assert await client.call("stock.add", (2, 3)) == 5
            handle = await client.send_task("stock.sleep", (0,), countdown=600)
            await eventually(lambda: held_by(client, handle, process.node))
            assert await handle.revoke() == 1
            with pytest.raises(TaskRevokedError):
                await handle.get()
        with celery.Celery("contract", broker=url, set_as_current=False) as app:
            app.conf.update(conf)
            assert app.control.ping(timeout=10, limit=1) == [{process.node: {"ok": "pong"}}]
        async with CeleryClient(url, redis=replace(ours, fanout_prefix=True)) as another:
            assert await another.ping(timeout=10) == []
