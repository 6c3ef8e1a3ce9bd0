"""Fixtures that start servers: once a session, and only if a test asks."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import redis.asyncio
from hypothesis import settings
from support.acl import CLIENT, WORKER, make_users, refusals
from support.browser import HOW_TO_GET_ONE, find_chromium, pages, running_browser
from support.built import uv
from support.hand import NAME, Hand
from support.servers import RedisServer, project_worker, stock_worker

from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from playwright.async_api import Browser
    from support.browser import OpenPage


# How long an example takes says nothing on a busy machine. What takes too long altogether ends by pytest's timeout.
settings.register_profile("patient", deadline=None)
# For `make test`.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a word on whether one Redis server program will do."""
    parser.addoption(
        "--every-server",
        action="store_true",
        help="where a test is of the server, too, run it on every one found",
    )


def pytest_configure() -> None:
    """Forget the settings of whoever runs the tests, but for the choice of a server."""
    # Under nohup and in the background of a shell these are ignored, and the programs of tests would inherit that.
    for ignored, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, handler)
    for name in list(os.environ):
        ours = name.startswith(("CELERY_", "FIBO_")) or name in ("BROKER_URL", "RESULT_BACKEND", "STOCK_CONF")
        if ours and name != "FIBO_REDIS_SERVER":
            del os.environ[name]


@dataclasses.dataclass(frozen=True)
class RunningWorker:
    """A worker, and where to reach it: `url` for its clients, `admin_url` for who may do everything."""

    url: str
    process: WorkerProcess
    admin_url: str

    @property
    def node(self) -> str:
        return self.process.node


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One private Redis for the session. FIBO_REDIS_SERVER chooses its program."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis of a module's own, so that its counters can be read, and what is left in it counted."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty database, for this test alone."""
    return redis_server.fresh_url()


@pytest.fixture(scope="session")
def worker(redis_server: RedisServer) -> Iterator[RunningWorker]:
    """One fibo worker with two processes for the session. It and its clients may do what the security page allows."""
    urls = make_users(redis_server, db := redis_server.fresh_db())
    with WorkerProcess(urls[WORKER], concurrency=2, stop_timeout=0) as process:
        yield RunningWorker(urls[CLIENT], process, redis_server.database(db))
    assert refusals(redis_server, WORKER) == []  # whatever the tests have had it do


@pytest.fixture(scope="session")
def stock(redis_server: RedisServer) -> Iterator[RunningWorker]:
    """One plain Celery worker with two processes for the session, which knows only `support.stock`."""
    url = redis_server.fresh_url()
    with stock_worker(url, concurrency=2) as process:
        yield RunningWorker(url, process, url)


@pytest.fixture(scope="module")
def own_stock() -> Iterator[str]:
    """The URL of a plain Celery worker with two processes, on a Redis of a module's own, whose keys can be counted."""
    with RedisServer() as server, stock_worker(server.url, concurrency=2):
        yield server.url


@pytest.fixture(scope="session")
def proj(redis_server: RedisServer) -> Iterator[RunningWorker]:
    """One worker of the project that the documentation's examples call, beside the one of `fibo-worker dev`."""
    url = redis_server.fresh_url()
    with project_worker(url) as process, WorkerProcess(url, stop_timeout=0):
        yield RunningWorker(url, process, url)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make build` builds."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--all-packages", "--out-dir", folder)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for the session, on the session's event loop. `support.browser` says how tests use it."""
    program = find_chromium()
    if program is None:
        pytest.skip(HOW_TO_GET_ONE)
    async with running_browser(program) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """Open pages that must cause no console error, no uncaught one, and no request beyond this machine."""
    async with pages(browser) as opener:
        yield opener


@pytest.fixture
async def hand(server: RedisServer) -> AsyncIterator[Hand]:
    """A hand that plays the worker, on an empty database 0."""
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as client:
        await client.flushall()
        await client.config_resetstat()
        yield Hand(client)
