"""The clock of a machine is wrong: the caller's, or a worker's.

Each is a program of its own, under Debian's `faketime`, which shifts what the system says of the time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support.outages import outage
from support.programs import run
from support.servers import TESTS
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    import redis

pytestmark = pytest.mark.skipif(
    shutil.which("faketime") is None,
    reason="faketime shifts the clock of one program, and is not installed: apt install faketime",
)

_PROGRAM = """
import asyncio, json, sys, time
from fibo_client import FiboError
from fibo_client.celery import CeleryClient

async def main(url, options):
    async with CeleryClient(url) as celery:
        began = time.monotonic()
        try:
            said = "the answer", str(await celery.call("stock.add", (1, 2), **options))
        except FiboError as error:
            said = type(error).__name__, str(error)
        print(json.dumps([*said, time.monotonic() - began, time.time()]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


def call(url: str, shift: int, **options: object) -> tuple[str, str, float]:
    """Call a task from a program whose clock is shifted.

    Returns:
        What the caller saw, its text, and the seconds that it took.
    """
    done = run(
        "faketime", "-f", f"{shift:+d}s", sys.executable, "-c", _PROGRAM, url, json.dumps(options),
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, text, took, clock = json.loads(done.stdout)
    assert abs(clock - shift - time.time()) < 5, "the clock was not shifted"
    return name, text, took


@outage(
    "The caller's clock is 10 s behind, and `timeout` is 5 s",
    sees="`ResultTimeoutError`",
    within="at once",
    submitted="yes; the worker drops it as expired",
    retry="with a correct clock, or a longer `timeout`",
)
def test_a_clock_that_is_behind_is_named(witness, stock):
    name, text, took = call(stock.url, -10, timeout=5)
    witness.times.append(took)
    assert name == "ResultTimeoutError"
    assert "compare the clocks" in text
    assert took < 5


@outage(
    "The caller's clock is 10 s ahead",
    sees="the answer",
    within="`timeout`",
    submitted="yes; it expires 10 s late",
    retry="not needed",
)
def test_a_clock_that_is_ahead_does_no_harm(witness, stock):
    name, text, took = call(stock.url, 10, timeout=5)
    witness.times.append(took)
    assert (name, text) == ("the answer", "3")


@outage(
    "The caller's clock is 10 s ahead, and the task has a `countdown`",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes; it would begin 10 s late",
    retry="with a correct clock, or a longer `timeout`",
)
def test_a_countdown_is_counted_from_the_callers_clock(witness, stock):
    name, _, took = call(stock.url, 10, countdown=0.5, timeout=2)
    witness.times.append(took)
    assert name == "ResultTimeoutError"
    assert 2 <= took < 5


@outage(
    "The caller's clock is 10 s behind, and the task has a `countdown`",
    sees="the answer",
    within="the task begins up to 10 s early",
    submitted="yes",
    retry="not needed",
)
def test_a_countdown_that_is_over_already_is_none(witness, stock):
    name, text, took = call(stock.url, -10, countdown=9, timeout=30)
    witness.times.append(took)
    assert (name, text) == ("the answer", "3")
    assert took < 8


QUICK = {"FIBO_SOFT_TIME_LIMIT": "8", "FIBO_TIME_LIMIT": "9", "FIBO_VISIBILITY_TIMEOUT": "10"}
"""With these, a worker looks for lost messages every second."""


def shifted(url: str, shift: int, *, name: str, queue: str = "celery") -> WorkerProcess:
    """A worker whose clock is shifted."""
    done = run("faketime", "-f", "+0s", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])")
    assert done.returncode == 0, done.stderr
    env = {"PYTHONPATH": str(TESTS), **QUICK, "LD_PRELOAD": done.stdout.strip()}
    env |= {"FAKETIME": f"{shift:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return WorkerProcess(url, app="support.poisoned", name=name, concurrency=3, queues=[queue], env=env, stop_timeout=0)


def runs(log: Path) -> int:
    return len(log.read_text().split()) if log.exists() else 0


@pytest.mark.parametrize(("takes", "looks"), [(-600, 0), (0, 600), (600, 0), (0, -600)])
@outage(
    "A worker's clock is off by more than the visibility timeout",
    sees="the answer",
    within="`timeout`",
    submitted="yes, once",
    retry="not needed",
)
@pytest.mark.timeout(120)
async def test_no_worker_takes_the_task_of_another_for_lost_by_a_wrong_clock(
    witness, redis_server, tmp_path, takes, looks
):
    url, log = redis_server.fresh_url(), tmp_path / "log"
    # The other one serves another queue, so that what it took for lost would come back to the first one, and be buried.
    with shifted(url, takes, name="takes"), shifted(url, looks, name="looks", queue="other"):
        async with CeleryClient(url) as celery:
            handle = await celery.send_task("poison.count", (str(log), 3))
            assert await witness.see(handle.get(timeout=50), deadline=50) == "done"
    assert runs(log) == 1


@outage(
    "A worker whose clock is ahead is killed while its task runs",
    sees="the answer",
    within="the visibility timeout, and up to 10 s more",
    submitted="yes; it runs again",
    retry="not needed",
)
@pytest.mark.timeout(120)
async def test_the_task_of_a_lost_worker_comes_again_in_time_whatever_its_clock_was(witness, redis_server, tmp_path):
    url, log = redis_server.fresh_url(), tmp_path / "log"
    async with CeleryClient(url) as celery:
        handle = await celery.send_task("poison.count", (str(log), 3))
        with shifted(url, 600, name="lost") as worker, redis_server.client(url) as direct:
            await eventually(log.exists)
            (at_start,) = scores(direct)
            await eventually(lambda: scores(direct) > [at_start])  # Only now has the worker renewed it.
            os.killpg(worker.pid, signal.SIGKILL)
        with shifted(url, 0, name="next"):
            assert await witness.see(handle.get(timeout=50), deadline=50) == "done"
    assert runs(log) == 2


def scores(direct: redis.Redis) -> list[float]:
    """The times at which the messages were renewed that workers have taken."""
    return [score for _, score in direct.zrange("unacked_index", 0, -1, withscores=True)]
