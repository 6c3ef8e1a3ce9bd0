"""Every protection on every version of Celery and every pool: the fault that it is against, and stock beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal
from support.clients import celery_client
from support.pools import POOLS, lacking
from support.proxy import Proxy
from support.servers import RedisServer
from support.waiting import until
from versions.conftest import ROOT, python_of

from fibo_worker.dev import StartError, WorkerProcess
from fibo_worker.guard.protections import PROTECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis
    from celery import Celery

# The first test of a version may have to make the environment first.
pytestmark = pytest.mark.timeout(300)

VERSIONS = ("5.5", "5.6", "5.7")
VISIBILITY_TIMEOUT = 2
"""Seconds after which a message that nobody renews is another worker's."""
SOON = 15.0
"""Seconds after which something that should have happened counts as not happening."""

AT_LEAST_ONCE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
"""Settings without which stock has nothing to lose here, because it acknowledges a task before it runs."""


class Workers:
    """Starts workers of one version and one pool, and has one that those faults share which no worker ends of."""

    def __init__(self, version: str, pool: str, server: RedisServer) -> None:
        self.version, self.pool, self.server = version, pool, server
        self._stack = contextlib.ExitStack()
        self._shared: tuple[str, WorkerProcess] | None = None

    def start(self, url: str, kind: str, conf: dict[str, object], name: str) -> WorkerProcess:
        conf = {"broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT}, **conf}
        env = {
            "PYTHONPATH": str(ROOT / "tests"),
            "FIBO_MAX_MEMORY": "700",
            "SHOP_CONF": json.dumps(conf),
            "SHOP_IS": kind,
            "SHOP_WITHOUT": " ".join(lacking(self.pool)),
        }
        options = {"python": python_of(self.version), "pool": self.pool, "concurrency": 2, "env": env}
        return WorkerProcess(url, app="versions.shop", name=name, stop_timeout=0, **options)

    def shared(self) -> tuple[str, WorkerProcess]:
        if self._shared is None:
            url = self.server.fresh_url()
            self._shared = url, self._stack.enter_context(self.start(url, "guarded", {}, "shared"))
        return self._shared

    def close(self) -> None:
        self._stack.close()


@dataclasses.dataclass
class Shop:
    """A database, and the workers on it: protected, or as Celery makes them."""

    workers: Workers
    guarded: bool
    url: str
    redis: redis.Redis
    celery: Celery
    folder: Path
    shared: WorkerProcess | None
    conf: dict[str, object] = dataclasses.field(default_factory=dict)
    """More settings for stock."""

    @contextlib.contextmanager
    def worker(self, name: str = "shop", url: str | None = None) -> Iterator[WorkerProcess]:
        if self.shared is not None:
            yield self.shared
            return
        kind, conf = ("guarded", {}) if self.guarded else ("stock", self.conf)
        with self.workers.start(url or self.url, kind, conf, name) as process:
            yield process

    def send(self, name: str, *args: object) -> str:
        return self.celery.send_task(f"shop.{name}", args).id

    def answer(self, task_id: str, process: WorkerProcess | None = None, timeout: float = SOON) -> dict | None:
        """Wait for a task's result; None if it does not come, or the worker has ended."""
        key = f"celery-task-meta-{task_id}"
        with contextlib.suppress(AssertionError):
            until(lambda: self.redis.exists(key) or (process and ended(process)), timeout=timeout)
        stored = self.redis.get(key)
        return json.loads(stored) if stored else None

    def serves(self, process: WorkerProcess) -> bool:
        """Tell whether the worker runs a good task."""
        answer = self.answer(self.send("add", 2, 3), process)
        return answer is not None and answer["result"] == 5 and not ended(process)

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def noted(self, what: str) -> int:
        return self.notes.read_text().split().count(what) if self.notes.exists() else 0

    def begin_packing(self, process: WorkerProcess) -> str:
        """Send a task that goes on until `end_packing`, and wait until it has begun."""
        task_id = self.send("pack", str(self.notes))
        until(lambda: self.noted("begins"), process.log.read_text)
        return task_id

    def end_packing(self) -> None:
        (self.folder / "packed").touch()

    def settles(self, process: WorkerProcess, timeout: float = 5.0) -> bool:
        """Tell whether every message is acknowledged soon."""
        with contextlib.suppress(AssertionError):
            until(lambda: not self.redis.exists("celery", "unacked") or ended(process), timeout=timeout)
        return not self.redis.exists("celery", "unacked")


def ended(process: WorkerProcess) -> bool:
    try:
        process.check()
    except RuntimeError:
        return True
    return False


def unreadable(shop: Shop) -> bool:
    with shop.worker() as process:
        shop.redis.delete("celery.dead")
        shop.redis.lpush("celery", "[1]")
        return shop.serves(process) and shop.redis.llen("celery.dead") == 1


def killed_worker(shop: Shop) -> bool:
    with shop.worker("first") as process:
        task_id = shop.begin_packing(process)
        if not shop.guarded:
            assert shop.settles(process)  # It acknowledges a task when a process has it.
        os.killpg(process.pid, signal.SIGKILL)
    shop.end_packing()
    with shop.worker("second"):
        return shop.answer(task_id, timeout=SOON if shop.guarded else 3 * VISIBILITY_TIMEOUT) is not None


def lost_connection(shop: Shop) -> bool:
    shop.conf = AT_LEAST_ONCE
    with shop.worker() as process:
        task_id = shop.begin_packing(process)
        shop.redis.client_kill_filter(_type="normal", skipme=True)
        with contextlib.suppress(AssertionError):
            until(lambda: shop.noted("begins") == 2, timeout=SOON)
        shop.end_packing()
        shop.answer(task_id)
        assert shop.settles(process, timeout=SOON)
        with contextlib.suppress(AssertionError):
            until(lambda: shop.noted("ends") == 2, timeout=1)
        return shop.noted("ends") == 1 and shop.serves(process)


def killing_task(shop: Shop) -> bool:
    shop.conf = AT_LEAST_ONCE
    task_id = shop.send("burn", str(shop.notes))
    for number in (1, 2, 3, 4):  # With the pools of one process, each death is that of the worker.
        with shop.worker(f"worker{number}") as process, contextlib.suppress(AssertionError):
            until(lambda: shop.answer(task_id, timeout=0) or shop.noted("begins") > 2 or ended(process), timeout=SOON)
        if shop.noted("begins") > 2:
            return False
        if answer := shop.answer(task_id, timeout=0):
            assert "WorkerLostError" in str(answer)
            return shop.noted("begins") == 2 and shop.redis.llen("celery.dead") == 1
    return False


def long_task(shop: Shop) -> bool:
    shop.conf = AT_LEAST_ONCE
    with shop.worker("first") as process:
        task_id = shop.begin_packing(process)
        [(_, taken)] = shop.redis.zrange("unacked_index", 0, -1, withscores=True)
        until(lambda: time.time() > taken + VISIBILITY_TIMEOUT)
        # Celery 5.5 and 5.6 look for what was lost when they start, and then every 100 seconds.
        with shop.worker("second"):
            with contextlib.suppress(AssertionError):
                until(lambda: shop.noted("begins") == 2, timeout=3 if shop.guarded else SOON)
            shop.end_packing()
            assert shop.answer(task_id)
    return shop.noted("begins") == 1


def full_redis(shop: Shop) -> bool:
    with shop.worker() as process:
        assert shop.serves(process)
        assert shop.settles(process)
        tasks = [shop.celery.send_task("shop.add", (1, n), queue="parked").id for n in range(3)]
        try:
            with shop.redis.pipeline() as step:  # The worker gets them when there is no more room.
                for _ in tasks:
                    step.rpoplpush("parked", "celery")
                step.execute_command("CONFIG", "SET", "maxmemory", "1mb")
                step.execute()
            until(lambda: "used memory > 'maxmemory'" in process.log.read_text(), process.log.read_text)
        finally:
            shop.redis.config_set("maxmemory", "0")
        return all(shop.answer(each, process) for each in tasks) and shop.serves(process)


def malformed_control(shop: Shop) -> bool:
    with shop.worker() as process:
        database = shop.redis.get_connection_kwargs()["db"]
        until(lambda: shop.redis.publish(f"/{database}.celery.pidbox", "[1]"), process.log.read_text)
        return shop.serves(process)


def memory_error(shop: Shop) -> bool:
    shop.conf = AT_LEAST_ONCE
    with shop.worker() as process:
        answer = shop.answer(shop.send("forget"), process)
        # The main process hears of the end later than the backend.
        until(lambda: ended(process) or process.log.read_text().count("shop.forget[") > 1, process.log.read_text)
        # Celery 5.5 never acknowledges its message, and the others end.
        return "MemoryError" in str(answer) and shop.serves(process) and shop.settles(process)


def greedy_task(shop: Shop) -> bool:
    with shop.worker() as process:
        answer = shop.answer(shop.send("hoard", 10**9), process)
        return "MemoryError" in str(answer) and shop.serves(process)


def swallowed_connections(shop: Shop) -> bool:
    proxy = Proxy(shop.workers.server.port)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy.running()),
        shop.worker(url=proxy.url(shop.url)) as process,
    ):
        assert shop.serves(process)
        assert portal.call(proxy.forget)
        deadline = time.monotonic() + (30 if shop.guarded else 12)
        while time.monotonic() < deadline:  # The first task may be lost with a connection.
            if shop.answer(shop.send("add", 2, 3), timeout=1):
                return True
    return False


