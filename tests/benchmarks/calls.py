"""Calls one after the other: alone, and beside large ones."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import TYPE_CHECKING

from tests.benchmarks.bench import MASK, TASK, TIMEOUT, N, in_turns, percentile
from tests.benchmarks.report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.bench import Bench, Place

    from fibo_client import FiboClient

LARGE_N = 1_000_000
LARGE_REPEATS = 3


def one_call(here: Bench) -> list[Row]:
    """Make calls, each when the one before has its answer, by this client and by Celery's ``send_task().get()``."""
    place, sizes = here.stock, here.sizes
    rows = {
        "push": [Row("one call, pushed: p50", "ms", "less", goal=0.75), Row("one call, pushed: p99", "ms", "less")],
        "poll": [Row("one call, polled: p50", "ms", "less", goal=1.0), Row("one call, polled: p99", "ms", "less")],
    }
    for repeat in range(here.repeats):
        times: dict[str, list[float]] = {"push": [], "poll": [], "celery": []}
        for turn in range(sizes.rounds):
            block = in_turns(
                repeat * sizes.rounds + turn,
                push=lambda: here.run(our_calls(here, place.push, sizes.calls)),
                celery=lambda: celery_calls(here, sizes.calls),
                poll=lambda: here.run(our_calls(here, place.poll, sizes.calls)),
            )
            for side, seconds in block.items():
                times[side] += seconds
        for side, (p50, p99) in rows.items():
            p50.add(statistics.median(times[side]) * 1e3, statistics.median(times["celery"]) * 1e3)
            p99.add(percentile(times[side], 99) * 1e3, percentile(times["celery"], 99) * 1e3)
            here.tell(p50, repeat, here.repeats)
    return [*rows["push"], *rows["poll"]]


async def our_calls(here: Bench, client: FiboClient, count: int) -> list[float]:
    """Time this client's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(await client.fibo_task(N))
        times.append(time.perf_counter() - began)
    here.checks["ours"].sentences(answers)
    here.stock.clean()
    return times


def celery_calls(here: Bench, count: int) -> list[float]:
    """Time Celery's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(here.stock.celery.send_task(TASK, (N,)).get(timeout=TIMEOUT))
        times.append(time.perf_counter() - began)
    here.checks["Celery"].sentences(answers)
    here.stock.clean()
    return times


# Small calls beside large ones.


def mixed(here: Bench) -> list[Row]:
    """Make small calls one after the other: alone, and while the same client has large ones in flight."""
    place, sizes, repeats = here.fibo, here.sizes, min(here.repeats, LARGE_REPEATS)
    what = f"small call beside {sizes.large} of n = {LARGE_N:,}"
    note = (
        f"one client in one process has all calls; {sizes.small} small ones in a row, each n distinct. A large call "
        f"that has its answer is followed by another at once, each with an n of its own from {LARGE_N:,} on, so that "
        f"{sizes.large} are in flight all the time and none is computed for two."
    )
    p50 = Row(f"{what}: p50", "ms", "less", beside="alone")
    p99 = Row(f"{what}: p99", "ms", "less", goal=4, beside="alone", note=note)
    rate = Row("the large calls meanwhile", "calls/s", "more", beside=None)
    numbers = itertools.count(LARGE_N)
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            alone=lambda: here.run(small_calls(here, place)),
            beside=lambda: here.run(beside_large(here, place, numbers)),
        )
        (alone, _), (beside, large) = came["alone"], came["beside"]
        p50.add(statistics.median(beside) * 1e3, statistics.median(alone) * 1e3)
        p99.add(percentile(beside, 99) * 1e3, percentile(alone, 99) * 1e3)
        rate.add(large)
        here.tell(p99, repeat, repeats)
    return [p50, p99, rate]


async def small_calls(here: Bench, place: Place) -> tuple[list[float], float]:
    """Time small calls. The second figure is for what is beside them: nothing."""
    times, answers = [], []
    for n in range(here.sizes.small):
        began = time.perf_counter()
        answers.append(await place.push.fibonacci(n, timeout=TIMEOUT))
        times.append(time.perf_counter() - began)
    here.checks["ours"].same(answers, here.numbers[: here.sizes.small])
    return times, 0.0


async def beside_large(here: Bench, place: Place, numbers: Iterator[int]) -> tuple[list[float], float]:
    """Time small calls while large ones are in flight, and give the rate of those."""
    ends: list[tuple[int, int]] = []
    stopping = False

    async def go_on() -> None:
        while not stopping:
            n = next(numbers)
            ends.append((n, await place.push.fibonacci(n, timeout=TIMEOUT) & MASK))

    large = [asyncio.create_task(go_on()) for _ in range(here.sizes.large)]
    while not ends:  # until the first answers come: then the worker has all it can take
        await asyncio.sleep(0.01)
        for task in large:
            if task.done():
                await task  # it failed
    began, before = time.perf_counter(), len(ends)
    times, _ = await small_calls(here, place)
    rate = (len(ends) - before) / (time.perf_counter() - began)
    stopping = True
    await asyncio.gather(*large)
    here.checks["ours"].ends(ends)
    place.clean()
    return times, rate
