"""Tasks that take their process with them, and workers that are taken from their tasks.

The main part is in `tests/acceptance/test_poison.py`.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from support.servers import TESTS, RedisServer
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_client.errors import TaskFailedError
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)  # Some start three workers, one after another.

SMALL = {"FIBO_MAX_MEMORY": "1024"}
QUICK = {"FIBO_SOFT_TIME_LIMIT": "1", "FIBO_TIME_LIMIT": "2", "FIBO_VISIBILITY_TIMEOUT": "3"}


def poisoned(url: str, *, name: str = "poisoned", **options) -> WorkerProcess:
    env = {"PYTHONPATH": str(TESTS), **options.pop("env", QUICK)}
    return WorkerProcess(url, app="support.poisoned", name=name, env=env, stop_timeout=0, **options)


@pytest.fixture(scope="module")
def bad(server):
    """A worker with one process and small limits, whose tasks misbehave, for the module."""
    with poisoned(server.url, env=SMALL) as process:
        yield process


@pytest.fixture
async def celery(server, bad):
    """A client of that worker. When the test is over, the same worker still runs good tasks, and nothing is left."""
    async with FiboClient(server.url) as fibo:
        yield fibo.celery
        assert await fibo.fibonacci(10, timeout=20) == 55
    bad.check()
    with server.client() as direct:
        await eventually(lambda: direct.llen("celery") == 0)
        await eventually(lambda: direct.hlen("unacked") == 0)
        direct.delete("celery.dead")


def dead_letters(server) -> list[DeadLetter]:
    with server.client() as direct:
        return [DeadLetter.decode(each) for each in direct.lrange("celery.dead", 0, -1)]


async def failure(celery, name, args=(), **options) -> TaskFailedError:
    with pytest.raises(TaskFailedError) as caught:
        await (await celery.send_task(name, args, **options)).get(timeout=30)
    return caught.value


@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt"])
async def test_a_task_that_ends_its_process_is_run_once_more_and_then_dead_lettered(celery, server, tmp_path, how):
    error = await failure(celery, "poison.leave", (str(tmp_path / "log"), how))
    assert error.exc_type == "WorkerLostError"
    assert len((tmp_path / "log").read_text().split()) == 2
    assert len(dead_letters(server)) == 1


async def test_a_message_that_was_lost_is_dead_lettered_whatever_types_it_has(celery, server):
    message = {
        "body": "[[0], {}, {}]",
        "content-type": "application/json",
        "headers": {"task": "fibo.fibonacci", "id": "typed", "x": {"__type__": "uuid", "__value__": {"hex": "0" * 32}}},
        "properties": {"delivery_tag": "typed", "fibo_losses": 2, "priority": float("inf")},
    }
    with server.client() as direct:
        direct.lpush("celery", json.dumps(message))
    with pytest.raises(TaskFailedError, match="WorkerLostError"):
        await celery.result("typed").get(timeout=20)
    (dead_letter,) = dead_letters(server)
    assert json.loads(dead_letter.raw)["headers"]["x"] == message["headers"]["x"]


async def test_a_lost_process_costs_no_message_whose_priority_is_infinite(celery, server, tmp_path):
    message = {
        "body": json.dumps([[str(tmp_path / "killed")], {}, {}]),
        "content-type": "application/json",
        "headers": {"task": "poison.kill_once", "id": "endless"},
        "properties": {"delivery_tag": "endless", "priority": float("inf")},
    }
    with server.client() as direct:
        direct.lpush("celery", json.dumps(message))
    assert await celery.result("endless").get(timeout=30) == "survived"


async def test_a_task_whose_process_was_killed_once_is_run_again_and_answered(celery, server, tmp_path):
    result = await celery.send_task("poison.kill_once", (str(tmp_path / "killed"),))
    assert await result.get(timeout=30) == "survived"
    assert dead_letters(server) == []


async def test_a_library_that_ends_the_process_for_want_of_memory_costs_two_processes(celery, server):
    error = await failure(celery, "poison.gmp", (9 * 10**9,))
    assert "SIGABRT" in str(error)
    assert len(dead_letters(server)) == 1


async def test_a_process_that_has_come_to_use_much_memory_is_replaced(celery, bad):
    first = await (await celery.send_task("poison.grow", (300 * 1024 * 1024,))).get(timeout=20)
    second = await (await celery.send_task("poison.grow", (1,))).get(timeout=20)
    assert first != second


async def test_a_task_without_end_is_stopped_by_the_soft_limit(celery):
    assert (await failure(celery, "poison.spin", soft_time_limit=1)).exc_type == "SoftTimeLimitExceeded"


async def test_a_task_that_does_not_listen_is_killed_by_the_hard_limit(celery, server):
    assert (await failure(celery, "poison.deaf", soft_time_limit=0.5, time_limit=1)).exc_type == "TimeLimitExceeded"
    assert dead_letters(server) == []


async def test_what_a_killed_worker_had_is_run_again_by_another(tmp_path):
    """At least once: what ran is run again, and what waited in its hands is run."""
    log = tmp_path / "log"
    with RedisServer() as server, server.client() as direct:
        async with CeleryClient(server.url) as celery:
            with poisoned(server.url, name="first", arguments=["--prefetch-multiplier", "4"]) as first:
                running = await celery.send_task("poison.count", (str(log), 0.9))
                await eventually(log.exists)
                reserved = await celery.send_task("poison.count", (str(tmp_path / "reserved"), 0))
                await eventually(lambda: direct.hlen("unacked") == 2)
                os.killpg(first.pid, signal.SIGKILL)
            with poisoned(server.url, name="second"):
                assert await running.get(timeout=30) == "done"
                assert await reserved.get(timeout=30) == "done"
            assert _runs(log) == 2


async def test_a_message_whose_workers_are_killed_twice_is_dead_lettered(tmp_path):
    log = tmp_path / "log"
    with RedisServer() as server:
        async with CeleryClient(server.url) as celery:
            result = await celery.send_task("poison.count", (str(log), 0.9))
            for number in (1, 2):
                with poisoned(server.url, name=f"victim{number}") as worker:
                    await eventually(lambda number=number: _runs(log) == number)
                    os.killpg(worker.pid, signal.SIGKILL)
            with poisoned(server.url, name="third"), pytest.raises(TaskFailedError) as caught:
                await result.get(timeout=30)
            assert caught.value.exc_type == "WorkerLostError"
            (dead_letter,) = dead_letters(server)
            assert dead_letter.id == result.id
            assert _runs(log) == 2


async def test_what_waits_for_its_time_longer_than_the_timeout_is_not_taken_for_lost(tmp_path):
    with RedisServer() as server:
        async with CeleryClient(server.url) as celery:
            with poisoned(server.url):
                result = await celery.send_task("poison.count", (str(tmp_path / "log"), 0), countdown=4.5)
                assert await result.get(timeout=30) == "done"
            assert dead_letters(server) == []
            assert _runs(tmp_path / "log") == 1


async def test_what_a_task_gives_back_is_not_taken_for_lost(celery, server, tmp_path):
    result = await celery.send_task("poison.give_back", (str(tmp_path / "log"), 4))
    assert await result.get(timeout=30) == 4
    assert dead_letters(server) == []


async def test_a_redis_that_is_full_for_a_while_costs_no_message(tmp_path):
    log = str(tmp_path / "log")
    with RedisServer() as server, server.client() as direct:
        async with CeleryClient(server.url) as celery:
            with poisoned(server.url, env={}) as worker:
                assert await (await celery.send_task("poison.count", (log, 0))).get(timeout=20)
                await eventually(lambda: not direct.exists("unacked"))
                results = [await celery.send_task("poison.count", (log, 0), queue="parked") for _ in range(3)]
                direct.config_set("maxmemory-policy", "noeviction")
                with direct.pipeline() as step:  # The worker gets them when there is no more room.
                    for _ in results:
                        step.rpoplpush("parked", "celery")
                    step.execute_command("CONFIG", "SET", "maxmemory", "1mb")
                    step.execute()
                await eventually(lambda: "used memory > 'maxmemory'" in worker.log.read_text())
                direct.config_set("maxmemory", "0")
                for each in results:
                    assert await each.get(timeout=40) == "done"
                worker.check()


async def test_a_worker_that_is_stopped_finishes_what_runs_and_gives_back_what_waits(tmp_path):
    log = tmp_path / "log"
    with RedisServer() as server, server.client() as direct:
        async with CeleryClient(server.url) as celery:
            with poisoned(server.url, name="first", env={}) as first:
                running = await celery.send_task("poison.count", (str(log), 0.9))
                await eventually(log.exists)
                waiting = [await celery.send_task("poison.count", (str(log), 0)) for _ in range(3)]
                os.kill(first.pid, signal.SIGTERM)
                assert await running.get(timeout=20) == "done"
                # Now and then its process waits for a word from Celery that does not come, for 30 seconds.
                await eventually(lambda: not _alive(first), timeout=60)
            assert direct.llen("celery") == 3
            assert direct.hlen("unacked") == 0
            with poisoned(server.url, name="second"):
                for each in waiting:
                    assert await each.get(timeout=20) == "done"
            assert _runs(log) == 4


def _runs(log: Path) -> int:
    return len(log.read_text().split()) if log.exists() else 0


def _alive(worker: WorkerProcess) -> bool:
    try:
        worker.check()
    except RuntimeError:
        return False
    return True