def generous_sender(shop: Shop) -> bool:
    with shop.worker() as process:
        sent = shop.celery.send_task("shop.wrap", (str(shop.notes),), time_limit=60, soft_time_limit=60)
        answer = shop.answer(sent.id, process, timeout=10)
        shop.end_packing()
        return "TimeLimitExceeded" in str(answer) and shop.serves(process)


def impatient_chord(shop: Shop) -> bool:
    with shop.worker() as process:
        callback = shop.celery.signature("shop.add", (1, 2))
        arguments = {"interval": 0, "max_retries": None, "result": [[["never-sent", None], None]]}
        sent = shop.celery.send_task("celery.chord_unlock", ("a-group", callback), arguments)
        started = time.monotonic()
        with contextlib.suppress(AssertionError):
            until(lambda: process.log.read_text().count(f"celery.chord_unlock[{sent.id}] received") > 20, timeout=5)
        return time.monotonic() - started > 4 and shop.serves(process)


def forged_line(shop: Shop) -> bool:
    with shop.worker() as process:
        sent = shop.celery.send_task("shop.add", (2, 3), shadow="add\nforged line")
        assert shop.answer(sent.id, process)
        until(lambda: "succeeded" in process.log.read_text(), process.log.read_text)
        return "\nforged line" not in process.log.read_text() and shop.serves(process)


