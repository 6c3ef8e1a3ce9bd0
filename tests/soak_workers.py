"""``python -m soak_workers [--minutes N] [--seed N] [--stock]``: workers are killed, cut off, and left without Redis.

Two protected workers serve tasks that are quick, slow, or due later, behind a proxy that drops their connections in
silence or resets them. Now and then one is killed with SIGKILL and comes back, or Redis is killed and starts again with
its data. Every call must have the right answer, or end by its deadline with an error that the contract names; no task
that never began may be a dead letter; and at the end nothing without an expiry may be left.

With --stock, two stock workers with the same settings have the same faults at the same time, on a Redis of their own.
Of both sides it is told how many tasks never began though their callers waited for long, and how many began again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis as redis_py
from support.outages import OVERRUN
from support.proxy import Proxy
from support.servers import TESTS, RedisServer, free_port
from support.soaking import VISIBILITY_TIMEOUT

from fibo_client import PublishError, PublishUnknownError, ResultTimeoutError, TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ADD = RemoteTask[..., int]("soaking.add")
ACTORS = 12
QUEUE = "celery"
LONG = 2 * VISIBILITY_TIMEOUT
"""Seconds in which a task that was taken by a worker that died is run by another one."""
OWN = (QUEUE, "_kombu.binding")
"""The keys without an expiry that may stay: what is queued, the dead letters, and the bindings of a worker."""


class Soak:
    """Callers, workers, and what happens to them.

    Args:
        directory: For what is written meanwhile.
        seed: Decides.
        kind: ``protected`` or ``stock``. Of stock workers, nothing is demanded.
    """

    def __init__(self, directory: Path, seed: int, kind: str) -> None:
        self.kind = kind
        self._faults, self._chance = random.Random(seed), random.Random(seed + 1)
        self._began = directory / "began"
        self._began.touch()
        self._redis = RedisServer(
            port=free_port(), options={"dir": str(directory), "appendonly": "yes", "appendfsync": "always"}
        )
        self._workers: list[WorkerProcess] = []
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._unanswered: set[str] = set()
        """The tasks whose callers have waited for long, and had no answer."""
        self.wrong: list[str] = []
        self.latest = 0.0

    async def run(self, seconds: float) -> None:
        """Let things happen until time is up, and look at what is left."""
        await asyncio.to_thread(self._redis.start)
        try:
            async with Proxy(self._redis.port).running() as proxy:
                await self._run(proxy, seconds)
        finally:
            for worker in self._workers:
                await asyncio.to_thread(worker.stop)
            await asyncio.to_thread(self._redis.stop)

    async def _run(self, proxy: Proxy, seconds: float) -> None:
        # A result is stored within the time limit, also over the second connection.
        env = {
            "PYTHONPATH": str(TESTS),
            "SOAKING_BEGAN": str(self._began),
            "SOAKING_IS": self.kind,
            "FIBO_SOCKET_TIMEOUT": "2",
        }
        for number in range(2):
            worker = WorkerProcess(
                proxy.url(self._redis.url),
                app="support.soaking",
                name=f"soaked{number}",
                concurrency=2,
                env=env,
                stop_timeout=20,
            )
            await asyncio.to_thread(worker.start)
            self._workers.append(worker)
        until = time.monotonic() + seconds
        async with CeleryClient(self._redis.url, io_timeout=2, revoke_on_cancel=True) as client:
            disasters = asyncio.create_task(self._let_things_happen(proxy, until))
            await asyncio.gather(*(self._act(client, until) for _ in range(ACTORS)))
            await disasters
            if self.kind == "stock":
                await asyncio.sleep(2 * VISIBILITY_TIMEOUT)
            else:
                await self._recover(client)
        for worker in self._workers:
            await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(self._look_at_what_is_left)

    async def _let_things_happen(self, proxy: Proxy, until: float) -> None:
        faults: list[Callable[[Proxy], Awaitable[None]]] = [
            self._kill_worker, self._kill_worker, self._swallow, self._swallow, self._cut, self._restart_redis
        ]  # fmt: skip
        while time.monotonic() < until:
            await asyncio.sleep(self._faults.uniform(1, 8))
            fault = self._faults.choice(faults)
            self.faults[fault.__name__.strip("_")] += 1
            await fault(proxy)

    async def _kill_worker(self, _: Proxy) -> None:
        worker = self._faults.choice(self._workers)
        with contextlib.suppress(ProcessLookupError):  # A stock worker may have ended.
            os.killpg(worker.pid, signal.SIGKILL)
        await asyncio.sleep(self._faults.uniform(0, 3))
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(worker.start)

    async def _swallow(self, proxy: Proxy) -> None:
        proxy.forget(subscribers=self._faults.random() < 0.3)

    async def _cut(self, proxy: Proxy) -> None:
        proxy.cut()

    async def _restart_redis(self, _: Proxy) -> None:
        await asyncio.to_thread(self._redis.stop)  # It is killed, and has written all to disk.
        await asyncio.sleep(self._faults.uniform(0, 3))
        await asyncio.to_thread(self._redis.start)

    async def _act(self, client: CeleryClient, until: float) -> None:
        while time.monotonic() < until:
            x, timeout = self._chance.randrange(1000), self._chance.choice([1.0, 10.0, 30.0, 60.0])
            options: dict[str, Any] = {}
            seconds = 0.0
            match self._chance.randrange(4):
                case 0:
                    seconds = self._chance.uniform(0.1, 3.0)
                case 1:
                    options["countdown"] = self._chance.uniform(0.5, 10.0)
            options["retry"] = self._chance.random() < 0.5
            began = time.monotonic()
            (answer,) = await asyncio.gather(
                client.call(ADD(x, 1, seconds=seconds), timeout=timeout, **options), return_exceptions=True
            )
            late = time.monotonic() - began - timeout
            self.latest = max(self.latest, late)
            if late > OVERRUN:
                self.wrong.append(f"a call ended {late:.3f} s past its deadline, with {answer!r:.100}")
            match answer:
                case int():
                    self.outcomes["answer"] += 1
                    if answer != x + 1:
                        self.wrong.append(f"{x} + 1 came as {answer}")
                case PublishError() | PublishUnknownError() | ResultTimeoutError():  # What the contract names.
                    self.outcomes[type(answer).__name__] += 1
                    if isinstance(answer, ResultTimeoutError) and timeout > LONG:
                        self._unanswered.update(answer.task_ids)
                # Two workers were killed while they ran it; or its result could not be stored within its time limit.
                case TaskFailedError(exc_type="WorkerLostError" | "TimeLimitExceeded"):
                    self.outcomes[answer.exc_type] += 1
                case _:
                    self.wrong.append(f"a call ended with {answer!r:.300}")

    async def _recover(self, client: CeleryClient) -> None:
        """Check that both workers serve again, by themselves, when nothing happens any more."""
        for worker in self._workers:
            try:
                worker.check()
            except RuntimeError as error:
                self.wrong.append(f"a worker has ended: {error}"[:2000])
        serving: set[str] = set()
        deadline = time.monotonic() + 60
        while len(serving) < len(self._workers) and time.monotonic() < deadline:
            serving |= set(await client.ping(timeout=2))
        if len(serving) < len(self._workers):
            self.wrong.append(f"only {sorted(serving)} answer a minute after the last fault")
        answer = await client.call(ADD(1, 1), timeout=60)
        if answer != 2:
            self.wrong.append(f"1 + 1 came as {answer}")
        # What was taken by workers that were killed is in the queue again by then, or has expired.
        await asyncio.sleep(2 * VISIBILITY_TIMEOUT)

    def _look_at_what_is_left(self) -> None:
        began = Counter(self._began.read_text().split())
        self.outcomes["task lost: it never began"] = len(self._unanswered - began.keys())
        self.outcomes["task began"] = len(began)
        self.outcomes["task began again"] = began.total() - len(began)
        with redis_py.Redis.from_url(self._redis.url) as direct:
            for stored in direct.lrange(f"{QUEUE}.dead", 0, -1):
                letter = DeadLetter.decode(stored)
                self.outcomes["dead letter"] += 1
                if letter.id not in began:
                    self.wrong.append(f"{letter.id} is a dead letter and never began: {letter.reason}")
            for key in direct.scan_iter(count=1000):
                name = key.decode()
                if direct.ttl(key) == -1 and not name.startswith(OWN):
                    self.wrong.append(f"the key {name} is left, without an expiry")


def main() -> int:
    """Run it, and say what came of it.

    Returns:
        The exit status: 0 if nothing was wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m soak_workers", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long (10)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--stock", action="store_true", help="stock workers, too, with the same faults")
    chosen = parser.parse_args()
    print(f"{chosen.minutes:g} minutes, --seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        soaks = []
        for kind in ("protected", *(["stock"] if chosen.stock else [])):
            (place := Path(directory, kind)).mkdir()
            soaks.append(Soak(place, chosen.seed, kind))
        asyncio.run(run(soaks, chosen.minutes * 60))
    for soak in soaks:
        print(f"{soak.kind} workers:")
        for counted in (soak.faults, soak.outcomes):
            for what, count in sorted(counted.items()):
                print(f"{count:8,} {what}")
    (soak, *_) = soaks
    print(f"none ended later than {max(soak.latest, 0) * 1000:.0f} ms past its deadline")
    for line in soak.wrong[:50]:
        print(line)
    print(f"{len(soak.wrong)} wrong")
    return bool(soak.wrong)


async def run(soaks: list[Soak], seconds: float) -> None:
    """Run all of them at the same time."""
    await asyncio.gather(*(soak.run(seconds) for soak in soaks))


if __name__ == "__main__":
    sys.exit(main())
