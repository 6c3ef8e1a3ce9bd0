"""Count the Python calls that a warm call costs in the client's own files, and show their order.

``python -m tests.benchmarks.walk``, with ``--functions`` for each function, in the order of its first call. A coroutine
that goes on counts once more, as each time its frame is entered. Everything is counted until the client has nothing
left to do: also what is cleaned up a second later.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from tests.benchmarks.bench import QUICK, TIMEOUT, bench
from tests.benchmarks.program import forget_environment

import fibo_client
from fibo_client import FiboClient
from fibo_client.contract import FIBONACCI

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import CodeType, FrameType

PACKAGE = str(Path(fibo_client.__file__).parent)

GOALS = {"celery.call": 130, "fibonacci_many of 3": 200}
"""The most calls of those that have a bound."""

WARM_UP = 10
WALKS = 5
CLEANED = 2.5
"""Seconds after which a client has cleaned up."""


@contextlib.contextmanager
def counting() -> Iterator[Counter[CodeType]]:
    """Count the calls of functions of the package in this thread."""
    calls: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[frame.f_code] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def walked(act: Callable[[], Awaitable[object]]) -> Counter[CodeType]:
    """Count what one call costs, once it is warm and nothing else is left to do: the median of some."""
    for _ in range(WARM_UP):
        await act()
    await asyncio.sleep(CLEANED)
    walks = []
    for _ in range(WALKS):  # A machine that is busy elsewhere makes a client read once more.
        with counting() as calls:
            await act()
            await asyncio.sleep(CLEANED)
        walks.append(calls)
    return sorted(walks, key=Counter.total)[WALKS // 2]


async def cancelled(client: FiboClient) -> None:
    """Cancel a call whose task has been sent."""
    call = asyncio.create_task(client.celery.call("tasks.fibo_task", (30,), queue="nobody", timeout=TIMEOUT))
    await asyncio.sleep(0.05)  # Not `eventually`: what it asks would be counted, too.
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def walk(pushed: FiboClient, polled: FiboClient) -> dict[str, Counter[CodeType]]:
    """Walk the ways that matter."""
    return {
        "celery.call": await walked(lambda: pushed.celery.call(FIBONACCI.name, (30,), timeout=TIMEOUT)),
        "celery.call, polled": await walked(lambda: polled.celery.call(FIBONACCI.name, (30,), timeout=TIMEOUT)),
        "fibonacci_many of 3": await walked(lambda: pushed.fibonacci_many([30, 31, 32], timeout=TIMEOUT)),
        "fibonacci": await walked(lambda: pushed.fibonacci(30, timeout=TIMEOUT)),
        "celery.call, cancelled": await walked(lambda: cancelled(pushed)),
    }


def main() -> int:
    """Count, and show what was counted.

    Returns:
        The exit status: 0 if no bound was passed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.walk", description=__doc__)
    parser.add_argument("--functions", action="store_true", help="show each function, in the order of its first call")
    show_functions = parser.parse_args().functions
    console = Console(highlight=False)
    forget_environment()
    over = False
    with bench(QUICK, 1, console.print) as here:
        for name, calls in here.run(walk(here.fibo.push, here.fibo.poll)).items():
            files = {code.co_filename for code in calls}
            bound = f" (at most {GOALS[name]})" if name in GOALS else ""
            console.print(f"{name}: {calls.total()} calls of {len(calls)} functions in {len(files)} files{bound}")
            over = over or calls.total() > GOALS.get(name, calls.total())
            if show_functions:
                for code, count in calls.items():
                    where = Path(code.co_filename).relative_to(PACKAGE).with_suffix("")
                    console.print(f"  {count:3} {'.'.join(where.parts)}: {code.co_qualname}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
