"""``python -m tests.soak [--minutes N]``: everything at once, with random cancellations, breaks and deadlines.

At the end nothing may be left: no waiter, no subscription, no asyncio task, no key without an expiry. It prints the
seed with which its random choices can be made again; what the machine does between them cannot be.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis as redis_py

from fibo_client import FIBONACCI, FiboClient, FiboError, ResultTimeoutError, TaskRevokedError
from fibo_worker.dev import running
from fibo_worker.fibonacci import fibonacci

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

ACTORS = 24
"""How many do something at the same time."""

_LOOKS = 300
"""How often to look, ten times a second, whether something is still held: it goes within seconds."""

EXPECTED = (ResultTimeoutError, asyncio.CancelledError)
"""What may come in place of an answer: what was asked for."""


@dataclass
class Report:
    """What happened.

    Attributes:
        done: How often each thing was done.
        wrong: What should not have happened.
        left: What was left behind.
    """

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Soak:
    """Callers of one client who cannot make up their minds."""

    def __init__(self, client: FiboClient, chance: random.Random, report: Report) -> None:
        self.client = client
        self.chance = chance
        self.report = report

    async def run(self, seconds: float) -> None:
        """Do things until time is up."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._act(until) for _ in range(ACTORS)))

    async def _act(self, until: float) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            self._one, self._one, self._at_once, self._many, self._stream, self._endless, self._dropped, self._handles
        ]  # fmt: skip
        while time.monotonic() < until:
            act = self.chance.choice(acts)
            task = asyncio.ensure_future(act())
            if self.chance.random() < 0.4:
                asyncio.get_running_loop().call_later(self.chance.expovariate(50), task.cancel)
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            self.report.done[f"{act.__name__.strip('_')}: {type(outcome).__name__ if outcome else 'done'}"] += 1
            if outcome is not None and not isinstance(outcome, EXPECTED):
                self.report.wrong.append(f"{act.__name__}: {outcome!r}")

    def _n(self) -> int:
        return self.chance.choice([self.chance.randrange(50), self.chance.randrange(20_000), 600_000])

    def _timeout(self) -> float:
        return self.chance.choice([0.0, 0.002, 0.02, 0.2, 20.0, 20.0, 20.0])

    def _check(self, n: int, value: Any) -> None:
        if value != fibonacci(n):
            self.report.wrong.append(f"F({n}) came as something else: {value!r:.80}")

    async def _one(self) -> None:
        n = self._n()
        self._check(n, await self.client.fibonacci(n, timeout=self._timeout()))

    async def _at_once(self) -> None:
        ns = [self._n() for _ in range(self.chance.randrange(1, 60))]
        answers = await asyncio.gather(
            *(self.client.fibonacci(n, timeout=self._timeout()) for n in ns), return_exceptions=True
        )
        for n, answer in zip(ns, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._check(n, answer)
            elif not isinstance(answer, EXPECTED):
                self.report.wrong.append(f"one of many calls: {answer!r}")

    async def _many(self) -> None:
        ns = [self._n() for _ in range(self.chance.randrange(300))]
        size = self.chance.choice([None, None, 1, 7])
        for n, value in zip(
            ns, await self.client.fibonacci_many(ns, timeout=self._timeout(), chunk_size=size), strict=True
        ):
            self._check(n, value)

    async def _stream(self) -> None:
        ordered = self.chance.random() < 0.5
        ns = [self._n() for _ in range(self.chance.randrange(300))]
        stop = self.chance.choice([None, 0, 5, 100])
        async with self.client.stream(
            ns, max_in_flight=self.chance.choice([1, 10, 200]), ordered=ordered, timeout=self._timeout()
        ) as results:
            count = 0
            async for n, value in results:
                self._check(n, value)
                count += 1
                if count == stop:
                    break

    async def _endless(self) -> None:
        async def source() -> AsyncIterator[int]:
            while True:
                yield self._n()
                if self.chance.random() < 0.1:
                    await asyncio.sleep(0.001)

        async with self.client.stream(source(), max_in_flight=50, return_exceptions=True) as results:
            count = 0
            async for n, value in results:
                self._check(n, value)
                count += 1
                if count == 100:
                    break

    async def _dropped(self) -> None:
        def source() -> Iterator[int]:
            while True:
                yield self._n()

        async for n, value in self.client.stream(source(), max_in_flight=20):
            self._check(n, value)
            if self.chance.random() < 0.2:
                break

    async def _handles(self) -> None:
        ns = [self._n() for _ in range(self.chance.randrange(1, 20))]
        handles = await self.client.submit_many(ns, task=FIBONACCI)
        await self.client.ready(handles)
        await asyncio.sleep(self.chance.random() * 0.02)
        for n, handle in zip(ns, handles, strict=True):
            if self.chance.random() < 0.1:
                await handle.revoke()
            try:
                self._check(n, await handle.get(timeout=self._timeout()))
            except (TaskRevokedError, ResultTimeoutError):
                pass


async def soak(url: str, seconds: float, seed: int) -> Report:
    """Do everything at once for a while, then look at what is left.

    Args:
        url: A Redis of our own, with a worker.
        seconds: For how long.
        seed: Of the random choices.

    Returns:
        What happened.
    """
    report = Report()
    before = asyncio.all_tasks()
    async with FiboClient(url, timeout=20) as client:
        await Soak(client, random.Random(seed), report).run(seconds)
        for _ in range(_LOOKS):
            held = _held(client, url)
            if not held:
                break
            await asyncio.sleep(0.1)
        report.left += held
    report.left += [f"asyncio task {task.get_name()}" for task in asyncio.all_tasks() - before]
    report.left += _keys(url)
    return report


def _held(client: FiboClient, url: str) -> list[str]:
    """Name what the client still holds although nobody waits."""
    held = []
    if pending := client.celery.engine._watcher.pending:
        held.append(f"{pending} waiters")
    if not all(line.idle for line in client._flights._lines.values()):
        held.append("numbers in flight")
    with redis_py.Redis.from_url(url) as redis:
        held += [f"subscription {name.decode()}" for name in redis.pubsub_channels("celery-task-meta-*")]
    streams = [task for task in asyncio.all_tasks() if task.get_name() == "fibo_client.stream"]
    return held + [f"{len(streams)} streams"] * bool(streams)


def _keys(url: str) -> list[str]:
    """Name the keys that nothing will ever remove: all that have no expiry, but for the worker's own few."""
    own = ("_kombu.binding", "unacked", "celery")  # bindings, what runs at the moment, what is still queued
    with redis_py.Redis.from_url(url) as redis:
        names = [name.decode() for name in redis.scan_iter(count=1000)]
        return [
            f"key {name}"
            for name in names
            if redis.ttl(name) == -1 and (name.startswith("celery-task-meta-") or not name.startswith(own))
        ]


def main() -> int:
    """Run it, and say what came of it.

    Returns:
        The exit status: 0 if nothing was wrong and nothing was left.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for how long (5)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    chosen = parser.parse_args()
    print(f"{chosen.minutes:g} minutes, --seed {chosen.seed}", flush=True)
    try:
        with running() as here:
            report = asyncio.run(soak(here.url, chosen.minutes * 60, chosen.seed))
    except FiboError as error:
        print(error, file=sys.stderr)
        return 1
    for what, count in sorted(report.done.items()):
        print(f"{count:8,} {what}")
    for line in (report.wrong + report.left)[:50]:
        print(line)
    print(f"{len(report.wrong)} wrong, {len(report.left)} left behind")
    return 1 if report.wrong or report.left else 0


if __name__ == "__main__":
    sys.exit(main())
