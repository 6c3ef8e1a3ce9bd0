"""What a worker keeps with each of Celery's pools: the cells of the table in docs/explanation/worker-guarantees.md."""

from __future__ import annotations

import re

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from support.clients import celery_client
from support.pages import DOCS
from support.pools import POOLS, lacking, without
from support.servers import TESTS
from support.waiting import until

from fibo_worker.dev import StartError, WorkerProcess

VISIBILITY_TIMEOUT = 4


class Pool:
    """A worker with a pool, with short limits and a short visibility timeout, and a client of it."""

    def __init__(self, name, process, app, redis, folder):
        self.name, self.process, self.app, self.redis, self.folder = name, process, app, redis, folder

    def begin(self, name):
        """Send a task that goes on until `end`, and wait until it has begun."""
        log, gate = self.folder / f"{name}.log", self.folder / name
        result = self.app.send_task("poison.wait", (str(log), str(gate)))
        until(log.exists)
        return result, log, gate

    def ask(self, method, timeout=10, **arguments):
        replies = self.app.control.broadcast(method, arguments=arguments, reply=True, limit=1, timeout=timeout)
        return replies[0][self.process.node] if replies else None

    def serves(self):
        assert self.app.send_task("fibo.fibonacci", (10,)).get(timeout=20) == "37"


@pytest.fixture(scope="module", params=POOLS)
def pool(request, redis_server, tmp_path_factory):
    url = redis_server.fresh_url()
    env = {
        "PYTHONPATH": str(TESTS),
        "FIBO_TIME_LIMIT": "3",
        "FIBO_SOFT_TIME_LIMIT": "2",
        "FIBO_VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
        **without(request.param),
    }
    options = {"app": "support.poisoned", "pool": request.param, "concurrency": 2, "env": env, "stop_timeout": 0}
    with (
        WorkerProcess(url, **options) as process,
        celery_client(url) as app,
        redis_server.client(url) as redis,
    ):
        yield Pool(request.param, process, app, redis, tmp_path_factory.mktemp(request.param))


def time_limits(pool):
    try:
        pool.app.send_task("poison.count", (str(pool.folder / "limits"), 2.5)).get(timeout=20)
    except SoftTimeLimitExceeded:
        return True
    return False


def not_twice(pool):
    if pool.name == "prefork":  # which ends a task before that; test_workers has one that waits.
        return True
    result, log, gate = pool.begin("long")
    [(tag, first)] = pool.redis.zrange("unacked_index", 0, -1, withscores=True)
    until(lambda: (pool.redis.zscore("unacked_index", tag) or 0) > first + VISIBILITY_TIMEOUT)
    gate.touch()
    assert result.get(timeout=20) == "done"
    pool.serves()
    return len(log.read_text().split()) == 1 and not pool.redis.exists("celery.dead")


def terminated(pool):
    result, _, gate = pool.begin("terminated")
    try:
        if pool.name == "solo":
            return False  # It does not even hear of it.
        reply = pool.ask("revoke", task_id=result.id, terminate=True, signal="KILL")
        if "error" in reply:
            assert "cannot terminate" in reply["error"]
            return False
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
        return True
    finally:
        gate.touch()
        result.get(timeout=20, propagate=False)
        pool.serves()


def answers_meanwhile(pool):
    result, _, gate = pool.begin("meanwhile")
    try:
        return pool.ask("ping", timeout=1) == {"ok": "pong"}
    finally:
        gate.touch()
        result.get(timeout=20)


def unusable(pool):
    pool.redis.lpush("celery", "[1]")
    assert "error" in pool.ask("add_consumer", queue=5)
    pool.serves()
    return pool.redis.llen("celery.dead") == 1 and pool.redis.delete("celery.dead") == 1


def survives(pool):
    def has_ended():
        try:
            pool.process.check()
        except StartError:
            return True
        return False

    pool.app.send_task("poison.kill")
    until(lambda: has_ended() or pool.redis.llen("celery.dead") > 0)
    if has_ended():
        return False
    pool.serves()
    return True


PROMISES = {
    "a task longer than the visibility timeout runs once": not_twice,
    "a message or a command that cannot be used stops nothing": unusable,
    "time limits": time_limits,
    "a task that runs can be terminated": terminated,
    "remote control is answered while a task runs": answers_meanwhile,
    "a task that ends its process leaves the worker alive": survives,  # the last one
}


def told(promise, pool):
    """Read a cell of the table."""
    page = (DOCS / "explanation" / "worker-guarantees.md").read_text()
    row = re.search(rf"^\| {re.escape(promise)} \| (.*) \|$", page, re.MULTILINE)[1]
    return {"yes": True, "no": False}[row.split(" | ")[POOLS.index(pool)]]


@pytest.mark.parametrize("pool", POOLS[1:])
def test_a_worker_does_not_start_with_a_pool_that_takes_protections_away(redis_server, pool):
    with pytest.raises(StartError) as caught, WorkerProcess(redis_server.fresh_url(), pool=pool):
        pass

    assert re.findall(rf"'([a-z-]+)' cannot be had: it needs the pool prefork, not {pool}", str(caught.value)) == (
        lacking(pool)
    )
    assert without(pool)["FIBO_WITHOUT"].split(",") == lacking(pool)
    assert "Traceback" not in str(caught.value)


def test_the_log_says_that_the_pool_keeps_no_limits(pool):
    assert ("keeps no time limits" in pool.process.log.read_text()) == (pool.name != "prefork")


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_holds_as_the_table_says(pool, promise):
    assert PROMISES[promise](pool) == told(promise, pool.name)
