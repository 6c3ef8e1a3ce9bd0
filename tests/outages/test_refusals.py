"""Redis answers, and says no."""

from __future__ import annotations

import asyncio

import pytest
import redis as redis_py
from support.outages import outage
from support.proxy import Proxy
from support.servers import RedisServer
from support.waiting import eventually

from fibo_client import FiboClient, PublishError
from fibo_client.celery import CeleryClient
from fibo_client.testing.results import encode_meta


@pytest.fixture
def server():
    """A Redis for this test alone, which it may spoil."""
    with RedisServer() as server:
        yield server


@outage(
    "Redis has become a replica (READONLY), and is master again later",
    sees="the answer",
    within="a pause after it is master again",
    submitted="yes",
    retry="not needed",
)
async def test_a_replica_is_asked_again_until_it_is_master(witness, server, worker):
    with server.client() as direct:
        async with FiboClient(server.url, worker.url) as client:
            await client.submit(1)
            direct.delete("celery")
            direct.replicaof("127.0.0.1", "1")
            call = asyncio.create_task(witness.see(client.fibonacci(10, timeout=10), deadline=10))
            await eventually(lambda: asyncio.to_thread(lambda: refused(direct, "lpush")))
            direct.replicaof("NO", "ONE")
            _, message = await asyncio.to_thread(direct.brpop, ["celery"], 10)
            with redis_py.Redis.from_url(worker.admin_url) as there:
                there.lpush("celery", message)
            assert await call == 55


def refused(direct, command: str) -> int:
    """How often the server has said no to a command."""
    return direct.info("commandstats").get(f"cmdstat_{command}", {}).get("rejected_calls", 0)


@outage(
    "Redis has become a replica (READONLY), for a task sent once",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="safe",
)
async def test_a_replica_is_said_to_who_sends_once(witness, server):
    with server.client() as direct:
        async with CeleryClient(server.url) as celery:
            direct.replicaof("127.0.0.1", "1")
            error = await witness.see(celery.send_task("t.add", (1, 2)), deadline=1)
            assert "read only replica" in str(error)
            direct.replicaof("NO", "ONE")
            await celery.send_task("t.add", (1, 2))


@outage(
    "Redis is loading its data (LOADING)",
    sees="the answer, or `PublishError` on first use",
    within="a pause after it has loaded",
    submitted="depends on the error",
    retry="safe",
)
async def test_a_redis_that_loads_is_waited_for(witness, tmp_path):
    disk = {"dir": str(tmp_path), "appendonly": "no", "rdbcompression": "no"}
    with RedisServer(options=disk) as first, first.client() as direct:
        with direct.pipeline() as pipeline:
            for number in range(32):
                pipeline.setrange(f"filling {number}", 1024 * 1024 - 1, "x")
            pipeline.execute()
        async with FiboClient(first.url) as client:
            handle = await client.submit(10)
            direct.save()
            first.stop()
            # Some two seconds: 50,000 microseconds a key. It looks after its clients after every two MiB.
            with RedisServer(port=first.port, options={**disk, "key-load-delay": "50000"}) as slow:
                with slow.client() as again:
                    assert again.info("persistence")["loading"] == 1
                async with CeleryClient(slow.url) as stranger:
                    error = await witness.see(stranger.send_task("t.add", (1, 2)), deadline=1)
                    assert "loading" in str(error).lower()
                waiting = asyncio.create_task(witness.see(handle.get(timeout=20), deadline=20))
                sending = asyncio.create_task(witness.see(client.submit(11), deadline=20))
                await sending
                with slow.client() as again:
                    assert again.info("persistence")["loading"] == 0
                    again.set(f"celery-task-meta-{handle.id}", encode_meta(handle.id, "SUCCESS", "37"))
                assert await waiting == 55


@outage(
    "Redis is full (OOM: `maxmemory` with `noeviction`)",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="safe, once there is room",
    lost="nothing; workers cannot store results either",
)
async def test_a_full_redis_is_said_at_once(witness, server):
    with server.client() as direct:
        async with FiboClient(server.url) as client:
            handle = await client.submit(1)
            direct.set(f"celery-task-meta-{handle.id}", encode_meta(handle.id, "SUCCESS", "1"))
            direct.config_set("maxmemory-policy", "noeviction")
            direct.config_set("maxmemory", "1mb")
            error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
            assert "maxmemory" in str(error)
            assert await handle.get(timeout=5) == 1  # Reading goes on.
            direct.config_set("maxmemory", "0")
            await client.submit(2)


