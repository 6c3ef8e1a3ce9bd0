"""A client and a worker under the Redis users of docs/explanation/security.md: what they need, and no more."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
import redis as redis_py
from support.acl import CLIENT, FLOWER, WORKER, commands, make_users
from support.hand import eventually
from support.servers import RedisServer

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_client.errors import FiboError, PublishError
from fibo_worker.dev import WorkerProcess


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def users(server):
    """The URLs of the two users, made anew, for a test may take something from one."""
    return make_users(server)


class TalkingWorker(WorkerProcess):
    """A worker that also talks to other workers, as one does unless told not to."""

    def __init__(self, url: str) -> None:
        super().__init__(url, arguments=["-E"], stop_timeout=0)
        self._arguments = [argument for argument in self._arguments if not argument.startswith("--without-")]


@pytest.fixture(scope="module")
def limited_worker(server):
    with TalkingWorker(make_users(server)[WORKER]) as worker:
        yield worker


def refusals(server):
    with server.client(decode_responses=True) as direct:
        return [(entry["username"], entry["reason"], entry["object"]) for entry in direct.acl_log()]


def forget_refusals(server):
    with server.client() as direct:
        direct.acl_log_reset()


@pytest.mark.parametrize("push", [True, False])
async def test_all_that_a_client_and_a_worker_do_is_allowed(server, users, limited_worker, push):
    forget_refusals(server)
    async with FiboClient(users[CLIENT], push=push) as client:
        assert await client.fibonacci(10, timeout=20) == 55
        assert await client.fibonacci_many([4, 3, 8], timeout=20) == [3, 2, 21]
        assert await client.fibonacci_many([100_000, 5], timeout=20)  # two priorities
        handles = await client.submit_many([6, 7])
        assert [await handle.get(timeout=20) for handle in handles] == [8, 13]
        assert await client.ready(handles) == [True, True]
        await handles[0].revoke()
        await handles[0].forget()
        assert len(await client.celery.ping()) == 1
        await client.celery.diagnose(handles[1])
    assert [each for each in refusals(server) if "setinfo" not in each[2]] == []
    assert "NoPermission" not in limited_worker.log.read_text()


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "ACL LIST", "MONITOR", "INFO", "SHUTDOWN",
        "CLIENT LIST", "GET other", "MGET other", "MGET celery", "SET celery-task-meta-x 1", "DEL celery",
        "UNLINK celery", "LRANGE celery 0 -1", "BRPOP celery 1", "LPUSH other x", "LPUSH celery-task-meta-x x",
        "RPUSH celery x", "SUBSCRIBE other", "PSUBSCRIBE *", "PSUBSCRIBE celery-task-meta-*",
        "PUBLISH other x", "EVAL return 0", "SADD _kombu.binding.celery x", "MULTI", "SCRIPT FLUSH",
    ],
)  # fmt: skip
def test_a_client_may_do_nothing_else(users, command):
    with redis_py.Redis.from_url(users[CLIENT]) as limited, pytest.raises(redis_py.exceptions.NoPermissionError):
        limited.execute_command(*command.split())


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "GET other", "LPUSH other x", "PSUBSCRIBE *", "SHUTDOWN"],
)
def test_a_worker_may_not_touch_what_is_not_its_own(users, command):
    with redis_py.Redis.from_url(users[WORKER]) as limited, pytest.raises(redis_py.exceptions.NoPermissionError):
        limited.execute_command(*command.split())


def without(server, *rules):
    """Take something from the client's user. Changes hold for connections that are there."""
    with server.client() as direct:
        direct.execute_command("ACL", "SETUSER", CLIENT, *rules)


def test_the_page_has_one_line_for_each_of_the_three():
    assert set(commands()) == {CLIENT, WORKER, FLOWER}


async def test_a_refused_publish_names_the_command_and_says_what_to_do(server, users):
    async with CeleryClient(users[CLIENT]) as client:
        with pytest.raises(
            PublishError, match=r"LPUSH: .*permissions.*The ACL of the Redis user must allow.*ACL LOG"
        ) as caught:
            await client.send_task("nobody.knows", queue="private")
    assert "change-me" not in repr(caught.value)


@pytest.mark.parametrize(
    ("command", "use"),
    [
        ("MGET", lambda client: client.result("0" * 8).ready()),
        ("PUBLISH", lambda client: client.revoke("0" * 8)),
        ("SADD|PUBLISH", lambda client: client.ping(timeout=1)),
    ],
    ids=["read", "revoke", "ping"],
)
async def test_another_refusal_names_its_command_too(server, users, command, use):
    without(server, "clearselectors", "-publish")
    async with CeleryClient(users[CLIENT]) as client:
        with pytest.raises(FiboError, match=rf"({command}): .*permissions.*must allow"):
            await use(client)


async def test_without_subscribe_results_are_polled_and_one_line_says_so(server, users, limited_worker, caplog):
    without(server, "-subscribe")
    with caplog.at_level(logging.INFO, "fibo_client"):
        async with FiboClient(users[CLIENT]) as client:
            assert await client.fibonacci(12, timeout=20) == 144
            waiting = asyncio.create_task(client.celery.result("never").get(timeout=20))
            await eventually(lambda: asyncio.sleep(0, said(caplog)))
            assert await client.fibonacci(13, timeout=20) == 233
            waiting.cancel()
    assert len(said(caplog)) == 1
    assert re.search(r"polling meanwhile: .*permissions.*must allow", said(caplog)[0])


def said(caplog):
    return [record.getMessage() for record in caplog.records if "permissions" in record.getMessage()]
