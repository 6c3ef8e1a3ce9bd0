"""One client an event loop, on a real Redis: opened where it is asked for, and closed when its loop ends."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from support.hand import NAME
from support.programs import run
from support.waiting import eventually, until

from fibo_client import FiboClient, LoopLocal
from fibo_client.celery import CeleryClient
from fibo_client.testing.results import encode_meta

try:
    import uvloop
except ImportError:  # It has no wheel for every interpreter and system.
    LOOPS = [asyncio.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Redis:
    """What is seen in the server, from a thread that has no event loop."""

    def __init__(self, server) -> None:
        self.url = server.url
        self.client = redis.Redis.from_url(server.url, client_name=NAME)

    def put(self, *task_ids) -> None:
        for task_id in task_ids:
            self.client.set(f"celery-task-meta-{task_id}", encode_meta(task_id, "SUCCESS", "37"))

    def connections(self) -> int:
        return sum(each["name"] != NAME for each in self.client.client_list())


@pytest.fixture
def server_side(server):
    seen = Redis(server)
    with seen.client:
        seen.client.flushall()
        seen.put("a")
        yield seen


@pytest.fixture
def local(server_side) -> LoopLocal[CeleryClient]:
    return LoopLocal(lambda: CeleryClient(server_side.url, timeout=10))


async def read(local):
    client = await local.get()
    assert await client.result("a").get() == "37"
    return client


@pytest.mark.parametrize("new_loop", LOOPS, ids=lambda new_loop: new_loop.__module__)
def test_each_loop_has_a_client_of_its_own_which_is_closed_with_it(server_side, local, new_loop):
    clients = []
    for _ in range(3):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            clients.append(runner.run(read(local)))
            assert server_side.connections() > 0
            assert runner.run(read(local)) is clients[-1]
        until(lambda: server_side.connections() == 0)
    assert len({id(client) for client in clients}) == 3


def test_those_who_ask_at_once_get_one_client(local):
    async def main():
        return await asyncio.gather(*(read(local) for _ in range(100)))

    assert len({id(client) for client in asyncio.run(main())}) == 1


def test_a_client_that_takes_its_time_to_open_is_opened_once():
    opened = []

    class Slow:
        async def open(self):
            await asyncio.sleep(0.01)
            opened.append("open")

        async def aclose(self):
            opened.append("closed")

    local = LoopLocal(Slow)

    async def main():
        return await asyncio.gather(*(local.get() for _ in range(10)))

    assert len(set(asyncio.run(main()))) == 1
    assert opened == ["open", "closed"]


def test_a_client_of_numbers_is_as_good(server_side):
    local = LoopLocal(lambda: FiboClient(server_side.url))

    async def main():
        return await local.get()

    assert isinstance(asyncio.run(main()), FiboClient)


def test_threads_with_loops_of_their_own_do_not_meet(server_side, local):
    together = threading.Barrier(8)

    async def main():
        client = await read(local)
        await asyncio.to_thread(together.wait, 20)
        return client

    with ThreadPoolExecutor(8) as threads:
        clients = list(threads.map(lambda _: asyncio.run(main()), range(8)))
    assert len({id(client) for client in clients}) == 8
    until(lambda: server_side.connections() == 0)


def test_the_end_of_a_loop_deletes_what_was_read_and_revokes_what_is_unanswered(server_side, local):
    left_alone = []
    with server_side.client.pubsub() as control:
        control.psubscribe("*pidbox*")

        async def main():
            client = await local.get()
            answered = asyncio.create_task(client.call("shop.report"))
            sent = await eventually(lambda: server_side.client.lindex("celery", 0))
            task_id = json.loads(sent)["headers"]["id"]
            server_side.put(task_id)
            assert await answered == "37"
            left_alone.append(asyncio.create_task(client.call("shop.forever")))
            await eventually(lambda: server_side.client.llen("celery") == 2)
            return task_id

        task_id = asyncio.run(main())
        assert not server_side.client.exists(f"celery-task-meta-{task_id}")
        heard = [each for each in iter(lambda: control.get_message(timeout=0.1), None) if each["type"] == "pmessage"]
    assert len(heard) == 1


def test_a_client_that_is_closed_before_its_loop_is_followed_by_another(server_side, local):
    async def main():
        first = await read(local)
        await local.aclose()
        await eventually(lambda: server_side.connections() == 0)
        await local.aclose()
        assert await read(local) is not first

    asyncio.run(main())
    until(lambda: server_side.connections() == 0)


def test_a_client_that_cannot_be_opened_is_tried_again(server_side):
    made = []

    def factory():
        made.append(None)
        if len(made) == 1:
            raise OSError("not yet")
        return CeleryClient(server_side.url)

    local = LoopLocal(factory)

    async def main():
        with pytest.raises(OSError, match="not yet"):
            await local.get()
        await read(local)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("closed", [True, False])
def test_a_loop_that_is_not_ended_properly_is_freed_with_its_client_and_connections(server_side, local, closed):
    def begin():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(read(local))
        if closed:
            loop.close()
        return weakref.ref(loop)

    loop = begin()
    gc.collect()
    assert loop() is None
    until(lambda: server_side.connections() == 0)


def test_after_a_fork_each_process_has_a_client_of_its_own_even_on_the_parent_s_loop(server_side):
    program = f"""
import asyncio, os, sys
from fibo_client import LoopLocal
from fibo_client.celery import CeleryClient

local = LoopLocal(lambda: CeleryClient({server_side.url!r}, timeout=10))

async def read():
    client = await local.get()
    assert await client.result("a").get() == "37"
    return client

loop = asyncio.SelectorEventLoop(__import__("selectors").SelectSelector())  # an epoll would be shared
first = loop.run_until_complete(read())
if not (pid := os.fork()):
    assert loop.run_until_complete(read()) is not first
    assert asyncio.run(read()) is not first
    loop.run_until_complete(loop.shutdown_asyncgens())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert loop.run_until_complete(read()) is first
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
"""
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    until(lambda: server_side.connections() == 0)


def test_a_client_is_not_a_way_to_make_one(server_side):
    with pytest.raises(TypeError, match="must make a client for each loop, not be one: CeleryClient"):
        LoopLocal(CeleryClient(server_side.url))


# As in the tests of programs that use it: pytest gives each a loop of its own.

of_the_module = LoopLocal(CeleryClient)
used = []


@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_tests_with_loops_of_their_own_share_what_a_module_has(server_side, monkeypatch, turn):
    await eventually(lambda: server_side.connections() == 0)
    monkeypatch.setenv("CELERY_BROKER_URL", server_side.url)
    used.append(await read(of_the_module))
    assert len({id(client) for client in used}) == turn
