"""The contract is with the installed Celery and kombu, over a Redis, or with --every-server over each that there is.

For each program one server, and on it two plain Celery workers: one as Celery comes, on database 0, and one on another
database with every setting that changes names and bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import celery
import pytest
import redis as redis_py
from celery.backends.base import decompress_payload
from support.servers import RedisServer, chosen_binaries, redis_binaries, stock_worker
from support.waiting import until

from fibo_client.celery.client import CeleryClient
from fibo_client.celery.protocol import states
from fibo_client.celery.redis.options import RedisOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fibo_worker.dev import WorkerProcess


PATIENCE = 20.0
"""Seconds after which something that should have happened counts as not happening."""

PLAIN_CONF: dict[str, Any] = {"task_track_started": True}
SPECIAL_CONF: dict[str, Any] = {
    "broker_transport_options": {"global_keyprefix": "pfx:", "priority_steps": [0, 5], "sep": ":"},
    "result_backend_transport_options": {"global_keyprefix": "rp"},
    "result_extended": True,
    "result_compression": "gzip",
    "control_exchange": "mine",
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One way to set Celery up: the same for its own client, for its worker and for ours."""

    url: str
    conf: dict[str, Any]
    ours: dict[str, Any]
    process: WorkerProcess | None = None

    @property
    def node(self) -> str:
        return self.process.node

    @contextlib.contextmanager
    def celery(self) -> Iterator[celery.Celery]:
        """Celery's own client."""
        with celery.Celery("contract", broker=self.url, backend=self.url, set_as_current=False) as app:
            app.conf.update(self.conf)
            yield app
            # A result unsubscribes when it is collected, which fails where its server is gone.
            app.AsyncResult.__del__ = lambda _: None
            app.backend.result_consumer.stop()
            app.backend.client.connection_pool.disconnect()

    def wait_until_it_listens(self) -> None:
        """Wait for the worker's ear for remote control, which it opens after it has said that it is ready."""
        with self.celery() as app:
            until(lambda: app.control.ping(timeout=1, limit=1), "the worker answers no ping")

    def client(self, **settings: Any) -> CeleryClient:
        """Our client."""
        return CeleryClient(self.url, **{"timeout": PATIENCE, **self.ours, **settings})

    @contextlib.contextmanager
    def redis(self) -> Iterator[redis_py.Redis]:
        with redis_py.Redis.from_url(self.url) as client:
            yield client

    @property
    def broker_prefix(self) -> str:
        return self.ours["redis"].broker_prefix if self.ours else ""

    @property
    def result_prefix(self) -> str:
        return "rp_" if self.ours else ""


PLAIN_OURS: dict[str, Any] = {}
SPECIAL_OURS: dict[str, Any] = {
    "redis": RedisOptions(broker_prefix="pfx:", priority_steps=(0, 5), priority_separator=":", result_prefix="rp"),
    "control_exchange": "mine",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on one Redis server program, or with --every-server on all of this machine."""
    if "redis_server" in metafunc.fixturenames:
        names = list(chosen_binaries(metafunc.config)) or ["none"]  # Without one, starting it says how to get one.
        metafunc.parametrize("redis_server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One private Redis for each server program."""
    with RedisServer(redis_binaries().get(request.param)) as server:
        yield server


@pytest.fixture(params=["plain", "special"])
def unserved(request: pytest.FixtureRequest, redis_server: RedisServer) -> Side:
    """Each of the two ways, on an empty database that no worker serves."""
    url = redis_server.fresh_url()
    return Side(url, PLAIN_CONF, PLAIN_OURS) if request.param == "plain" else Side(url, SPECIAL_CONF, SPECIAL_OURS)


@pytest.fixture(scope="session")
def plain(redis_server: RedisServer) -> Iterator[Side]:
    """A plain Celery worker as it comes (but that it tells when it starts a task), on database 0."""
    with stock_worker(redis_server.url, conf=PLAIN_CONF, concurrency=2) as process:
        side = Side(redis_server.url, PLAIN_CONF, PLAIN_OURS, process)
        side.wait_until_it_listens()
        yield side


@pytest.fixture(scope="session")
def guarded(redis_server: RedisServer) -> Iterator[Side]:
    """A worker as the plain one, under every protection of the guard."""
    url = redis_server.fresh_url()
    with stock_worker(url, conf=PLAIN_CONF, concurrency=2, name="guarded", app="support.guarded") as process:
        side = Side(url, PLAIN_CONF, PLAIN_OURS, process)
        side.wait_until_it_listens()
        yield side


@pytest.fixture(scope="session", params=["plain", "guarded"])
def either(request: pytest.FixtureRequest, plain: Side, guarded: Side) -> Side:
    """The plain worker, and the guarded one."""
    return {"plain": plain, "guarded": guarded}[request.param]


@pytest.fixture(scope="session")
def special(redis_server: RedisServer) -> Iterator[Side]:
    """A plain Celery worker on another database, with prefixes, other lists and compressed, extended results."""
    url = redis_server.fresh_url()
    with stock_worker(url, conf=SPECIAL_CONF, name="special") as process:
        side = Side(url, SPECIAL_CONF, SPECIAL_OURS, process)
        side.wait_until_it_listens()
        yield side


@pytest.fixture(params=["plain", "special"])
def side(request: pytest.FixtureRequest, plain: Side, special: Side) -> Side:
    """Each of the two workers."""
    return {"plain": plain, "special": special}[request.param]


class Watch:
    """Everything that a worker publishes about one task, from before it is sent."""

    def __init__(self, side: Side, task_id: str) -> None:
        self.key = f"{side.result_prefix}celery-task-meta-{task_id}"
        self._redis = redis_py.Redis.from_url(side.url)
        self._pubsub = self._redis.pubsub()
        self._pubsub.subscribe(self.key)
        confirmation = self._pubsub.get_message(timeout=PATIENCE)
        assert confirmation
        assert confirmation["type"] == "subscribe"

    def until(self, end: str | None = None) -> list[bytes]:
        """The payloads until a state, or until a final one."""
        payloads: list[bytes] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = self._pubsub.get_message(timeout=0.5)
            if message is None:
                continue
            payloads.append(message["data"])
            state = state_of(message["data"])
            if state == end or (end is None and state in states.READY_STATES):
                return payloads
        pytest.fail(f"only {[state_of(each) for each in payloads]} came of {self.key}")

    def stored(self) -> bytes | None:
        return self._redis.get(self.key)

    def close(self) -> None:
        self._pubsub.close()
        self._redis.close()


def state_of(payload: bytes) -> str:
    """The state, by Celery's own reader."""
    return json.loads(decompress_payload(payload))["status"]


@pytest.fixture
def watch() -> Iterator[Any]:
    """Watch tasks, by ids of the test's own."""
    watches: list[Watch] = []

    def begin(side: Side, task_id: str) -> Watch:
        watches.append(Watch(side, task_id))
        return watches[-1]

    yield begin
    for each in watches:
        each.close()
