"""What calls cost that are all there at once: the memory of those that wait, and what a hundred clients get done.

``python -m tests.benchmarks.crowds SIDE URL COUNT``

tells the bytes of memory of one waiting call of a side: ``ours``, or ``bare``, which are tasks that await a future.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `support` is

from support.waiting import eventually
from tests.benchmarks.streams import memory

from fibo_client.celery import CeleryClient

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

TASK = "tasks.fibo_task"
N = 30
NOBODY = "nobody"
WARM_UP = 500
TIMEOUT = 100


# Memory.


def held(here: Bench) -> list[Row]:
    """Make calls that have no answer, and look at the memory of the process."""
    from tests.benchmarks.bench import in_turns
    from tests.benchmarks.report import Row

    count = here.sizes.held
    row = Row(
        "memory of a pending celery.call",
        "KiB",
        "less",
        beside=None,
        limit="a task that awaits a future",
        note=f"the growth of a process that makes {count:,} calls whose tasks nobody takes, by what it has resident.",
    )
    for repeat in range(here.repeats):
        came = in_turns(
            repeat,
            ours=partial(bytes_each, "ours", here.server.fresh_url(), count),
            bare=partial(bytes_each, "bare", here.server.url, count),
        )
        row.add(came["ours"] / 1024, limit=came["bare"] / 1024)
        here.tell(row, repeat, here.repeats)
    return [row]


def bytes_each(side: str, url: str, count: int) -> float:
    """Run the program of one side."""
    from tests.benchmarks.bench import ROOT

    command = [sys.executable, "-m", "tests.benchmarks.crowds", side, url, str(count)]
    came = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT)
    return float(came.stdout)


async def measure(side: str, url: str, count: int) -> float:
    """Give the bytes of one waiting call."""
    async with CeleryClient(url) as client:
        sent = 0

        async def grown(calls: int) -> float:
            nonlocal sent
            sent += calls
            before = memory()
            tasks = [asyncio.create_task(waiting(client, side)) for _ in range(calls)]
            await asyncio.sleep(0)
            if side == "ours":
                await eventually(lambda: client.stats().published == sent and not client.stats().unsent)
                await asyncio.sleep(0.1)  # Until the last of them waits.
            each = (memory() - before) / calls
            for task in tasks:
                if task.done():
                    raise RuntimeError("an answer came, or a call failed")
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return each

        await grown(WARM_UP)
        return await grown(count)


async def waiting(client: CeleryClient, side: str) -> None:
    """Wait for what does not come."""
    if side == "ours":
        await client.call(TASK, (N,), queue=NOBODY, timeout=TIMEOUT)
    else:
        await asyncio.get_running_loop().create_future()


# Many clients.


def clients(here: Bench) -> list[Row]:
    """Let many clients of one program call at once, each again as soon as it has its answer."""
    from tests.benchmarks.bench import in_turns
    from tests.benchmarks.collecting import worker_alone
    from tests.benchmarks.report import Row
    from tests.benchmarks.sending import idle, ready_bytes

    place, count, calls = here.stock, here.sizes.clients, here.sizes.client_calls
    note = f"{count} clients in one process, {calls} calls of each, one after the other; one plain worker."
    limit = "the worker alone, no client"
    rate = Row(f"{count} clients at once", "calls/s", "more", beside=None, limit=limit, note=note)
    connections = Row("connections of each of them", "", "less", beside=None)
    with idle(here) as (client, _, redis):
        messages = [ready_bytes(here, client, redis, count * calls) for _ in range(here.repeats)]
    for repeat in range(here.repeats):
        came = in_turns(
            repeat,
            ours=lambda: here.run(crowd(here, count, calls)),
            limit=partial(worker_alone, place, messages[repeat]),
        )
        took, each = came["ours"]
        rate.add(count * calls / took, limit=count * calls / came["limit"])
        connections.add(each)
        here.tell(rate, repeat, here.repeats)
        place.clean()
    return [rate, connections]


async def crowd(here: Bench, count: int, calls: int) -> tuple[float, float]:
    """Give the seconds of all calls of all clients, and the connections of one."""
    place = here.stock
    answers: list[object] = []
    before = len(place.redis.client_list())
    crowd = [CeleryClient(place.url) for _ in range(count)]

    async def call(client: CeleryClient, calls: int) -> None:
        answers.extend([await client.call(TASK, (N,), timeout=TIMEOUT) for _ in range(calls)])

    try:
        for client in crowd:
            await client.open()
        await asyncio.gather(*(call(client, 1) for client in crowd))  # Some connections are made for the first call.
        began = time.perf_counter()
        await asyncio.gather(*(call(client, calls) for client in crowd))
        took = time.perf_counter() - began
        each = (len(place.redis.client_list()) - before) / count
    finally:
        await asyncio.gather(*(client.aclose() for client in crowd))
    here.checks["ours"].sentences(answers)
    return took, each


if __name__ == "__main__":
    for variable in [each for each in os.environ if each.startswith(("CELERY_", "FIBO_"))]:
        del os.environ[variable]
    print(asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
