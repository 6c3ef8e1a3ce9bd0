"""Every call against a Redis that is not there, or not what it should be, ends in time, with an error that helps.

Times are asserted at ten times their figure. Where a call has a timeout of its own, that of a command is five minutes:
nothing may wait for the latter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
from support.ca import Authority, tls_server
from support.hand import NAME
from support.messages import publish
from support.proxy import Proxy
from support.servers import free_port
from support.silent import garbage, listening, only_greetings
from support.waiting import eventually

from fibo_client import FiboClient, FiboError, PublishUnknownError
from fibo_client.celery import CeleryClient, RedisOptions, RemoteTask
from fibo_client.celery.brokers.redis import GRACE
from fibo_client.celery.cleaner import LAST_COMMAND_TIMEOUT
from fibo_client.celery.redis.server import CLOSE_TIMEOUT
from fibo_client.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Call = Callable[[FiboClient], Awaitable[Any]]

TIMEOUT = 0.3
LATEST = 10 * (TIMEOUT + GRACE)
NEVER = 300.0
CLOSED = 10 * (LAST_COMMAND_TIMEOUT + CLOSE_TIMEOUT)
ADD = RemoteTask[[int, int], int]("proj.add")


async def everything(results: Any) -> list[Any]:
    async with contextlib.AsyncExitStack() as stack:
        each = await stack.enter_async_context(results) if hasattr(results, "__aenter__") else results
        return [item async for item in each]


WITH_TIMEOUT: dict[str, Call] = {
    "fibonacci": lambda fibo: fibo.fibonacci(5, timeout=TIMEOUT),
    "fibonacci_many": lambda fibo: fibo.fibonacci_many([4, 3], timeout=TIMEOUT),
    "stream": lambda fibo: everything(fibo.stream([4, 3], timeout=TIMEOUT)),
    "sqrt": lambda fibo: fibo.sqrt(2, timeout=TIMEOUT),
    "fibo_task": lambda fibo: fibo.fibo_task(4, timeout=TIMEOUT),
    "submit": lambda fibo: fibo.submit(4),
    "submit_many": lambda fibo: fibo.submit_many([4, 3]),
    "send_task": lambda fibo: fibo.celery.send_task(ADD, (2, 3), timeout=TIMEOUT),
    "send_task, retry": lambda fibo: fibo.celery.send_task(ADD, (2, 3), timeout=TIMEOUT, retry=True),
    "send_many": lambda fibo: fibo.celery.send_many([ADD(2, 3)] * 3, timeout=TIMEOUT),
    "call": lambda fibo: fibo.celery.call(ADD, (2, 3), timeout=TIMEOUT),
    "call, task_id": lambda fibo: fibo.celery.call(ADD, (2, 3), timeout=TIMEOUT, task_id="mine"),
    "call_many": lambda fibo: fibo.celery.call_many([ADD(2, 3)] * 3, timeout=TIMEOUT),
    "gather": lambda fibo: fibo.celery.gather([fibo.celery.result("x")], timeout=TIMEOUT),
    "get": lambda fibo: fibo.celery.result("x").get(timeout=TIMEOUT),
    "await": lambda fibo: fibo.celery.result("x"),
    "updates": lambda fibo: everything(fibo.celery.result("x").updates(timeout=TIMEOUT)),
    "ping": lambda fibo: fibo.celery.ping(timeout=TIMEOUT),
    "ping, destination": lambda fibo: fibo.celery.ping(destination=["celery@here"], timeout=TIMEOUT),
    "inspect": lambda fibo: fibo.celery.inspect(timeout=TIMEOUT).active(),
    "diagnose": lambda fibo: fibo.celery.diagnose(fibo.celery.result("x"), timeout=TIMEOUT),
}

WITHOUT_TIMEOUT: dict[str, Call] = {
    "ready": lambda fibo: fibo.ready([fibo.celery.result("x")]),
    "CeleryClient.ready": lambda fibo: fibo.celery.ready([fibo.celery.result("x")]),
    "AsyncResult.ready": lambda fibo: fibo.celery.result("x").ready(),
    "state": lambda fibo: fibo.celery.result("x").state(),
    "get, one look": lambda fibo: fibo.celery.result("x").get(timeout=0),
    "gather, one look": lambda fibo: fibo.celery.gather([fibo.celery.result("x")], timeout=0),
    "revoke": lambda fibo: fibo.celery.revoke(["x"]),
    "AsyncResult.revoke": lambda fibo: fibo.celery.result("x").revoke(),
    "forget": lambda fibo: fibo.celery.result("x").forget(),
    "depth": lambda fibo: fibo.celery.queue_depth(),
}


@contextlib.asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    yield f"redis://127.0.0.1:{free_port()}/0"


@contextlib.asynccontextmanager
async def swallowing() -> AsyncIterator[str]:
    async with listening() as (url, _):
        yield url


@contextlib.asynccontextmanager
async def falling_silent() -> AsyncIterator[str]:
    async with listening(only_greetings) as (url, _):
        yield url.replace("redis://", "redis://:word@")


@contextlib.asynccontextmanager
async def talking_nonsense() -> AsyncIterator[str]:
    async with listening(garbage) as (url, _):
        yield url


FAULTS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "refuses": nobody,
    "never answers": swallowing,
    "answers greetings only": falling_silent,
    "talks nonsense": talking_nonsense,
}

ADVICE = ("is redis running there?", "is that a redis,", "is that the port of a redis", "is it stopped, or very busy")
"""How far a call comes in so little time depends on how busy the machine is; what an error asks, on how far it came."""


async def complaints(call: Call, url: str, **settings: Any) -> list[str]:
    """Make a call with a client of its own. Say what is wrong with how it ends."""
    fibo = await FiboClient(url, **settings).open()
    began = time.monotonic()
    found = []
    (outcome,) = await asyncio.gather(asyncio.wait_for(call(fibo), CLOSED), return_exceptions=True)
    if isinstance(outcome, FiboError):
        message = str(outcome).lower()
        if url.rpartition("@")[2].rpartition("//")[2] not in message:
            found.append(f"does not say where: {outcome}")
        if not any(each in message for each in ADVICE):
            found.append(f"does not say what to do: {outcome}")
    else:
        found.append(f"answers {outcome!r}")
    if (took := time.monotonic() - began) > LATEST:
        found.append(f"took {took:.1f} s")
    began = time.monotonic()
    await fibo.aclose()
    if (took := time.monotonic() - began) > CLOSED:
        found.append(f"took {took:.1f} s to close")
    return found


@pytest.mark.parametrize(
    ("calls", "settings"),
    [(WITH_TIMEOUT, {"timeout": TIMEOUT, "io_timeout": NEVER}), (WITHOUT_TIMEOUT, {"io_timeout": TIMEOUT})],
    ids=["by their own timeout", "by that of commands"],
)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_every_call_ends_in_time_and_says_where_and_what_to_do(fault, calls, settings):
    async with fault() as url:
        found = await asyncio.gather(*(complaints(call, url, **settings) for call in calls.values()))
    assert {name: each for name, each in zip(calls, found, strict=True) if each} == {}


@contextlib.asynccontextmanager
async def stalling(port: int) -> AsyncIterator[Proxy]:
    async with Proxy(port).running() as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def somebody_listens(server: Any) -> AsyncIterator[None]:
    """Listen to questions, and answer none."""
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as listener, listener.pubsub() as pubsub:
        await pubsub.subscribe("/0.celery.pidbox")
        await pubsub.get_message(timeout=10)
        yield


async def asked(hand: Any) -> bool:
    """Whether a question was put."""
    return bool(await hand.redis.keys("*.reply.celery.pidbox"))


async def all_expire(hand: Any) -> bool:
    """Whether everything that was made for answers expires."""
    keys = await hand.redis.keys("*pidbox*")
    return all([await hand.redis.ttl(key) > 0 for key in keys])


QUESTIONS: dict[str, Callable[[CeleryClient, float], Awaitable[Any]]] = {
    "ping": lambda client, seconds: client.ping(timeout=seconds),
    "inspect": lambda client, seconds: client.inspect(timeout=seconds).stats(),
    "diagnose": lambda client, seconds: client.diagnose(client.result("x"), timeout=seconds),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
async def test_a_question_ends_by_its_own_timeout_although_redis_falls_silent_meanwhile(server, hand, ask):
    async with (
        somebody_listens(server),
        stalling(server.port) as proxy,
        CeleryClient(proxy.url(server.url), io_timeout=NEVER) as client,
    ):
        asking = asyncio.ensure_future(ask(client, 1.0))
        await eventually(lambda: asked(hand))
        proxy.stalled = True
        async with asyncio.timeout(10 * (1 + GRACE)):
            with pytest.raises(TransportError, match=r"no (answer|connection) within 1 s. Is it stopped"):
                await asking
        proxy.stalled = False


async def test_a_diagnosis_does_not_wait_for_a_result_store_that_is_silent(server):
    async with falling_silent() as url, CeleryClient(server.url, url, io_timeout=NEVER) as client:
        async with asyncio.timeout(10 * TIMEOUT):
            with pytest.raises(TransportError, match="no answer within"):
                await client.diagnose(client.result("x"), timeout=TIMEOUT)


async def test_a_short_question_to_a_redis_that_is_busy_is_no_outage(server, hand, caplog):
    async with CeleryClient(server.url) as client:
        assert await client.ping(timeout=0.1) == []
        await hand.redis.execute_command("CLIENT", "PAUSE", "900", "ALL")
        with pytest.raises(TransportError, match=r"no answer within 0\.1 s"):
            await client.ping(timeout=0.1)
        await client.send_task("proj.add", (2, 3))
        assert client.stats().reconnects == 0
    assert caplog.messages == []


async def test_a_question_that_is_given_up_holds_nobody_up_while_redis_is_silent(server, hand):
    async with (
        somebody_listens(server),
        stalling(server.port) as proxy,
        CeleryClient(proxy.url(server.url), io_timeout=NEVER) as client,
    ):
        asking = asyncio.create_task(client.ping(timeout=NEVER))
        await eventually(lambda: asked(hand))
        proxy.stalled = True
        asking.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(asking, return_exceptions=True)
        proxy.stalled = False
        assert await client.queue_depth() == 0
        assert await all_expire(hand)


async def test_closing_ends_a_question_that_is_open(server, hand):
    async with somebody_listens(server):
        client = await CeleryClient(server.url).open()
        asking = asyncio.create_task(client.ping(timeout=NEVER))
        await eventually(lambda: asked(hand))
        await client.aclose()
        with pytest.raises(TransportError):
            await asking
        assert await all_expire(hand)


async def test_closing_does_not_wait_long_for_a_redis_that_fell_silent(server, hand):
    async with somebody_listens(server), stalling(server.port) as proxy:
        client = await CeleryClient(proxy.url(server.url), io_timeout=NEVER).open()
        answered = asyncio.create_task(client.call("nobody.knows", timeout=NEVER))
        _, message = await hand.redis.brpop("celery", timeout=10)
        await hand.put(json.loads(message)["headers"]["id"], result=1)
        await answered  # It is to be deleted, and the next one to be revoked.
        cancelled = asyncio.create_task(client.call("nobody.knows", timeout=NEVER))
        await hand.redis.brpop("celery", timeout=10)
        asking = asyncio.create_task(client.ping(timeout=NEVER))
        await eventually(lambda: asked(hand))
        proxy.stalled = True
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        async with asyncio.timeout(CLOSED):
            await client.aclose()
            await asyncio.gather(asking, return_exceptions=True)


async def test_closing_does_not_wait_long_for_the_last_word_of_tls(tmp_path):
    ca = Authority(tmp_path)
    with tls_server(ca.sign("good", "127.0.0.1"), ca.cert) as (_, port):
        async with stalling(port) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}/0"
            client = await CeleryClient(url, redis=RedisOptions(ssl_ca_certs=str(ca.cert))).open()
            await client.ready([client.result("x")])
            proxy.stalled = True
            async with asyncio.timeout(10 * CLOSE_TIMEOUT):  # asyncio would wait for half a minute.
                await client.aclose()


async def test_a_connection_that_is_made_when_the_client_has_closed_is_used_for_nothing(tmp_path):
    ca = Authority(tmp_path)
    with tls_server(ca.sign("good", "127.0.0.1"), ca.cert) as (server, port), server.client() as direct:
        async with stalling(port) as proxy:
            client = await CeleryClient(
                f"rediss://127.0.0.1:{proxy.port}/0", redis=RedisOptions(ssl_ca_certs=str(ca.cert))
            ).open()
            proxy.stalled = True
            asking = asyncio.create_task(client.ping(timeout=NEVER))

            async def connecting() -> bool:
                return proxy.accepted > 0

            await eventually(connecting)
            await client.aclose()
            proxy.stalled = False
            with pytest.raises(TransportError, match="the client was closed"):
                await asking
        assert "cmdstat_publish" not in direct.info("commandstats")


async def test_what_had_not_left_when_time_was_up_does_not_leave_later():
    size = 32 * 1024 * 1024
    read = asyncio.Event()
    taken = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"LIB-VER")
        writer.write(b"+OK\r\n" * 3)  # To what a client says of itself.
        await writer.drain()
        count = 0
        await read.wait()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024 * 1024):
                count += len(data)
        writer.close()
        if not taken.done():
            taken.set_result(count)

    async with await asyncio.start_server(take, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with CeleryClient(f"redis://127.0.0.1:{port}", io_timeout=TIMEOUT) as client:
            with pytest.raises(PublishUnknownError):
                await publish(client._session.broker, "x", size=size)
            read.set()
            async with asyncio.timeout(10):
                assert await taken < size
