"""A long stream, in a process of its own, whose memory can be told.

``python -m tests.benchmarks.streams URL COUNT``
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibo_client import FiboClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

    from fibo_client import Stream

BELOW = 1000
WINDOW = 2000
FIRST = 10_000
"""What comes later is compared with the first so many values."""

STATUS = Path("/proc/self/status")
SEED = 5


def stream(here: Bench) -> list[Row]:
    """Stream random small numbers and watch memory and speed."""
    from tests.benchmarks.bench import ROOT
    from tests.benchmarks.report import Row, Work

    count = here.sizes.streamed
    note = f"random n below {BELOW:,}, window {WINDOW:,}. Equal numbers in flight are computed once: no claim of speed."
    memory = Row(
        f"stream of {count:,}: growth of memory after {FIRST:,}", "MiB", "less", 64, None, folded=True, note=note
    )
    rate = Row(f"stream of {count:,}", "values/s", "more", 0.95, f"its first {FIRST:,}", folded=True)
    repeats = here.repeats
    for repeat in range(repeats):
        with here.fibo.working(count) as work:
            came = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.streams", here.fibo.url, str(count)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
                timeout=600,
            )
        said = json.loads(came.stdout)
        here.checks["ours"].asked += count
        here.checks["ours"].right += said["right"]
        # Its first call, which connects, is none of the stream's.
        done = Work(count, work[0].computed - 1, work[0].tasks - 1)
        memory.add((said["memory_most"] - said["memory_first"]) / 2**20, work=done)
        rate.add(count / said["seconds"], FIRST / said["seconds_first"], work=done)
        here.fibo.clean()
        here.tell(memory, repeat, repeats)
        here.tell(rate, repeat, repeats)
    return [memory, rate]


async def measure(url: str, count: int) -> dict[str, Any]:
    """Stream numbers, check each, and look at time and memory every so many."""
    expected = [0, 1]
    while len(expected) < BELOW:
        expected.append(expected[-2] + expected[-1])
    source = numbers(count)
    async with FiboClient(url) as client:
        await client.fibonacci(1)
        return await watched(client.stream(source, max_in_flight=WINDOW), count, lambda n, value: value == expected[n])


async def watched(stream: Stream[int, int], count: int, is_right: Callable[[int, int], bool]) -> dict[str, Any]:
    """Read a stream to its end, check each answer, and look at time and memory every so many."""
    right = seen = 0
    memory_first = memory_most = 0
    seconds_first = 0.0
    began = time.perf_counter()
    async with stream as answers:
        async for n, value in answers:
            seen += 1
            right += is_right(n, value)
            if seen % FIRST == 0:
                now = memory()
                memory_most = max(memory_most, now)
                if seen == FIRST:
                    memory_first, seconds_first = now, time.perf_counter() - began
    seconds = time.perf_counter() - began
    return {
        "right": right if seen == count else 0,
        "memory_first": memory_first,
        "memory_most": memory_most,
        "seconds_first": seconds_first,
        "seconds": seconds,
    }


def numbers(count: int) -> Iterator[int]:
    """Give random numbers, the same in each run."""
    source = random.Random(SEED)
    return (source.randrange(BELOW) for _ in range(count))


def memory() -> int:
    """Give the bytes of memory that this process has resident; where the system does not tell, the most it had."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    for name in [each for each in os.environ if each.startswith(("CELERY_", "FIBO_"))]:
        del os.environ[name]
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))))
