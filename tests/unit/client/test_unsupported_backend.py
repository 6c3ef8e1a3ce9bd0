"""Result backends that are no Redis: what is one, what is a mistake, and what asking them for a result says."""

from __future__ import annotations

import traceback

import pytest
from support.servers import free_port

from fibo_client import ConfigError, FiboClient
from fibo_client.celery import CeleryClient
from fibo_client.celery.backends.unsupported import unsupported_reason
from fibo_client.testing import FakeCelery, FakeFibo

SECRET = "xyzzy"
STORES = [
    (f"db+postgresql://app:{SECRET}@host/db", "in db+postgresql,"),
    (f"db+postgresql+psycopg2://app:{SECRET}@host/db", "in db+postgresql,"),
    (f"database+mysql://app:{SECRET}@host/db", "in database+mysql,"),
    (f"cache+memcached://{SECRET}:11211/", "in cache+memcached,"),
    (f"mongodb://app:{SECRET}@host/db", "in mongodb,"),
    ("rpc://", "in rpc,"),
    ("RPC", "in rpc,"),
    ("amqp://", "in amqp,"),
    ("django-db", "in django-db,"),
    ("django-cache", "in django-cache,"),
    ("rediscluster://host:6379/0", "in rediscluster,"),
    ("tarantool://host", "in tarantool,"),
    (f"file:///var/{SECRET}", "in file,"),
    ("shop.results.Store", "elsewhere,"),
    ("shop.results:Store", "elsewhere,"),
    (f"shop.results.Store://{SECRET}", "elsewhere,"),
    (f"{'x' * 30}://{SECRET}", "elsewhere,"),
    ("disabled", "it is disabled"),
    ("disabled://", "it is disabled"),
]


@pytest.mark.parametrize(("url", "words"), STORES)
def test_a_store_that_is_no_redis_is_named_with_what_to_do_and_nothing_more(url, words):
    why = unsupported_reason(url)
    assert words in why
    assert why.startswith("result_backend (or CELERY_RESULT_BACKEND): ")
    assert "Tasks can be sent all the same" in why
    assert "give the URL of that as result_backend=" in why
    assert SECRET not in why


@pytest.mark.parametrize(
    "url",
    [
        None, "", "redis://h", "REDISS://h", "sentinel://h", "redis+socket:///s", "reids://h", "reddis://h",
        "sentinels://h", "unix:///s", "redis+tls://h", "redis", "localhost", "localhost:6379", "127.0.0.1:6379",
        "redis.example:6379", "redis:/h", "://h", f"user:{SECRET.title()}", f"user:{SECRET}@host:6379", f"a:{SECRET}://h",
    ],
)  # fmt: skip
def test_what_is_or_is_meant_to_be_a_redis_is_no_other_store(url):
    assert unsupported_reason(url) is None


@pytest.mark.parametrize("url", ["reids://h", "unix:///s", "localhost", "localhost:6379", "redis", ""])
def test_a_misspelled_redis_is_told_when_the_client_is_made(url):
    with pytest.raises(ConfigError, match="result_backend"):
        CeleryClient("redis://h", url)


ASKING = {
    "call": lambda client: client.celery.call("tasks.add", (2, 3)),
    "call with an id": lambda client: client.celery.call("tasks.add", (2, 3), task_id="id"),
    "get": lambda client: client.celery.result("id").get(),
    "get at once": lambda client: client.celery.result("id").get(timeout=0),
    "ready": lambda client: client.celery.result("id").ready(),
    "ready of many": lambda client: client.ready([client.celery.result("id")]),
    "state": lambda client: client.celery.result("id").state(),
    "updates": lambda client: anext(client.celery.result("id").updates()),
    "forget": lambda client: client.celery.result("id").forget(),
    "gather": lambda client: client.celery.gather([client.celery.result("id")]),
    "fibonacci": lambda client: client.fibonacci(5),
    "fibonacci_many": lambda client: client.fibonacci_many([5, 6]),
    "sqrt": lambda client: client.sqrt(16),
    "fibo_task": lambda client: client.fibo_task(5),
}


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("transport", [None, FakeFibo()], ids=["redis", "double"])
async def test_only_asking_for_a_result_is_an_error_and_comes_before_anything_is_sent_or_read(asking, transport):
    # Nothing listens there: a command, or a connection, would be another error.
    broker = f"redis://127.0.0.1:{free_port()}/0"
    async with FiboClient(broker, f"db+postgresql://app:{SECRET}@host/db", transport=transport) as client:
        with pytest.raises(
            ConfigError, match=r"results are in db\+postgresql, and this client reads a Redis only"
        ) as told:
            await asking(client)
        assert SECRET not in "".join(traceback.format_exception(told.value)) + repr(client) + repr(client.config)
        assert not client.celery._session.broker.health.failures
        assert client.stats().published == 0


def test_a_stream_is_refused_where_it_is_asked_for():
    client = FiboClient("redis://h", "rpc://")
    with pytest.raises(ConfigError, match="results are in rpc"):
        client.stream([1], return_exceptions=True)


async def test_what_was_sent_with_ignore_result_has_none_as_ever():
    async with CeleryClient("redis://h", "disabled://", transport=FakeCelery()) as client:
        handle = await client.send_task("tasks.add", ignore_result=True)
        assert await handle.get() is None


def test_a_redis_that_is_given_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("CELERY_RESULT_BACKEND", f"db+postgresql://app:{SECRET}@host/db")
    assert CeleryClient("redis://h")._session.backend.unreadable is not None
    assert CeleryClient("redis://h", "redis://h/1")._session.backend.unreadable is None
