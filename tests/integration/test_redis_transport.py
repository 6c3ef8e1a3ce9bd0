"""What only Redis can do: which commands are sent, over how many connections, and what is said when Redis says no.

What every transport promises is in test_transport.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
import traceback
from contextlib import asynccontextmanager

import hiredis
import pytest
import redis as redis_py
from support.ca import Authority, speaks_tls, tls_server
from support.hostile_text import ESCAPES, check
from support.messages import publish
from support.servers import RedisServer, free_port
from support.silent import listening, turning_away
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.celery.brokers.base import Place
from fibo_client.celery.brokers.redis import PORTION
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.redis.errors import RedisFaultError
from fibo_client.celery.redis.server import RedisServer as RedisServerLinks
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import PublishError, PublishUnknownError, ReadError, ResultTimeoutError, TransportError
from fibo_client.text import LONGEST
from fibo_worker.dev import find_redis_server


@asynccontextmanager
async def opened(url, **settings):
    broker, backend = connect(CeleryConfig(broker_url=url, **settings))
    try:
        yield broker, backend
    finally:
        await broker.aclose()
        await backend.aclose()


async def test_many_messages_leave_in_one_command(server, hand):
    async with opened(server.url) as (broker, _):
        await publish(broker, "a", "b", "c")
    elements = await hand.redis.lrange("celery", 0, -1)
    assert [json.loads(each)["headers"]["id"] for each in elements] == ["c", "b", "a"]  # Workers take from the right.
    assert (await hand.commands())["lpush"] == 1


async def test_many_results_come_and_go_in_one_command(server, hand):
    async with opened(server.url) as (_, backend):
        await backend.get_many(["a", "b", "c"])
        await backend.delete_many(["a", "b", "c"])
    commands = await hand.commands()
    assert (commands["mget"], commands["unlink"]) == (1, 1)


async def test_whatever_is_done_at_once_there_are_three_connections_at_most(server, hand):
    async with opened(server.url, result_backend=server.url) as (broker, backend):
        await asyncio.gather(
            *(broker.depth("celery") for _ in range(100)),
            *(backend.get_many([str(number)]) for number in range(100)),
            *(publish(broker, str(number)) for number in range(100)),
            *(broker.ask(ControlRequest(method="ping"), timeout=0.1) for _ in range(10)),
            backend.subscribe(Listener()),
        )
        assert len(await hand.connections()) == 3


async def test_two_databases_of_one_server_have_three_connections_for_calls(server, hand):
    async with CeleryClient(server.database(1), server.database(2)) as client:
        with pytest.raises(ResultTimeoutError):
            await client.call("nobody.knows", timeout=0.3)
        assert len(await hand.connections()) == 3


async def test_a_connection_that_was_closed_while_nobody_used_it_is_replaced_without_a_fault(server, hand):
    async with opened(server.url) as (broker, _):
        await publish(broker, "a")
        connection = broker._redis.sending._connection
        await hand.redis.client_kill_filter(_id=(await hand.connections()).pop())
        await eventually(lambda: connection.is_lost)
        await publish(broker, "b")
        assert await hand.redis.llen("celery") == 2
        assert len(await hand.connections()) == 1


class Listener:
    """Is told of what is pushed, and takes no interest."""

    def pushed(self, task_id, payload) -> None:
        """Do nothing."""

    def subscribed(self, task_ids, stored) -> None:
        """Do nothing."""

    def lost(self, error) -> None:
        """Do nothing."""


class Relay:
    """Stands between a client and Redis, and can forget the connections that it has, as a firewall does."""

    def __init__(self, port: int) -> None:
        self.redis_port = port
        self.known: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.forget()
            for writer in self.writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)

    async def _accept(self, reader, writer):
        others = await asyncio.open_connection("127.0.0.1", self.redis_port)
        self.writers += (writer, others[1])
        for source, sink in ((reader, others[1]), (others[0], writer)):
            self.known.append(asyncio.create_task(self._pass_on(source, sink)))

    async def _pass_on(self, source, sink):
        while data := await source.read(65536):
            sink.write(data)

    def forget(self):
        for each in self.known:
            each.cancel()
        self.known.clear()


async def test_a_connection_that_was_forgotten_on_the_way_is_found_out_before_use(server, hand, monkeypatch):
    monkeypatch.setattr("fibo_client.celery.redis.link.FRESH_FOR", 0.05)
    monkeypatch.setattr("fibo_client.celery.redis.link.PING_TIMEOUT", 0.2)
    relay = Relay(server.port)
    async with relay.running() as port:
        url = f"redis://127.0.0.1:{port}/{server.url.rpartition('/')[2]}"
        async with opened(url) as (broker, backend):
            await publish(broker, "a")
            await backend.get_many(["a"])
            relay.forget()
            await asyncio.sleep(0.1)  # Nothing is heard of it for longer than it is held to be well.
            await publish(broker, "sent")
            assert await backend.get_many(["a"]) == [None]
            assert await hand.redis.llen("celery") == 2


async def test_a_silent_connection_is_replaced_where_another_can_be_had(server, monkeypatch):
    monkeypatch.setattr("fibo_client.celery.redis.connection.SUSPECT_AFTER", 0.1)
    relay = Relay(server.port)
    async with relay.running() as port:
        url = f"redis://127.0.0.1:{port}/{server.url.rpartition('/')[2]}"
        async with opened(url, io_timeout=60) as (broker, backend):
            await publish(broker, "a")
            await backend.get_many(["a"])
            relay.forget()
            lost = asyncio.create_task(publish(broker, "lost"))
            assert await backend.get_many(["a"]) == [None]  # It is asked again on the other one.
            await publish(broker, "sent")
            assert not lost.done()  # Its answer may still come.
        with pytest.raises(PublishUnknownError):
            await lost


async def test_a_cancelled_command_never_leaves_its_answer_to_the_next(server):
    redis = RedisServerLinks(parse_url(server.url, RedisOptions(), role="broker_url"), CeleryConfig())
    for number in range(100):
        command = asyncio.create_task(redis.reading.execute(("ECHO", f"cancelled {number}")))
        for _ in range(number % 5):
            await asyncio.sleep(0)  # A step further.
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
        assert await redis.reading.execute(("ECHO", f"asked {number}")) == [f"asked {number}".encode()]
    await redis.aclose()


async def test_a_closed_server_makes_no_more_connections(server):
    redis = RedisServerLinks(parse_url(server.url, RedisOptions(), role="broker_url"), CeleryConfig())
    await redis.reading.execute(("PING",))
    await redis.aclose()
    with pytest.raises(RedisFaultError, match="the client was closed") as caught:
        await redis.reading.execute(("PING",))
    assert caught.value.outcome == "unsent"


async def test_an_unreachable_redis_is_named_and_nothing_was_sent():
    port = free_port()
    async with opened(f"redis://:secret@127.0.0.1:{port}/0") as (broker, backend):
        with pytest.raises(PublishError, match=f"redis://127.0.0.1:{port}/0.*Is Redis running there") as caught:
            await publish(broker, "a")
        with pytest.raises(ReadError, match="Is Redis running there"):
            await backend.get_many(["a"])
        with pytest.raises(TransportError):
            await backend.subscribe(Listener())
    assert not caught.value.refused
    assert "secret" not in str(caught.value)


async def test_where_nobody_has_said_where_redis_is_an_error_says_how_to(monkeypatch):
    url = f"redis://localhost:{free_port()}/0"
    monkeypatch.setattr("fibo_client.celery.redis.server.DEFAULT_BROKER_URL", url)
    async with opened(url) as (broker, _):
        with pytest.raises(PublishError, match=r"there\? `fibo-worker dev` starts .* CELERY_BROKER_URL, or broker_url"):
            await publish(broker, "a")
    async with opened(f"redis://127.0.0.1:{free_port()}/0") as (broker, _):
        with pytest.raises(PublishError, match=r"Is Redis running there\?$"):
            await publish(broker, "a")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.ping(),
        lambda client: client.inspect().stats(),
        lambda client: client.diagnose(client.result("a")),
        lambda client: client.result("a").revoke(),
        lambda client: client.result("a").forget(),
        lambda client: client.queue_depth(),
    ],
    ids=["ping", "inspect", "diagnose", "revoke", "forget", "depth"],
)
async def test_what_cannot_be_asked_is_an_error_that_callers_know_with_a_short_history(ask):
    async with CeleryClient(f"redis://127.0.0.1:{free_port()}/0") as client:
        with pytest.raises(TransportError, match="Is Redis running there") as caught:
            await ask(client)
    error = caught.value
    assert type(error) is TransportError
    assert isinstance(error.__cause__, OSError)
    assert (error.__cause__.__cause__, error.__cause__.__context__, error.__cause__.__traceback__) == (None, None, None)


async def test_that_redis_refused_is_told_as_such(server):
    async with CeleryClient(server.url.replace("://", "://nobody:no-such-password@")) as client:
        with pytest.raises(TransportError) as refused:
            await client.ping()
    assert refused.value.refused


async def test_no_refusal_acts_on_a_terminal_or_is_endless_in_a_traceback():
    refusal = f"-LOADING {ESCAPES}\u202e{'x' * 100_000}\r\n".encode()
    async with listening(lambda _: refusal) as (url, _), CeleryClient(url, push=False) as client:
        with pytest.raises(TransportError) as caught:
            await client.ping()
    assert isinstance(caught.value.__cause__, hiredis.ReplyError)
    check("".join(traceback.format_exception(caught.value, limit=0)), 3 * LONGEST, "\n")


async def test_a_question_that_could_not_be_put_is_not_followed_by_another_wait_for_a_connection():
    async with listening() as (url, arrived), CeleryClient(url, io_timeout=0.2, push=False) as client:
        with pytest.raises(TransportError, match=r"no connection within 0\.2 s"):
            await client.ping()
    assert len(arrived) == 1


async def test_a_search_that_has_no_time_left_says_that_not_all_was_looked_at(server, hand):
    await hand.redis.lpush("celery", *["a message"] * (PORTION + 1))
    async with opened(server.url) as (broker, _):
        assert await broker.locate("celery", "a", timeout=0) == Place(PORTION + 1, None, complete=False)


async def test_a_search_looks_at_the_oldest_even_where_connecting_took_all_of_the_time(server):
    async with opened(server.url) as (broker, _):
        await publish(broker, "a", queue="searched")
        assert await broker.locate("searched", "a", timeout=0) == Place(1, 0, complete=True)


async def test_an_unknown_host_is_named():
    async with opened("redis://no-such-host.invalid/0") as (broker, _):
        with pytest.raises(PublishError, match=r"no-such-host\.invalid"):
            await publish(broker, "a")


async def test_a_refused_command_leaves_the_connection_usable(server, hand):
    await hand.redis.set("celery", "not a list")
    async with opened(server.url) as (broker, _):
        with pytest.raises(PublishError, match="WRONGTYPE") as caught:
            await publish(broker, "a")
        before = await hand.connections()
        await publish(broker, "a", queue="other")
        assert await hand.connections() == before
    assert caught.value.refused


async def test_a_full_redis_is_named_and_the_task_was_not_sent(server, hand):
    await hand.redis.config_set("maxmemory", "1")
    try:
        async with opened(server.url) as (broker, _):
            with pytest.raises(PublishError, match=r"OOM|maxmemory") as caught:
                await publish(broker, "a")
        assert caught.value.refused
    finally:
        await hand.redis.config_set("maxmemory", "0")


async def test_a_redis_that_does_not_answer_leaves_it_open_whether_the_task_was_sent(server, hand):
    async with opened(server.url, io_timeout=0.2) as (broker, backend):
        await broker.prepare()
        await hand.redis.client_pause(60_000, all=False)  # whatever writes
        began = time.monotonic()
        with pytest.raises(PublishUnknownError, match=r"no answer within 0\.2 s") as caught:
            await publish(broker, "a")
        assert time.monotonic() - began < 2.0
        assert caught.value.task_ids == ("a",)
        await hand.redis.client_unpause()
        assert await backend.get_many(["a"]) == [None]


async def test_a_server_that_accepts_and_never_answers_costs_the_time_limit_only():
    async def swallow(reader, writer):
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    began = time.monotonic()
    async with opened(f"redis://127.0.0.1:{port}/1", io_timeout=0.2) as (broker, _):
        with pytest.raises(PublishError, match="no connection within"):
            await publish(broker, "a")
    assert time.monotonic() - began < 2.0
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
async def test_wrong_credentials_are_explained_without_showing_them(credentials):
    with RedisServer(password="right-secret") as server:
        url = f"redis://{credentials}127.0.0.1:{server.port}/0"
        async with opened(url) as (broker, _):
            with pytest.raises(PublishError, match=r"Check the user name|wants a password") as caught:
                await publish(broker, "a")
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
        async with opened(server.url) as (broker, _):
            assert await broker.depth("celery") == 0


async def test_a_database_that_does_not_exist_is_named(server):
    async with opened(f"redis://127.0.0.1:{server.port}/99999") as (broker, _):
        with pytest.raises(PublishError, match="/99999"):
            await publish(broker, "a")


async def test_a_unix_socket_works(tmp_path):
    path = tmp_path / "redis.sock"
    with RedisServer(options={"unixsocket": str(path)}):
        async with CeleryClient(f"redis+socket://{path}?virtual_host=3") as client:
            handle = await client.send_task("nobody.knows")
            assert await handle.ready() is False
            assert await client.queue_depth() == 1
        with redis_py.Redis(unix_socket_path=str(path), db=3) as direct:
            assert direct.llen("celery") == 1


PROTECTED = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
    b"default user. In this mode connections are only accepted from the loopback interface. If you want to connect "
    b"from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode\r\n"
)
FULL = b"-ERR max number of clients reached\r\n"
PROTECTED_WORDS = ["DENIED Redis is running in protected mode", "a password (requirepass)", "redis://:password@host"]
FULL_WORDS = ["max number of clients reached. Raise its maxclients"]


def check_words(error: TransportError, words: list[str]) -> None:
    for word in words:
        assert word in str(error)
    assert "TLS" not in str(error)
    assert "disable" not in str(error)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis://127.0.0.1:{}/3", "redis://u:pw@127.0.0.1:{}/3"])
@pytest.mark.parametrize(("said", "words"), [(PROTECTED, PROTECTED_WORDS), (FULL, FULL_WORDS)])
async def test_what_a_server_says_before_it_closes_is_told(said, words, url):
    with turning_away(said) as port:
        for _ in range(20):  # Who is first to speak differs from time to time.
            async with CeleryClient(url.format(port)) as client:
                with pytest.raises(PublishError) as caught:
                    await client.send_task("nobody.knows")
            check_words(caught.value, words)


async def test_a_server_that_has_reached_its_maxclients_is_told():
    with RedisServer() as server, server.client() as direct:
        direct.config_set("maxclients", "1")
        for db in (0, 3):
            async with CeleryClient(server.database(db)) as client:
                with pytest.raises(PublishError) as caught:
                    await client.send_task("nobody.knows")
                assert not caught.value.refused
                check_words(caught.value, FULL_WORDS)


async def test_a_server_with_tls_that_has_reached_its_maxclients_says_nothing_and_both_are_asked(tmp_path):
    authority = Authority(tmp_path)
    with tls_server(authority.sign("good", "127.0.0.1"), authority.cert) as (server, port), server.client() as direct:
        direct.config_set("maxclients", "1")
        # A Redis that speaks TLS itself says nothing; behind the relay its word may come through.
        both = r"ssl_certfile.*maxclients" if speaks_tls() else "maxclients"
        async with CeleryClient(
            f"rediss://127.0.0.1:{port}/0", redis=RedisOptions(ssl_ca_certs=str(authority.cert))
        ) as client:
            with pytest.raises(PublishError, match=both) as caught:
                await client.send_task("nobody.knows")
            assert not caught.value.refused


async def test_who_is_connected_can_be_seen_in_the_servers_list_of_clients(server, hand):
    async with opened(server.database(2)) as (broker, _):
        await publish(broker, "a")
        (seen,) = [each for each in await hand.redis.client_list() if each["name"] != "hand"]
    assert seen["db"] == "2"
    if (await hand.redis.info("server"))["redis_version"] >= "7.2":
        assert seen["lib-name"].startswith("redis-py(fibo_client_v")


@pytest.mark.parametrize("query", ["?client_name=the-shop", "?client_name=the-shop&protocol=2", ""])
async def test_every_connection_has_the_clients_name(server, hand, query):
    options = RedisOptions() if query else RedisOptions(client_name="the-shop")
    async with opened(server.database(2) + query, redis=options) as (broker, backend):
        await publish(broker, "a")
        await backend.get_many(["a"])
        await backend.subscribe(Listener())
        names = [each["name"] for each in await hand.redis.client_list() if each["name"] != "hand"]
    assert names == ["the-shop"] * 3


@pytest.mark.parametrize(
    ("query", "kept"), [("", True), ("?socket_keepalive=true", True), ("?socket_keepalive=0", False)]
)
async def test_the_system_looks_after_a_silent_connection_unless_told_not_to(server, query, kept):
    async with opened(server.url + query, io_timeout=7) as (broker, _):
        await broker.prepare()
        sock = broker._redis.sending._connection._transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is kept
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == (7000 if kept else 0)
        if kept and hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


async def test_sentinel_finds_the_master(server, tmp_path):
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {server.port} 1\n"
    )
    program = str(find_redis_server())
    sentinel = await asyncio.create_subprocess_exec(program, str(conf), "--sentinel", stdout=subprocess.DEVNULL)
    try:
        await eventually(lambda: accepts(port), "the Sentinel does not listen")
        url = f"sentinel://127.0.0.1:{free_port()}/5;sentinel://127.0.0.1:{port}/5"
        async with CeleryClient(url, redis=RedisOptions(master_name="mymaster")) as client:
            await client.send_task("nobody.knows")
            assert await client.queue_depth() == 1
        with server.client(server.database(5)) as direct:
            assert direct.llen("celery") == 1
        async with CeleryClient(url, redis=RedisOptions(master_name="another")) as client:
            with pytest.raises(PublishError, match="Check master_name"):
                await client.send_task("nobody.knows")
    finally:
        sentinel.terminate()
        await sentinel.wait()


async def test_an_unreachable_sentinel_is_explained_without_its_password():
    url = f"sentinel://:data-secret@127.0.0.1:{free_port()}/0"
    options = RedisOptions(master_name="mymaster", sentinel_password="guard-secret")
    async with CeleryClient(url, redis=options) as client:
        with pytest.raises(PublishError, match=r"Check master_name and the Sentinels' addresses") as caught:
            await client.send_task("nobody.knows")
    assert "secret" not in repr(caught.value) + repr(client)


async def accepts(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("LOADING Redis is loading the dataset in memory", "unsent"),
        ("READONLY You can't write against a read only replica.", "unsent"),
        ("BUSY Redis is busy running a script.", "unsent"),
        ("MASTERDOWN Link with MASTER is down", "unsent"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "refused"),
        ("NOPERM this user has no permissions to run the 'lpush' command", "refused"),
        ("MOVED 1 127.0.0.1:1", "refused"),
        ("x", "refused"),
    ],
)
async def test_what_a_server_answers_says_whether_it_may_be_tried_again(said, outcome):
    def answer(command):
        return {b"LPUSH": f"-{said}\r\n".encode(), b"HELLO": b"-ERR unknown command 'HELLO'\r\n"}.get(
            command, b"+OK\r\n"
        )

    async with listening(answer) as (url, _), opened(url) as (broker, _):
        with pytest.raises(PublishError, match=said[:6]) as caught:
            await publish(broker, "a")
    assert caught.value.refused is (outcome == "refused")
