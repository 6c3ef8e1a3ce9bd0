"""The service of docs/examples, as a user runs it: uvicorn, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import redis.asyncio

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess
from support.programs import started
from support.servers import EXAMPLES, TESTS
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from support.programs import Program


@contextlib.contextmanager
def launched(
    broker_url: str, app: str, *arguments: str, env: Mapping[str, str] | None = None, **settings: object
) -> Iterator[tuple[str, Program]]:
    """Run a service for a block, and give its address. At the end it is killed.

    Args:
        broker_url: The Redis that it uses.
        app: What uvicorn runs.
        *arguments: More arguments for uvicorn.
        env: Variables to add to its environment.
        **settings: The service's settings, by their names in its `Settings`.
    """
    env = {**(env or {})} | {f"FIBO_SERVICE_{name.upper()}": str(value) for name, value in settings.items()}
    path = os.pathsep.join([str(EXAMPLES), str(TESTS.parent)])
    command = (sys.executable, "-W", "error", "-m", "uvicorn", app, "--port", "0", *arguments)
    with started(*command, env={"CELERY_BROKER_URL": broker_url, "PYTHONPATH": path, **env}) as program:
        said = re.search(r"Uvicorn running on (http://\S+)", program.wait_for("Uvicorn running on http"))
        assert said is not None
        yield said[1], program


@contextlib.contextmanager
def serving(broker_url: str, **settings: object) -> Iterator[str]:
    """Run the service of docs/examples, and give its address. It must end cleanly, without an exception."""
    with running(broker_url, **settings) as (address, _):
        yield address


@contextlib.contextmanager
def running(broker_url: str, **settings: object) -> Iterator[tuple[str, Program]]:
    """As `serving`, and give the program, too."""
    with launched(broker_url, "service.app:app", **settings) as (address, program):
        try:
            yield address, program
        finally:
            status = program.end(signal.SIGINT)
    assert "Application shutdown complete." in program.text, program.text
    assert "Traceback" not in program.text, program.text
    assert status in (0, -signal.SIGINT)


def read_events(text: str) -> list[tuple[str, str]]:
    """Read server-sent events: pairs of a name and its data."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], fields["data"]))
    return events


async def queued(url: str) -> int:
    """Count the tasks that wait in the queue, over all priorities."""
    async with redis.asyncio.Redis.from_url(url) as client:
        return sum([await client.llen(key) async for key in client.scan_iter("celery*", _type="list")])


@contextlib.contextmanager
def held_worker(url: str) -> Iterator[HeldWorker]:
    """Run a worker of one process, which can be held up, for a block."""
    with WorkerProcess(url, stop_timeout=0) as process:
        yield HeldWorker(url, process)


class HeldWorker:
    """A worker whose only process can be held up, so that what is sent to it waits in the queue and can be revoked.

    Attributes:
        url: Its Redis.
        process: The worker.
    """

    def __init__(self, url: str, process: WorkerProcess) -> None:
        self.url = url
        self.process = process

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold its process up in a block, by one harmless task."""
        async with FiboClient(self.url) as client:
            async with self.stopped():
                first = await client.submit(0)
                await eventually(lambda: self.said(f"[{first.id}] received"))
                yield
            assert await first.get(timeout=20) == 0

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Stop its process in a block, by SIGSTOP."""
        async with CeleryClient(self.url) as client:
            (stats,) = (await client.inspect(timeout=10).stats()).values()
        (pid,) = stats["pool"]["processes"]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def said(self, text: str) -> bool:
        """Whether its log has a text."""
        return text in self.process.log.read_text()
