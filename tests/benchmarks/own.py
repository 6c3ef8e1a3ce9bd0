"""Calls of one's own tasks: in chunks beside one message each, and a long stream of them.

``python -m tests.benchmarks.own URL COUNT``

streams so many calls in a process of its own, whose memory can be told.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.benchmarks.streams import FIRST, watched

from fibo_client.celery import CeleryClient, RemoteTask

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

NEGATED = RemoteTask[..., int]("stock.negated", chunkable=True)
CHUNK = 500
WINDOW = 20_000
TIMEOUT = 100
SHORT = 0.001
"""The seconds of a short task. It sleeps, so that what bounds it is not the machine's processors."""

ONE_EACH = "one message each"


def chunks(here: Bench) -> list[Row]:
    """Call an empty task, and one of a millisecond, in chunks and by one message each, on a plain worker."""
    from tests.benchmarks.bench import in_turns
    from tests.benchmarks.report import Row

    few, many = here.sizes.bulk, here.sizes.flood
    note = (
        f"distinct arguments, all answers checked, two processes. In chunks: call_many of {many:,}; one message each: "
        f"call_many of {few:,}. Tasks of {SHORT * 1e3:g} ms sleep: {5 * few:,} and {few:,} of them."
    )
    empty = Row(
        f"own empty tasks, {CHUNK} a message",
        "calls/s",
        "more",
        80,
        ONE_EACH,
        note=note,
    )
    short = Row(f"own tasks of {SHORT * 1e3:g} ms, {CHUNK} a message", "calls/s", "more", None, ONE_EACH)
    for repeat in range(here.repeats):
        came = in_turns(
            repeat,
            chunks=lambda: rate(here, many, CHUNK),
            alone=lambda: rate(here, few, 1),
            short_chunks=lambda: rate(here, 5 * few, CHUNK, SHORT),
            short_alone=lambda: rate(here, few, 1, SHORT),
        )
        empty.add(came["chunks"], came["alone"])
        short.add(came["short_chunks"], came["short_alone"])
        here.tell(empty, repeat, here.repeats)
        here.tell(short, repeat, here.repeats)
    return [empty, short]


def rate(here: Bench, count: int, chunk_size: int, *seconds: float) -> float:
    """Make calls, check the answers, and give how many a second."""
    calls = [NEGATED(n, *seconds) for n in range(count)]
    began = time.perf_counter()
    answers = here.runner.run(here.stock.push.celery.call_many(calls, chunk_size=chunk_size, timeout=TIMEOUT))
    took = time.perf_counter() - began
    here.checks["ours"].same(answers, [-n for n in range(count)])
    here.stock.clean()
    return count / took


def stream(here: Bench) -> list[Row]:
    """Stream calls in chunks, and watch memory and speed."""
    from tests.benchmarks.bench import ROOT
    from tests.benchmarks.report import Row

    count = max(here.sizes.flood, 10 * FIRST)
    note = f"{CHUNK} calls a message, window {WINDOW:,}, on a plain worker with two processes, all answers checked."
    grown = Row(f"stream of {count:,} own calls: growth of memory after {FIRST:,}", "MiB", "less", 64, None, note=note)
    speed = Row(f"stream of {count:,} own calls", "calls/s", "more", 0.9, f"its first {FIRST:,}")
    for repeat in range(here.repeats):
        came = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.own", here.stock.url, str(count)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            timeout=600,
        )
        said = json.loads(came.stdout)
        here.checks["ours"].asked += count
        here.checks["ours"].right += said["right"]
        grown.add((said["memory_most"] - said["memory_first"]) / 2**20)
        speed.add(count / said["seconds"], FIRST / said["seconds_first"])
        here.stock.clean()
        here.tell(grown, repeat, here.repeats)
        here.tell(speed, repeat, here.repeats)
    return [grown, speed]


async def measure(url: str, count: int) -> dict[str, Any]:
    """Stream calls, check each answer, and look at time and memory every so many."""
    async with CeleryClient(url) as client:
        await client.call(NEGATED(1), timeout=TIMEOUT)
        answers = client.stream(NEGATED, range(count), chunk_size=CHUNK, max_in_flight=WINDOW, timeout=TIMEOUT)
        return await watched(answers, count, lambda n, answer: answer == -n)


if __name__ == "__main__":
    for name in [each for each in os.environ if each.startswith(("CELERY_", "FIBO_"))]:
        del os.environ[name]
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))))
