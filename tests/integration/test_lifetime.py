"""Opening and closing on a real Redis: every order that frameworks and fixtures come up with."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis.asyncio
from support.hand import NAME
from support.servers import free_port
from support.silent import listening
from support.waiting import eventually

from fibo_client import (
    ClientStateError,
    FiboClient,
    MessageError,
    PublishError,
    PublishUnknownError,
    ResultTimeoutError,
    TransportError,
)
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.celery.protocol.control import ControlRequest


@pytest.fixture
async def client(server, hand):
    """A client that is opened in a fixture and closed in its teardown, which pytest runs in another task."""
    async with FiboClient(server.url) as client:
        yield client


async def test_a_client_of_an_async_fixture_works(client, hand):
    await hand.put("a", result="37")
    assert await client.celery.result("a").get(timeout=5) == "37"


async def test_a_client_opened_in_one_task_is_closed_in_another(server, hand):
    client = FiboClient(server.url)
    await asyncio.create_task(client.open())
    await hand.put("a", result=1)
    assert await client.celery.result("a").get(timeout=5) == 1
    await asyncio.create_task(client.aclose())
    await eventually(hand.is_alone)
    assert len(asyncio.all_tasks()) == 1


async def test_closing_twice_and_at_once_is_harmless(server):
    client = FiboClient(server.url)
    await client.open()
    await asyncio.gather(client.aclose(), client.aclose())
    await client.aclose()


async def test_a_client_that_closes_does_not_pause_before_its_last_deletions(server, hand, monkeypatch):
    """They may need a connection, and that it has cut the one for pushes is no failure of the server's."""
    pauses = []

    async def pause(attempts, loop):
        pauses.append(attempts.last_fault)

    monkeypatch.setattr("fibo_client.celery.redis.server.Attempts.pause", pause)
    client = await CeleryClient(server.url).open()
    call = asyncio.create_task(client.call("shop.report"))
    message = await eventually(lambda: hand.redis.lindex("celery", 0))
    task_id = json.loads(message)["headers"]["id"]
    await hand.put(task_id, result=1)
    assert await call == 1
    await client.aclose()
    assert pauses == []
    assert not await hand.redis.exists(f"celery-task-meta-{task_id}")


async def test_closing_does_not_wait_for_a_redis_that_never_answered():
    async with listening() as (url, arrived):
        client = FiboClient(url, io_timeout=300.0)
        await client.open()
        with pytest.raises(ResultTimeoutError):
            await client.fibonacci(10, timeout=0.2)
        async with asyncio.timeout(30):
            await client.aclose()
            await asyncio.gather(*arrived)  # Each connection was closed.
        assert arrived


async def test_use_before_open_and_after_close_says_what_to_do(server):
    client = FiboClient(server.url)
    calls = [
        lambda: client.fibonacci(3),
        lambda: client.fibonacci_many([3]),
        lambda: client.submit_many([3]),
        lambda: client.sqrt(4),
        lambda: client.ready([]),
        lambda: client.celery.ping(),
        lambda: client.celery.send_task("x"),
        lambda: client.celery.revoke("x"),
        lambda: client.celery.gather([]),
        lambda: client.celery.inspect().active(),
        lambda: client.celery.diagnose(client.celery.result("x")),
        lambda: client.celery.result("x").get(),
        lambda: client.celery.result("x").forget(),
        lambda: client.celery.result("x").revoke(),
    ]
    for call in calls:
        with pytest.raises(ClientStateError, match="not opened yet; use it inside `async with`"):
            await call()
    async with client:
        pass
    for call in calls:
        with pytest.raises(ClientStateError, match="closed; make a new one"):
            await call()
    with pytest.raises(ClientStateError, match="make a new one"):
        await client.open()


@pytest.mark.parametrize("sent", [False, True], ids=["just begun", "sent"])
async def test_closing_with_calls_in_flight_ends_them_with_an_error(server, hand, sent):
    client = FiboClient(server.url)
    await client.open()
    calls = [asyncio.create_task(client.fibonacci(n)) for n in range(50)]
    await asyncio.sleep(0)  # They begin.
    if sent:
        await eventually(lambda: hand.redis.llen("celery"))
    await client.aclose()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, (ClientStateError, PublishError, PublishUnknownError))
    await eventually(hand.is_alone)
    assert len(asyncio.all_tasks()) == 1


