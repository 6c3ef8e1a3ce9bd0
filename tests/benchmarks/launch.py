"""The program whose event loop is watched, in a process of its own.

``python -m tests.benchmarks.launch SIDE URL COUNT ROUNDS``

It launches so many tasks in slices of 250, with `asyncio.sleep(0)` after each slice, and awaits them in order. A task
awaits one call of this client (``ours``), or one future (``bare``). The futures are resolved by a callback that runs
once an iteration of the event loop and resolves the next 256 at most, as long as there are any, and it begins when all
are launched: as with calls whose answers are computed elsewhere, all of them are pending for a while, and Python's
garbage collector has to look through them. In ``prompt`` it begins with the first slice, so that few futures are ever
pending: no client of anything could be that quick. ``threads`` makes Celery's blocking calls in threads instead.

A process of its own has only what such a service has: garbage collection takes longer the more there is in a process,
and would hide the difference.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import json
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from fibo_client import FIBONACCI, FiboClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SLICE = 250
"""How many calls are launched before the event loop has its turn."""

RESOLVED = 256
"""The most futures that are resolved in one iteration, as the client settles the most waiters."""

TICK = 0.001
"""Seconds between two looks at the event loop's lag."""

WARM_UP = 500
TIMEOUT = 100

Lags = list[tuple[float, float]]
"""When the loop came to it, in seconds since the launch, and how late that was."""


async def in_slices(
    call: Callable[[int], Any], count: int, when_launched: Callable[[], None] = lambda: None
) -> list[int]:
    """Launch calls of distinct n in slices, and await them in order."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[int]] = []
    for start in range(0, count, SLICE):
        tasks += [loop.create_task(call(n)) for n in range(start, min(start + SLICE, count))]
        await asyncio.sleep(0)  # The slice begins.
    when_launched()
    return [await task for task in tasks]


async def our_calls(client: FiboClient, count: int) -> list[int]:
    """Launch calls of this client."""
    return await in_slices(lambda n: client.fibonacci(n, timeout=TIMEOUT), count)


async def bare_calls(count: int, *, prompt: bool = False) -> list[int]:
    """Launch tasks that await futures, which are resolved when all are launched, or promptly."""
    loop = asyncio.get_running_loop()
    waiting: collections.deque[tuple[asyncio.Future[int], int]] = collections.deque()
    left = count

    async def call(n: int) -> int:
        future: asyncio.Future[int] = loop.create_future()
        waiting.append((future, n))
        return await future

    def resolve() -> None:
        nonlocal left
        for _ in range(min(RESOLVED, len(waiting))):
            future, n = waiting.popleft()
            future.set_result(n)
            left -= 1
        if left:
            loop.call_soon(resolve)

    if prompt:
        resolve()
        return await in_slices(call, count)
    return await in_slices(call, count, resolve)


async def threaded_calls(app: Any, count: int) -> list[int]:
    """Make Celery's blocking calls in threads. What failed is in its place."""

    def call(n: int) -> int:
        return int(app.send_task(FIBONACCI.name, (n,)).get(timeout=TIMEOUT), 16)

    return await asyncio.gather(*(asyncio.to_thread(call, n) for n in range(count)), return_exceptions=True)


@contextlib.contextmanager
def watch() -> Iterator[Lags]:
    """Look all the time how late the event loop is. The list fills up meanwhile."""
    lags: Lags = []

    async def look() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            lags.append((now, now - due))

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield lags
    finally:
        looking.cancel()


async def watched(program: Callable[[int], Awaitable[list[int]]], count: int, expected: list[int]) -> dict[str, Any]:
    """Run a program and watch the event loop meanwhile: the lags, the seconds, and how many answers were right."""
    gc.collect()
    await asyncio.sleep(0.05)  # What was under way before is done.
    with watch() as lags:
        await asyncio.sleep(5 * TICK)  # The first looks are late by what starting costs.
        lags.clear()
        began = time.perf_counter()
        answers = await program(count)
        took = time.perf_counter() - began
        await asyncio.sleep(2 * TICK)  # so that the last stretch is seen
    return {
        "lags": [(at - began, seconds) for at, seconds in lags],
        "seconds": took,
        "right": sum(answer == value for answer, value in zip(answers, expected, strict=True)),
    }


async def runs(
    program: Callable[[int], Awaitable[list[int]]], count: int, rounds: int, expected: list[int]
) -> list[dict[str, Any]]:
    """Run a program several times, once it is warm."""
    await program(min(WARM_UP, count))
    return [await watched(program, count, expected) for _ in range(rounds)]


async def measure(side: str, url: str, count: int, rounds: int) -> list[dict[str, Any]]:
    """Measure one side.

    Args:
        side: ``ours``, ``bare``, ``prompt`` or ``threads``.
        url: The database that fibo-worker serves.
        count: Calls in a run.
        rounds: Runs.

    Returns:
        What came of each run.
    """
    if side in ("bare", "prompt"):
        return await runs(partial(bare_calls, prompt=side == "prompt"), count, rounds, list(range(count)))
    expected = [0, 1]
    while len(expected) < count:
        expected.append(expected[-2] + expected[-1])
    if side == "ours":
        async with FiboClient(url) as client:
            return await runs(lambda many: our_calls(client, many), count, rounds, expected)
    from celery import Celery

    app = Celery(broker=url, backend=url, set_as_current=False)
    return await runs(lambda many: threaded_calls(app, many), count, rounds, expected)


if __name__ == "__main__":
    for name in [each for each in os.environ if each.startswith(("CELERY_", "FIBO_"))]:
        del os.environ[name]
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
