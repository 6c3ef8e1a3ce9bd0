"""What a number costs a worker, measured beside what the client estimates: ``python -m tests.benchmarks.calibrate``.

A worker's process is busy with a chunk from the check of its arguments until the answer is stored: for each value
it computes, writes hexadecimal text and JSON, encodes that twice and sends it twice, since Celery's backend stores
an answer and publishes it too. (What the pool passes to the worker's main process is a short repr.) So this runs
the task's own function, and lets Celery's own backend store what it gave, in a private Redis.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `support` is

from support.clients import celery_client
from support.servers import RedisServer

from fibo_client import contract
from fibo_client.batching import packing
from fibo_worker.tasks import fibonacci_chunk

if TYPE_CHECKING:
    from celery import Celery

NUMBERS = (0, 10, 100, 300, *(digit * 10**power for power in range(3, 7) for digit in (1, 2, 5)), 10**7)
"""The n that are measured: those of `packing.COSTS`, and some between, which show what its straight lines miss."""

CHUNK_SUM = 1_000_000
"""What the numbers of a measured chunk add up to at most, so that its reply is of the size that `pack` allows."""


class Cost(NamedTuple):
    """What one number costs.

    Attributes:
        n: The number.
        measured: Seconds of a worker's process.
        estimated: Seconds that `fibo_client.batching.packing.cost` says.
    """

    n: int
    measured: float
    estimated: float


def costs(repeats: int = 7, url: str | None = None) -> list[Cost]:
    """Measure what numbers cost a worker, in rounds over all of them.

    Args:
        repeats: How many rounds. The least counts: whatever else the machine does can only add.
        url: The Redis that stores the answers. None starts a private one.

    Returns:
        One record for each of `NUMBERS`, ascending.
    """
    with contextlib.ExitStack() as stack:
        where = url or stack.enter_context(RedisServer()).fresh_url()
        app = stack.enter_context(celery_client(where))
        measure(app, [1])  # connects
        chunks = {n: [n] * max(1, min(contract.MAX_CHUNK, CHUNK_SUM // max(n, 1))) for n in NUMBERS}
        took = dict.fromkeys(NUMBERS, math.inf)
        empty = math.inf
        for _ in range(repeats):
            for n, chunk in chunks.items():
                took[n] = min(took[n], measure(app, chunk))
                empty = min(empty, measure(app, []))
    # What a task costs by itself is no part of what its numbers cost.
    return [Cost(n, (took[n] - empty) / len(chunk), packing.cost(n)) for n, chunk in chunks.items()]


def measure(app: Celery, numbers: list[int]) -> float:
    """Do once what a worker does for a chunk.

    Args:
        app: Celery, with the backend that stores the answer.
        numbers: The chunk.

    Returns:
        The seconds that it took.
    """
    task_id = f"calibration-{time.monotonic_ns()}"
    began = time.perf_counter()
    answer = fibonacci_chunk(numbers)
    app.backend.store_result(task_id, answer, "SUCCESS")
    took = time.perf_counter() - began
    app.backend.client.delete(app.backend.get_key_for_task(task_id))
    return took


def table(records: list[Cost]) -> str:
    """Show costs, measured and estimated.

    Args:
        records: The costs.

    Returns:
        A line for each.
    """
    lines = [f"{'n':>12}{'measured':>14}{'estimated':>14}{'ratio':>8}"]
    for n, measured, estimated in records:
        lines.append(f"{n:>12,}{measured * 1e6:>11,.2f} us{estimated * 1e6:>11,.2f} us{estimated / measured:>8.2f}")
    return "\n".join(lines)


def constants(records: list[Cost]) -> str:
    """Write costs as the table that `packing.py` has.

    Args:
        records: The costs.

    Returns:
        Python.
    """
    known = {n for n, _ in packing.COSTS}
    points = [(n, measured) for n, measured, _ in records if n in known]
    return "\n".join(["COSTS: Final = (", *(f"    ({n:_}, {seconds:.1e})," for n, seconds in points), ")"])


def main() -> None:
    """Measure, and print the table and the constants."""
    records = costs()
    print(table(records))
    print()
    print(constants(records))


if __name__ == "__main__":
    main()