@outage(
    "The URL lacks the password (NOAUTH)",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="by a client with the password",
)
async def test_a_missing_password_is_said_at_once(witness):
    with RedisServer(password="s3cret-word") as server:
        async with FiboClient(f"redis://127.0.0.1:{server.port}/0") as client:
            error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
            assert "password" in str(error)
        async with FiboClient(server.url) as client:
            await client.submit(10)


@outage(
    "The password changes while the client runs (WRONGPASS)",
    sees="`PublishError`",
    within="at once, on the first new connection",
    submitted="no",
    retry="by a client with the new password",
)
async def test_a_wrong_password_is_said_at_once_and_not_shown(witness):
    with RedisServer(password="s3cret-word") as server:
        async with FiboClient(server.url) as client:
            handle = await client.submit(10)
            with server.client() as direct:
                direct.config_set("requirepass", "another-word")
                direct.client_kill_filter(_type="normal", skipme=True)
                error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
                assert "password" in str(error)
                assert "s3cret-word" not in str(error)
                direct.config_set("requirepass", "s3cret-word")
                direct.set(f"celery-task-meta-{handle.id}", encode_meta(handle.id, "SUCCESS", "37"))
            assert await handle.get(timeout=5) == 55


@outage(
    "The Redis user may not write to the queue (NOPERM)",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="once the user may",
)
async def test_a_missing_permission_is_said_at_once(witness, server):
    with server.client() as direct:
        direct.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~celery-task-meta-*", "&*", "+@all")
        async with FiboClient(server.url.replace("redis://", "redis://reader:word@")) as client:
            error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
            assert "ACL" in str(error)
            direct.execute_command("ACL", "SETUSER", "reader", "~*")
            await client.submit(10)


@outage(
    "The Redis user may not read results (NOPERM)",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes",
    retry="once the user may",
)
async def test_a_user_that_may_not_read_is_told_so_when_time_is_up(witness, server):
    with server.client() as direct:
        direct.execute_command("ACL", "SETUSER", "writer", "on", ">word", "~celery", "resetchannels", "+@all")
        async with FiboClient(server.url.replace("redis://", "redis://writer:word@")) as client:
            error = await witness.see(client.fibonacci(10, timeout=0.5), deadline=0.5)
            assert "ACL" in str(error)


@outage(
    "Redis takes no more connections (`maxclients`)",
    sees="the answer, or `PublishError` on first use",
    within="a pause after there is room",
    submitted="depends on the error",
    retry="safe",
)
async def test_a_redis_with_too_many_clients_is_tried_again(witness, server):
    with server.client() as direct:
        async with FiboClient(server.url) as client:
            await client.submit(1)
            direct.client_kill_filter(_type="normal", skipme=True)
            direct.config_set("maxclients", "1")
            async with FiboClient(server.url) as stranger:
                error = await witness.see(stranger.fibonacci(10, timeout=5), deadline=1)
                assert "max" in str(error)
                assert "clients" in str(error)
            before = direct.info("stats")["rejected_connections"]
            sending = asyncio.create_task(witness.see(client.submit(10), deadline=10))
            await eventually(lambda: asyncio.to_thread(lambda: direct.info("stats")["rejected_connections"] > before))
            direct.config_set("maxclients", "100")
            await sending


async def test_protected_mode_is_a_refusal_and_is_told_at_once_also_to_who_would_try_again(server):
    with server.client() as direct:
        if direct.info("server")["redis_version"] < "7":
            pytest.skip("before Redis 7, a server that was told where to listen is never in protected mode")
    proxy = Proxy(server.port, source="127.0.0.2")  # To Redis, that is another machine.
    async with proxy.running(), CeleryClient(proxy.url(server.url)) as client:
        for calling in (client.send_task("nobody.knows", retry=True, timeout=60), client.call("nobody.knows")):
            with pytest.raises(PublishError, match=r"DENIED Redis is running in protected mode.*requirepass") as caught:
                await calling
            assert caught.value.refused
            assert "disable" not in str(caught.value)
