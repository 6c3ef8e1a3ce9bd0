"""What the scripts share: the same measurements, in the same order, of whatever they give. Standard library only."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

N = 30
F_N = 832040
CALLS = 200
WARM_UP = 20
TICK = 0.001
TIMEOUT = 100


def fibonacci(n):
    """What each peer's task computes."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


class Peer:
    """One task system. A method that is not async blocks the event loop, as it does for its users.

    Attributes:
        packages: Whose versions are told.
        workers: The commands that start its worker; several where it has one process each.
        environment: More variables for the worker.
    """

    packages = ()
    workers = ()

    def __init__(self, url, tasks):
        self.url = url
        self.tasks = tasks
        self.environment = {}

    async def open(self):
        """Connect."""

    async def close(self):
        """Disconnect."""

    async def submit(self, count):
        """Send so many tasks; give something to collect them by."""
        raise NotImplementedError

    async def collect(self, sent):
        """Wait for all answers, and give them in order."""
        raise NotImplementedError

    async def call(self):
        """Send one task and give its answer."""
        raise NotImplementedError

    async def many_calls(self, count):
        """Make so many calls at once, each as one of many callers would."""
        return await asyncio.gather(*(self.call_among_many() for _ in range(count)))

    async def call_among_many(self):
        """Send one task and give its answer, where many do so."""
        return await self.call()

    async def forget(self):
        """Drop what was sent to nobody."""
        raise NotImplementedError


def main(kind):
    """Run a script: ``with_x.py --redis URL --tasks COUNT``.

    Args:
        kind: Makes the peer.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    chosen = parser.parse_args()
    os.environ["BENCH_REDIS"] = chosen.redis
    print(json.dumps(asyncio.run(measure(kind(chosen.redis, chosen.tasks)))))


async def measure(peer):
    """Measure a peer: first how fast it sends while no worker runs, then the rest with one.

    Args:
        peer: The peer.

    Returns:
        Figures, counts of right answers, and versions.
    """
    figures = {}
    count = peer.tasks
    await peer.open()
    try:
        await peer.submit(10)
        await peer.forget()
        began = time.perf_counter()
        sent = await peer.submit(count)
        figures["submit"] = count / (time.perf_counter() - began)
        del sent
        await peer.forget()
        with workers(peer):
            for _ in range(WARM_UP):
                await asyncio.wait_for(maybe(peer.call()), TIMEOUT)
            answers = await in_bulk(peer, figures)
            answers += await one_by_one(peer, figures)
            answers += await at_once(peer, figures)
    finally:
        await peer.close()
    right = sum(answer == F_N for answer in answers)
    return {"figures": figures, "right": right, "asked": len(answers), "versions": versions(peer.packages)}


async def in_bulk(peer, figures):
    """Send all, collect all."""
    began = time.perf_counter()
    answers = await asyncio.wait_for(peer.collect(await peer.submit(peer.tasks)), TIMEOUT)
    figures["end_to_end"] = peer.tasks / (time.perf_counter() - began)
    return answers


async def one_by_one(peer, figures):
    """Make calls, each when the one before has its answer."""
    times, answers = [], []
    for _ in range(CALLS):
        began = time.perf_counter()
        answers.append(await asyncio.wait_for(maybe(peer.call()), TIMEOUT))
        times.append(time.perf_counter() - began)
    figures["call_p50"] = statistics.median(times) * 1e3
    figures["call_p99"] = percentile(times, 99) * 1e3
    return answers


async def at_once(peer, figures):
    """Make many calls at once, and watch the event loop."""
    lags = []

    async def look():
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(time.perf_counter() - due)

    looking = asyncio.create_task(look())
    await asyncio.sleep(5 * TICK)  # It looks before there is anything to see.
    answers = await asyncio.wait_for(peer.many_calls(peer.tasks), TIMEOUT)
    await asyncio.sleep(2 * TICK)  # So that the last stretch is seen.
    looking.cancel()
    figures["lag_p99"] = percentile(lags, 99) * 1e3
    figures["lag_max"] = max(lags) * 1e3
    return answers


async def maybe(came):
    """Await what can be awaited."""
    return await came if inspect.isawaitable(came) else came


@contextlib.contextmanager
def workers(peer):
    """Start a peer's worker, and stop it whatever happens. The first calls wait until it is ready."""
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        for command in peer.workers:
            process = subprocess.Popen(
                command,
                cwd=Path(__file__).parent,
                env={**os.environ, **peer.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(stop, process)
        try:
            yield
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-2000:])
            raise


def stop(process):
    """End a worker. What is left of it is ended with this script's process group."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def program(name):
    """Give the path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


def percentile(values, percent):
    """Give the value below which so many percent are."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def versions(packages):
    """Give the versions of packages, and of Python."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