def talkative_worker(shop: Shop) -> bool:
    def stored_plainly() -> int:
        """Tell how often a result was stored by a command of its own, after one that asked what is stored."""
        return shop.redis.info("commandstats").get("cmdstat_setex", {"calls": 0})["calls"]

    with shop.worker() as process:
        before = stored_plainly()
        return shop.serves(process) and stored_plainly() == before


FAULTS: dict[str, Callable[[Shop], bool]] = {
    "validation": unreadable,
    "redelivery": killed_worker,
    "cancellation": lost_connection,
    "loss-limit": killing_task,
    "renewal": long_task,
    "refusals": full_redis,
    "remote-control": malformed_control,
    "task-errors": memory_error,
    "memory-limit": greedy_task,
    "lost-connections": swallowed_connections,
    "time-limits": generous_sender,
    "chord-polling": impatient_chord,
    "log-lines": forged_line,
    "round-trips": talkative_worker,
}
"""By the name of the protection, a fault that a worker without it does not withstand."""


OF_THEIR_OWN = {"redelivery", "loss-limit", "renewal", "lost-connections"}
"""The faults that need workers of their own."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis of its own, which may be full for a while."""
    with RedisServer() as started:
        yield started


CELLS = [
    pytest.param((version, pool), each.name, id=f"{version}-{pool}-{each.name}")
    for version, pool in itertools.product(VERSIONS, POOLS)
    for each in PROTECTIONS.values()
    if pool in each.pools
]
"""The table of protections by versions and pools, without those that the pool takes away."""


@pytest.fixture(scope="module")
def workers(request, server) -> Iterator[Workers]:
    with contextlib.closing(Workers(*request.param, server)) as made:
        yield made


@contextlib.contextmanager
def opened(workers: Workers, kind: str, name: str, folder: Path) -> Iterator[Shop]:
    url, shared = workers.server.fresh_url(), None
    if kind == "guarded" and name not in OF_THEIR_OWN:
        url, shared = workers.shared()
    with workers.server.client(url) as direct, celery_client(url) as celery:
        direct.config_set("maxmemory-policy", "noeviction")
        yield Shop(workers, kind == "guarded", url, direct, celery, folder, shared)
        direct.delete("celery.dead")


@pytest.mark.parametrize("pool", POOLS[1:])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_worker_whose_pool_takes_protections_away_does_not_start(server, version, pool):
    worker = WorkerProcess(
        server.fresh_url(),
        app="versions.shop",
        pool=pool,
        python=python_of(version),
        env={"PYTHONPATH": str(ROOT / "tests")},
    )
    with pytest.raises(StartError) as caught, worker:
        pass
    assert re.findall("The protection '([a-z-]+)' cannot be had", str(caught.value)) == lacking(pool)


def test_every_protection_has_a_fault():
    assert list(FAULTS) == list(PROTECTIONS)


@pytest.mark.parametrize(("workers", "name"), CELLS, indirect=["workers"])
def test_a_protected_worker_withstands_the_fault(workers, tmp_path, name):
    with opened(workers, "guarded", name, tmp_path) as shop:
        assert FAULTS[name](shop)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_stock_does_not(server, tmp_path, version, name):
    with opened(Workers(version, "prefork", server), "stock", name, tmp_path) as shop:
        assert not FAULTS[name](shop)


def test_the_processes_of_a_pool_that_does_not_fork_are_protected_too(server, tmp_path):
    workers, url = Workers("5.7", "prefork", server), server.fresh_url()
    with (
        workers.start(url, "guarded", {"worker_pool_start_method": "spawn"}, "spawned") as process,
        server.client(url) as direct,
        celery_client(url) as celery,
    ):
        shop = Shop(workers, True, url, direct, celery, tmp_path, process)
        # They start from nothing, which takes them long, and until then none takes a task.
        assert shop.answer(shop.send("add", 2, 3), timeout=4 * SOON)
        assert greedy_task(shop)
