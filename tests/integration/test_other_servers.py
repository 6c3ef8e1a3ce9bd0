"""Servers that are not as usual: one that refuses several keys in a command, and those that speak RESP2 alone."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio
from support.hand import NAME, Hand
from support.messages import publish
from support.servers import RedisServer, free_port
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.celery.brokers.base import Place
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.errors import ResultTooLargeError, TransportError

ADD = RemoteTask[[int, int], int]("stock.add")
SOON = 10.0
APART = [f"id-{n}" for n in range(10)]
"""Ids whose keys are in several slots."""
HIGHEST = 55_536
"""A Redis in cluster mode listens on the port that is 10000 higher, too."""
LOOK_LIKE_PUSHES = (b"message", b"subscribe", b"unsubscribe")


@pytest.fixture(scope="module")
def cluster():
    """A Redis in cluster mode, which serves all slots alone."""
    port = next(port for port in iter(free_port, None) if port < HIGHEST)
    with RedisServer(port=port, options={"cluster-enabled": "yes"}) as server:
        with server.client() as direct:
            for first in range(0, 16384, 4096):  # Redis 6.2 takes them one by one.
                direct.execute_command("CLUSTER ADDSLOTS", *range(first, first + 4096))
        yield server


@pytest.fixture
async def in_cluster(cluster):
    """A hand on it, and a backend of it."""
    async with redis.asyncio.Redis.from_url(cluster.url, client_name=NAME) as client:
        await eventually(lambda: serves(client))
        await client.flushall()
        await client.config_resetstat()
        broker, backend = connect(CeleryConfig(broker_url=cluster.url, max_result_bytes=100_000))
        yield Hand(client), backend
        await broker.aclose()
        await backend.aclose()


async def serves(client):
    return (await client.execute_command("CLUSTER INFO"))["cluster_state"] == "ok"


async def refused(hand):
    """How often each command was refused."""
    stats = await hand.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): n for name, each in stats.items() if (n := each["rejected_calls"])}


async def store(hand, task_id, value):
    """Store a result and publish it, one after the other."""
    await hand.redis.set(f"celery-task-meta-{task_id}", value)
    await hand.redis.publish(f"celery-task-meta-{task_id}", value)


async def test_a_server_that_refuses_keys_of_several_slots_is_read_key_by_key_from_then_on(in_cluster):
    hand, backend = in_cluster
    for task_id in APART[::2]:
        await store(hand, task_id, task_id.encode())
    wanted = [each.encode() if n % 2 == 0 else None for n, each in enumerate(APART)]
    for _ in range(3):
        assert await backend.get_many(APART) == wanted
    assert (await hand.commands())["get"] == 3 * len(APART)
    assert await refused(hand) == {"mget": 1}


async def test_such_a_server_has_its_results_deleted_key_by_key(in_cluster):
    hand, backend = in_cluster
    for task_id in APART:
        await store(hand, task_id, b"x")
    await backend.delete_many(APART)
    await backend.delete_many(APART)  # None is there any more.
    assert await backend.get_many(APART) == [None] * len(APART)
    assert (await hand.commands())["unlink"] == 2 * len(APART)
    assert await refused(hand) == {"unlink": 1}  # By the first read it is known.


async def test_what_is_too_large_fails_alone_there_too(in_cluster):
    hand, backend = in_cluster
    for task_id in APART:
        await store(hand, task_id, b"x")
    await store(hand, APART[3], bytes(1_000_000))
    values = await backend.get_many(APART)
    assert isinstance(values.pop(3), ResultTooLargeError)
    assert values == [b"x"] * 9


class Listener:
    """Notes what is pushed."""

    def __init__(self) -> None:
        self.events = []
        self.looks = asyncio.Queue()
        self.gone = asyncio.Queue()

    def subscribed(self, task_ids, stored) -> None:
        self.looks.put_nowait(stored)

    def pushed(self, task_id, payload) -> None:
        self.events.append((task_id, payload))

    def lost(self, error) -> None:
        self.gone.put_nowait(error)


async def subscribed(backend, task_ids):
    """Subscribe to ids; give the listener, and what was stored, or None."""
    listener = Listener()
    subscription = await backend.subscribe(listener)
    subscription.update(task_ids, [], look=True)
    return listener, await asyncio.wait_for(listener.looks.get(), SOON)


async def test_such_a_server_pushes_results_and_leaves_it_to_the_caller_to_read_what_was_there(in_cluster):
    hand, backend = in_cluster
    listener, stored = await subscribed(backend, APART)
    assert stored is None
    for task_id in APART:
        await store(hand, task_id, b"x")
    await eventually(lambda: len(listener.events) == len(APART))
    assert listener.events == [(task_id, b"x") for task_id in APART]


async def test_any_other_refusal_to_read_or_delete_is_told(hand, server):
    await hand.redis.acl_setuser(
        "writer", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-mget", "-unlink"]
    )
    try:
        broker, backend = connect(CeleryConfig(broker_url=server.url.replace("://", "://writer:any@")))
        for ask in (backend.get_many, backend.delete_many):
            with pytest.raises(TransportError, match="NOPERM") as caught:
                await ask(["a", "b"])
            assert caught.value.refused
        await broker.aclose()
        await backend.aclose()
    finally:
        await hand.redis.acl_deluser("writer")
    assert "get" not in await hand.commands()


# RESP2.


@pytest.fixture(scope="module", params=["by the URL", "by the server"])
def resp2(request):
    """A Redis with which RESP2 is spoken, and the query of its URLs."""
    if request.param == "by the URL":
        with RedisServer() as server:
            yield server, "?protocol=2"
    else:
        with RedisServer(options={"rename-command": 'HELLO ""'}) as server:
            yield server, ""


@pytest.fixture
async def old(resp2):
    """A hand on it, and a URL of an empty database."""
    server, query = resp2
    async with redis.asyncio.Redis.from_url(f"{server.url}?protocol=2", client_name=NAME) as client:
        await client.flushall()
        yield Hand(client), f"{server.url}{query}"


async def test_over_resp2_calls_have_their_answers_pushed(stock):
    async with CeleryClient(f"{stock.url}?protocol=2", timeout=20) as client:
        assert await client.call(ADD, (1, 2)) == 3
        assert await asyncio.gather(*(client.call(ADD, (n, 1)) for n in range(100))) == list(range(1, 101))
        assert await client.call_many([ADD(n, 2) for n in range(50)]) == list(range(2, 52))
        assert await client.call("stock.sleep", (0.5,)) == 0.5
        assert client.stats().reconnects == 0
        assert client.stats().pushes > 0
        assert await client.ping()


async def test_over_resp2_there_are_three_connections_and_none_speaks_resp3(old):
    hand, url = old
    async with CeleryClient(url) as client:
        waiting = asyncio.create_task(client.result("a").get(timeout=SOON))
        await client.send_task("nobody.knows")
        await eventually(hand.channels)
        clients = [each for each in await hand.redis.client_list() if each["name"] != NAME]
        assert len(clients) == 3
        assert {each.get("resp", "2") for each in clients} == {"2"}
        await hand.put("a", result=1)
        assert await waiting == 1


async def test_over_resp2_what_was_stored_before_is_read_once_the_subscription_is_confirmed(old):
    hand, url = old
    await hand.put("a", result=1, publish=False)
    async with CeleryClient(url) as client:
        assert await client.result("a").get(timeout=SOON) == 1
        waiting = asyncio.create_task(client.result("b").get(timeout=SOON))
        await eventually(hand.channels)
        await hand.put("b", result=2, publish=False)
        assert await waiting == 2


async def test_over_resp2_an_idle_subscription_is_asked_for_signs_of_life_and_stays(old, monkeypatch):
    monkeypatch.setattr("fibo_client.celery.redis.link.IDLE", 0.0)
    hand, url = old
    async with CeleryClient(url) as client:
        waiting = asyncio.create_task(client.result("a").get(timeout=30))
        await eventually(hand.channels)
        await hand.redis.config_resetstat()

        async def asked():
            return (await hand.commands()).get("ping", 0) >= 2

        await eventually(asked)
        await hand.put("a", result=1)
        assert await waiting == 1
        assert client.stats().reconnects == 0


@pytest.mark.parametrize("value", LOOK_LIKE_PUSHES)
async def test_over_resp2_no_stored_value_is_taken_for_a_push(old, value):
    hand, url = old
    broker, backend = connect(CeleryConfig(broker_url=url, io_timeout=2))
    listener, _ = await subscribed(backend, ["x"])
    await hand.put_bytes("a", value)
    await hand.put_bytes("b", b"B")
    assert await backend.get_many(["a", "b"]) == [value, b"B"]
    assert await backend.get_many(["b"]) == [b"B"]
    await hand.redis.lpush("celery", value, value)
    assert await broker.locate("celery", "a", timeout=SOON) == Place(2, None, complete=True)
    await hand.redis.delete("celery")
    await publish(broker, "a")
    assert listener.events == []
    await broker.aclose()
    await backend.aclose()


async def test_over_resp2_a_value_that_looks_like_a_push_is_pushed_as_it_is(old):
    hand, url = old
    broker, backend = connect(CeleryConfig(broker_url=url))
    listener, _ = await subscribed(backend, ["message", "subscribe"])
    for task_id in ("message", "subscribe"):
        for value in LOOK_LIKE_PUSHES:
            await hand.put_bytes(task_id, value)
    await eventually(lambda: len(listener.events) == 6)
    assert listener.events == [(task_id, each) for task_id in ("message", "subscribe") for each in LOOK_LIKE_PUSHES]
    await broker.aclose()
    await backend.aclose()


async def test_over_resp2_what_may_not_be_subscribed_to_is_refused(old):
    hand, url = old
    await hand.redis.acl_setuser("deaf", enabled=True, nopass=True, keys=["*"], commands=["+@all"], reset_channels=True)
    try:
        broker, backend = connect(CeleryConfig(broker_url=url.replace("://", "://deaf:any@")))
        listener = Listener()
        subscription = await backend.subscribe(listener)
        subscription.update(["a", "b"], [], look=True)
        error = await asyncio.wait_for(listener.gone.get(), SOON)
        assert isinstance(error, TransportError)
        assert error.refused
        assert "NOPERM" in str(error)
        await broker.aclose()
        await backend.aclose()
    finally:
        await hand.redis.acl_deluser("deaf")
