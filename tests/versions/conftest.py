"""A worker of each version of Celery, in an environment of its own, for the client of this environment.

The client is in those environments, too, but for that of Celery 5.2, whose redis-py is too old for it; and from Celery
5.5 on, so is the guard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.environments import ROOT, environment
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.servers import RedisServer

    from fibo_client.celery import AsyncResult, CeleryClient

PATIENCE = 20.0
"""Seconds after which something that should have happened counts as not happening."""

PINS = {path.stem.removeprefix("celery-"): path for path in sorted(Path(__file__).parent.glob("celery-*.txt"))}


NEWEST_PYTHON = {"5.2": (3, 11), "5.3": (3, 12)}
"""The newest Python on which what is pinned starts, where that is not every one."""


@dataclasses.dataclass(frozen=True)
class VersionedWorker:
    """A worker of one version, with one process, alone on its database. `python` is its environment's interpreter."""

    version: tuple[int, ...]
    url: str
    process: WorkerProcess
    python: Path

    @property
    def node(self) -> str:
        return self.process.node


def python_of(minor: str) -> Path:
    """Make the environment of a version such as ``5.3``, and give its interpreter."""
    if sys.version_info[:2] > NEWEST_PYTHON.get(minor, sys.version_info):
        pytest.skip(f"Celery {minor}, as it is pinned, does not start on this Python")
    pins = str(PINS[minor].relative_to(ROOT))
    packages, pinned_by = ["--requirement", pins], [pins]
    ours = {"5.2": [], "5.3": ["fibo_client"], "5.4": ["fibo_client"]}.get(minor, ["fibo_client", "fibo_worker"])
    for each in ours:
        packages += ["--editable", each]
        pinned_by += [f"{each}/pyproject.toml", f"{each}/src/{each}/_version.py"]
    return environment(PINS[minor].stem, Path(sys.executable), packages, pinned_by)


@contextlib.contextmanager
def worker_of(minor: str, url: str, **conf: Any) -> Iterator[VersionedWorker]:
    """Run a worker of a version such as ``5.3``, with settings, and see that it is one of that version."""
    python = python_of(minor)
    env = {"PYTHONPATH": str(ROOT / "tests"), "STOCK_CONF": json.dumps(conf)}
    with WorkerProcess(url, app="versions.hosted", python=python, env=env, stop_timeout=0) as process:
        assert f" v{minor}." in process.log.read_text()
        yield VersionedWorker(tuple(map(int, minor.split("."))), url, process, python)


@pytest.fixture(scope="session", params=[minor for minor in PINS if minor != "5.2"])
def worker(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[VersionedWorker]:
    """A worker of each version that is supported, one after the other."""
    with worker_of(request.param, redis_server.fresh_url()) as running:
        yield running


@pytest.fixture(scope="session")
def worker_of_5_2(redis_server: RedisServer) -> Iterator[VersionedWorker]:
    """A worker of the version that is not supported any more."""
    with worker_of("5.2", redis_server.fresh_url()) as running:
        yield running


async def heard(celery: CeleryClient) -> None:
    """See that the workers have obeyed what they were told: they answer in order."""
    assert await celery.ping(timeout=PATIENCE)


@pytest.fixture
async def fibo(worker: VersionedWorker) -> AsyncIterator[FiboClient]:
    async with FiboClient(worker.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def celery(fibo: FiboClient) -> CeleryClient:
    return fibo.celery


class Hold:
    """Keeps a worker's only process busy, until it is released."""

    def __init__(self, celery: CeleryClient, path: Path) -> None:
        self._celery = celery
        self.path = path
        self.task: AsyncResult[str]

    async def begin(self) -> None:
        """Wait until the worker is busy."""
        self.task = await self._celery.send_task("hosted.hold", (str(self.path),))

        async def runs() -> bool:
            tasks = await self._celery.inspect().active()
            return any(each["id"] == self.task.id for held in tasks.values() for each in held)

        await eventually(runs)

    def release(self) -> None:
        """Let the worker go on."""
        self.path.touch()


@pytest.fixture
async def hold(celery: CeleryClient, tmp_path: Path) -> AsyncIterator[Hold]:
    """Keep the worker's process busy from here on, at most until the test is over."""
    holding = Hold(celery, tmp_path / "release")
    await holding.begin()
    yield holding
    holding.release()