async def test_closing_during_a_question_to_the_workers_leaves_no_connection(server, hand):
    client = await CeleryClient(server.url).open()
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as listener, listener.pubsub() as pubsub:
        await pubsub.psubscribe("*")  # Somebody listens and does not answer.
        assert await pubsub.get_message(timeout=30)

        async def asked() -> asyncio.Task[object]:
            asking = asyncio.create_task(client._session.broker.ask(ControlRequest(method="ping"), timeout=60))
            assert await pubsub.get_message(timeout=30)
            return asking

        (await asked()).cancel()
        asking = await asked()
        await client.aclose()
        assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], TransportError)
        await eventually(hand.is_alone)


async def test_an_error_inside_async_with_closes_the_client(server, hand):
    async def fail():
        async with CeleryClient(server.url) as client:
            await client.ready([client.result("a")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await eventually(hand.is_alone)


def test_a_client_of_another_event_loop_is_refused(server):
    with asyncio.Runner() as first, asyncio.Runner() as second:
        client = first.run(FiboClient(server.url).open())
        with pytest.raises(ClientStateError, match="another event loop"):
            second.run(client.fibonacci(3))
        with pytest.raises(ClientStateError, match="another event loop"):
            second.run(client.aclose())
        first.run(client.aclose())


def test_each_event_loop_may_have_a_client_of_its_own(server):
    async def ask():
        async with CeleryClient(server.url) as client:
            return await client.ready([client.result("a")])

    assert [asyncio.run(ask()) for _ in range(2)] == [[False], [False]]


async def test_opening_makes_no_connection(server, hand):
    before = await hand.connections()
    async with FiboClient(server.url):
        assert await hand.connections() == before


async def test_the_first_call_says_what_is_wrong():
    async with FiboClient(f"redis://127.0.0.1:{free_port()}/0") as client:
        with pytest.raises(PublishError, match="Is Redis running there"):
            await client.fibonacci(3)
        with pytest.raises(ResultTimeoutError, match=r"PENDING. Results cannot be read at present: .*Is Redis running"):
            await client.celery.result("a").get(timeout=0.2)


@pytest.mark.parametrize(
    ("bad", "error"),
    [(-1, ValueError), (True, TypeError), (3.0, TypeError), ("3", TypeError), (None, TypeError), (10**9, ValueError)],
)
async def test_bad_numbers_are_refused_before_anything_is_sent(client, hand, bad, error):
    for call in (client.fibonacci, client.submit, client.fibo_task):
        with pytest.raises(error):
            await call(bad)
    for call in (client.fibonacci_many, client.submit_many):
        with pytest.raises(error):
            await call([1, bad, 2])
    assert await hand.redis.keys("*") == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [(-1, ValueError), ("4", TypeError), (True, TypeError), (float("nan"), ValueError), (10**400, ValueError)],
)
async def test_bad_square_roots_are_refused_before_anything_is_sent(client, hand, bad, error):
    with pytest.raises(error):
        await client.sqrt(bad)
    assert await hand.redis.keys("*") == []


async def test_a_message_that_no_worker_could_take_is_refused_before_anything_is_sent(client, hand):
    celery = client.celery
    for send in (
        lambda: celery.send_task("x", (float("nan"),)),
        lambda: celery.send_task("x", headers={"id": "y"}),
        lambda: celery.send_task("x", task_id=""),
        lambda: celery.send_task("x", prioritty=3),
        lambda: celery.send_many([RemoteTask("x")(1), RemoteTask("x")(object())]),
        lambda: celery.send_many([RemoteTask("x")(1)], task_id="y"),
        lambda: celery.call("x", ignore_result=True),
        lambda: celery.send_task("x", queue="a\nb"),
        lambda: celery.send_task("", ()),
    ):
        with pytest.raises(MessageError):
            await send()
    assert await hand.redis.keys("*") == []


async def test_repr_shows_where_but_no_secret(server):
    client = FiboClient(f"redis://user:top-secret@127.0.0.1:{server.port}/3")
    text = repr(client) + repr(client.config) + repr(client.celery) + repr(client.celery._session.backend)
    assert f"redis://127.0.0.1:{server.port}/3" in text
    assert "top-secret" not in text
