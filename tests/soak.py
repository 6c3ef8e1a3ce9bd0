"""``python -m soak [--minutes N] [--rounds N] [--calls N]``: everything at once, then everything while Redis kills it.

First come random cancellations, breaks and deadlines; then rounds of 5,000 numbers while Redis kills the client's
connections every 200 ms, beside calls with deadlines too short to be kept; then calls that no worker answers. At the
end nothing may be left: no waiter, no subscription, no asyncio task, no key without an expiry. It prints the seed with
which its random choices can be made again; what the machine does between them cannot be.
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
from support.killer import Killer, prey
from support.outages import OVERRUN
from support.unanswered import call_in_vain, still_to_run

from fibo_client import FIBONACCI, FiboClient, FiboError, ResultTimeoutError, TaskRevokedError, TransportError
from fibo_client.celery.config import EXPIRY_MARGIN
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
                    await asyncio.sleep(0.001)  # Some numbers are late.

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
        await asyncio.sleep(self.chance.random() * 0.02)  # Some have an answer by then, and some have not.
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
        await _settle(client, url, report)
    report.left += [f"asyncio task {task.get_name()}" for task in asyncio.all_tasks() - before]
    report.left += _keys(url)
    return report


@dataclass
class Rounds:
    """What came of rounds under kills.

    Attributes:
        done: How many came complete and right.
        killed: How many connections were killed meanwhile.
        calls: How many calls with short deadlines were made beside them.
        late: The most seconds that any call ended past its deadline.
        seconds: How long all of it took.
    """

    done: int = 0
    killed: int = 0
    calls: int = 0
    late: float = 0.0
    seconds: float = 0.0


class Hunted:
    """A client whose connections are killed while it works."""

    def __init__(self, client: FiboClient, chance: random.Random) -> None:
        self.client = client
        self.chance = chance
        self.rounds = Rounds()
        self.report = Report()
        self._expected = [fibonacci(n) for n in range(5000)]

    async def run(self, count: int, killer: Killer) -> None:
        """Go so many rounds, with other calls beside them."""
        began = time.monotonic()
        async with killer.every(0.2):
            others = [asyncio.create_task(self._beside()) for _ in range(4)]
            for number in range(count):
                await self._round(number)
            for task in others:
                task.cancel()
            for outcome in await asyncio.gather(*others, return_exceptions=True):
                if not isinstance(outcome, asyncio.CancelledError):
                    self.report.wrong.append(f"a call beside the rounds: {outcome!r:.300}")
        self.rounds.killed, self.rounds.seconds = killer.killed, time.monotonic() - began

    async def _round(self, number: int) -> None:
        # Ten numbers a task, so that a round is long enough to be hit several times.
        values = await self._timed(self.client.fibonacci_many(range(5000), timeout=20, chunk_size=10), 20)
        if values == self._expected:
            self.rounds.done += 1
        else:
            self.report.wrong.append(f"round {number} came incomplete or wrong")

    async def _beside(self) -> None:
        while True:
            n, timeout = self.chance.randrange(20_000), self.chance.choice([0.0, 0.005, 0.05, 0.1])
            value = await self._timed(self.client.fibonacci(n, timeout=timeout), timeout)
            self.rounds.calls += 1
            if value is not None and value != fibonacci(n):
                self.report.wrong.append(f"F({n}) came as something else: {value!r:.80}")

    async def _timed(self, call: Awaitable[Any], timeout: float) -> Any:
        began = time.monotonic()
        try:
            return await call
        except (ResultTimeoutError, TransportError):  # Time was up before it could be sent again.
            return None
        finally:
            self.rounds.late = max(self.rounds.late, time.monotonic() - began - timeout)


async def rounds_under_kills(url: str, count: int, seed: int) -> tuple[Rounds, Report]:
    """Ask for 5,000 numbers, again and again, while Redis kills the client's connections every 200 ms.

    Args:
        url: A Redis of our own, with a worker.
        count: How many times.
        seed: Of the short deadlines.

    Returns:
        What came of it, and what was wrong or left behind.
    """
    before = asyncio.all_tasks()
    with redis_py.Redis.from_url(url) as direct, prey(direct, url) as prey_url:
        async with FiboClient(prey_url) as client:
            hunted = Hunted(client, random.Random(seed))
            await hunted.run(count, Killer(direct))
            await _settle(client, url, hunted.report)
    rounds, report = hunted.rounds, hunted.report
    if rounds.late > OVERRUN:
        report.wrong.append(f"a call ended {rounds.late:.3f} s past its deadline")
    report.left += [f"asyncio task {task.get_name()}" for task in asyncio.all_tasks() - before]
    report.left += _keys(url)
    return rounds, report


def calls_in_vain(url: str, count: int, *, coalesced: bool, report: Report) -> str:
    """Make calls that no worker answers, and say what is left of them.

    Args:
        url: A Redis of our own.
        count: How many.
        coalesced: Whether by `fibonacci`, whose calls share tasks, or by `call`, with a task for each.
        report: What is wrong or left behind is noted there.

    Returns:
        What came of it, in a line.
    """
    queue = f"nobody-{coalesced}"
    seen = asyncio.run(call_in_vain(url, queue, count, coalesced=coalesced))
    report.left += [f"{number} {what}" for what, number in seen.left.items() if number]
    with redis_py.Redis.from_url(url) as direct:
        if runnable := still_to_run(direct, queue, time.time() + EXPIRY_MARGIN):
            report.left.append(f"{len(runnable)} messages in {queue} that could still run")
        if keys := direct.keys(f"{queue}*"):
            direct.delete(*keys)
    return (
        f"{seen.timed_out:8,} of {count:,} calls by {'fibonacci' if coalesced else 'call'} timed out, the latest "
        f"{seen.latest * 1000:.0f} ms past its deadline; {seen.grown / 1e6:+.0f} MB, {seen.objects:+,} objects"
    )


async def _settle(client: FiboClient, url: str, report: Report) -> None:
    """Give what is still held a while to go, and note what does not."""
    for _ in range(_LOOKS):
        held = _held(client, url)
        if not held:
            return
        await asyncio.sleep(0.1)  # Not `eventually`: what does not go is a line of the report.
    report.left += held


def _held(client: FiboClient, url: str) -> list[str]:
    """Name what the client still holds although nobody waits."""
    held = []
    if pending := client.stats().pending:
        held.append(f"{pending} waiters")
    if not all(bucket.idle for bucket in client._batcher._buckets.values()):
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
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for how long (5)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--rounds", type=int, default=200, help="of 5,000 numbers under kills (200)")
    parser.add_argument("--calls", type=int, default=100_000, help="that no worker answers, of each kind (100000)")
    chosen = parser.parse_args()
    print(f"{chosen.minutes:g} minutes, {chosen.rounds} rounds, --seed {chosen.seed}", flush=True)
    try:
        with running() as here:
            report = asyncio.run(soak(here.url, chosen.minutes * 60, chosen.seed))
            rounds, under_kills = asyncio.run(rounds_under_kills(here.url, chosen.rounds, chosen.seed))
            in_vain = [calls_in_vain(here.url, chosen.calls, coalesced=each, report=report) for each in (True, False)]
    except FiboError as error:
        print(error, file=sys.stderr)
        return 1
    for what, count in sorted(report.done.items()):
        print(f"{count:8,} {what}")
    print(
        f"{rounds.done:8,} of {chosen.rounds} rounds of 5,000 numbers complete and right in {rounds.seconds:.0f} s, "
        f"{rounds.killed:,} connections killed; {rounds.calls:,} calls beside them, "
        f"none later than {max(rounds.late, 0) * 1000:.0f} ms past its deadline"
    )
    print(*in_vain, sep="\n")
    report.wrong += under_kills.wrong
    report.left += under_kills.left
    for line in (report.wrong + report.left)[:50]:
        print(line)
    print(f"{len(report.wrong)} wrong, {len(report.left)} left behind")
    return 1 if report.wrong or report.left else 0


if __name__ == "__main__":
    sys.exit(main())
