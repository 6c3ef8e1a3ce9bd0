"""One number of two million digits."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.bench import TIMEOUT, in_turns, timed
from tests.benchmarks.report import Row

from fibo_client.contract import decode_number, encode_number
from fibo_worker.fibonacci import fibonacci

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench


def huge(here: Bench) -> list[Row]:
    """Compute one huge number through the worker, and in this process."""
    n = here.sizes.huge
    row = Row(
        f"F({n:,}), one call",
        "ms",
        "less",
        goal=1.5,
        beside="gmpy2 and hex both ways, here",
        note="the other side computes the number in the bench's own process, writes it as hex and reads that back.",
    )
    expected = local(n)
    for repeat in range(here.repeats):
        came = in_turns(repeat, ours=partial(through_worker, here, n), local=partial(timed, partial(local, n)))
        took, answer = came["ours"]
        here.checks["ours"].same([answer], [expected])
        here.fibo.clean()
        row.add(took * 1e3, came["local"][0] * 1e3)
        here.tell(row, repeat, here.repeats)
    return [row]


def through_worker(here: Bench, n: int) -> tuple[float, int]:
    """Time one call, and give its answer."""

    client = here.fibo.push  # Where nothing was measured before, this starts the worker.

    async def call() -> tuple[float, int]:
        began = time.perf_counter()
        answer = await client.fibonacci(n, timeout=TIMEOUT)
        return time.perf_counter() - began, answer

    return here.run(call())


def local(n: int) -> int:
    """Compute a number, write it as hex, and read that."""
    return decode_number(encode_number(fibonacci(n)))
