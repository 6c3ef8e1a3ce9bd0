"""A real worker with everything that is on by default, and what it is held to after an outage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from fibo_client import FiboError
from fibo_worker.child import Child
from support.servers import TESTS
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import redis

SERVES_AGAIN = 30.0
"""The most seconds until a worker serves again, and until it has ended when it is told to."""


@contextlib.asynccontextmanager
async def worker_of(url: str, concurrency: int = 1, **env: str) -> AsyncIterator[Child]:
    """A worker with everything that is on by default, which knows the tasks of `support.poisoned`."""
    command = [sys.executable, "-m", "celery", "--no-color", "-A", "support.poisoned", "worker"]
    variables = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "PYTHONPATH": str(TESTS), **env}
    worker = Child(
        [*command, "--loglevel", "INFO", "--concurrency", str(concurrency)],
        name="worker",
        env={**os.environ, **variables},
    )
    try:
        await asyncio.to_thread(worker.wait_until, lambda: " ready." in worker.log.read_text(errors="replace"), 60)
        yield worker
    finally:
        await asyncio.to_thread(worker.stop, signal.SIGKILL)


async def ended(worker: Child) -> None:
    """Tell a worker to end, and wait until it has."""
    os.kill(worker.pid, signal.SIGTERM)
    await eventually(lambda: not worker.running, lambda: worker.log.read_text(), timeout=SERVES_AGAIN)


async def sooner_or_later(worker: Child, call: Callable[[], Awaitable[object]]) -> None:
    """Call a worker again and again until there is an answer: each call may be given up after a second."""
    deadline = time.monotonic() + SERVES_AGAIN
    while True:
        try:
            if await call():
                return
        except FiboError:
            pass
        assert time.monotonic() < deadline, worker.log.read_text()


async def idle(direct: redis.Redis) -> None:
    """Wait until no task waits, and none is in the hands of a worker."""
    await eventually(lambda: not direct.exists("celery", "unacked"))


def runs(path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
