"""The errors that a stranger meets first with a Redis that is not as the URL says, or that no worker listens to."""

from __future__ import annotations

import asyncio

import pytest
from support.ca import Authority, tls_server
from support.first_errors import PASSWORD, raises_soon
from support.servers import RedisServer

from fibo_client import FiboClient, PublishError, RedisOptions, ResultTimeoutError


async def check_call(words: list[str], url: str, **settings: object) -> None:
    """Check what a call says that is not sent."""
    async with FiboClient(url, **settings) as client:
        with raises_soon(PublishError, *words):
            await client.fibonacci(5)


@pytest.fixture(scope="module")
def locked():
    """A Redis that wants a password."""
    with RedisServer(password="right") as server:
        yield server


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("", ["Redis wants a password: redis://:password@host"]),
        (f":{PASSWORD}@", ["Check the user name and the password in the URL"]),
        (f"bob:{PASSWORD}@", ["Check the user name and the password in the URL"]),
    ],
    ids=["no password", "wrong password", "unknown user"],
)
async def test_a_password_that_is_wrong_or_missing_is_told(locked, who, words):
    async with FiboClient(f"redis://{who}127.0.0.1:{locked.port}/0") as client:
        for call in (client.fibonacci(5), client.celery.send_task("x")):
            with raises_soon(PublishError, f"redis://127.0.0.1:{locked.port}/0: ", *words):
                await call


async def test_a_password_for_a_redis_that_has_none_is_told(server):
    await check_call(["has no password: leave it out of the URL"], f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")


async def test_a_database_that_is_not_there_is_told(server):
    await check_call(["DB index is out of range", "0 to 15"], server.database(99999))


async def test_a_redis_that_is_taken_for_a_sentinel_is_told(server):
    url = f"sentinel://127.0.0.1:{server.port}/0"
    await check_call(["no Sentinel, whose port is 26379"], url, redis=RedisOptions(master_name="mymaster"))


async def test_tls_to_a_redis_without_it_is_told(server):
    url = f"rediss://127.0.0.1:{server.port}/0"
    words = ["no connection within 0.3 s", "Does that port speak TLS?", "redis://"]
    await check_call(words, url, io_timeout=0.3)
    async with FiboClient(url, io_timeout=1) as client:
        with raises_soon(ResultTimeoutError, "there is no connection yet", "with TLS or without"):
            await client.fibonacci(5, timeout=0.5)


async def test_a_redis_with_tls_that_is_taken_for_one_without_is_told(tmp_path):
    authority = Authority(tmp_path)
    with tls_server(authority.sign("good", "127.0.0.1"), authority.cert) as (_, port):
        plain = ["closed it at once, without a word: does it want TLS? Then the scheme is rediss://"]
        await check_call(plain, f"redis://127.0.0.1:{port}/0")
        untrusted = ["Give the authority that signed it: ssl_ca_certs"]
        await check_call(untrusted, f"rediss://127.0.0.1:{port}/0")


async def test_that_no_worker_listens_is_told_by_whatever_waits(server):
    async def ask(call) -> None:
        async with FiboClient(server.url) as client:
            words = ["last known state is PENDING", f"No worker listens on {server.url}: start one"]
            with raises_soon(ResultTimeoutError, *words):
                await call(client)

    async def submit(client) -> None:
        await (await client.submit(5)).get(timeout=2)

    await asyncio.gather(
        ask(lambda client: client.fibonacci(5, timeout=2)),
        ask(lambda client: client.fibonacci_many([5, 6], timeout=2)),
        ask(lambda client: client.celery.call("tasks.add", (2, 3), timeout=2)),
        ask(submit),
    )
