"""Calls one after the other: alone, and beside large ones."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench import MASK, TASK, TIMEOUT, WARM_UP, N, in_turns, percentile
from tests.benchmarks.prototype import Prototype
from tests.benchmarks.report import Row

from fibo_client import FIBO_TASK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.benchmarks.bench import Bench, Place

    from fibo_client import FiboClient

LARGE_N = 1_000_000
CLEANED = 1.2
"""Seconds in which a client has cleaned up behind its calls."""

RAW = "the raw prototype"
NOBODY = "nobody"
"""A queue that nobody serves."""


@dataclasses.dataclass
class Turn:
    """What one side took for calls in a row.

    Attributes:
        times: The seconds of each call.
        cpu: The seconds of this process's CPU for a call, cleaning up included.
        server: The seconds of the server's CPU for a call, what the worker asked of it included.
    """

    times: list[float]
    cpu: float
    server: float


def one_call(here: Bench) -> list[Row]:
    """Make calls, each when the one before has its answer: this client, Celery's ``delay().get()``, the prototype."""
    place, sizes = here.stock, here.sizes
    note = (
        f"{sizes.calls} calls of each side in a row, then {CLEANED:g} s in which it cleans up, which is part of its "
        "CPU. The raw prototype makes the same writes with no checks."
    )
    pushed = Row("one celery.call, pushed: p50", "ms", "less", 0.62, headline="One call, median", note=note)
    pushed_tail = Row("one celery.call, pushed: p99", "ms", "less")
    polled = Row("one celery.call, polled: p50", "ms", "less", 0.90)
    polled_tail = Row("one celery.call, polled: p99", "ms", "less")
    raw = Row("one celery.call, pushed: p50", "ms", "less", 1.10, RAW)
    cpu = Row("CPU of one celery.call, pushed", "us", "less", 0.25, headline="The client's CPU for one call")
    cpu_polled = Row("CPU of one celery.call, polled", "us", "less")
    cpu_raw = Row("CPU of one celery.call, pushed", "us", "less", 1.6, RAW)
    server = Row("Redis's CPU for one celery.call, pushed", "us", "less", limit=RAW)
    with prototype(here) as call_raw:
        for repeat in range(here.repeats):
            came: dict[str, Turn] = in_turns(
                repeat,
                push=lambda: turn(here, lambda: here.run(our_calls(here, place.push, sizes.calls))),
                celery=lambda: turn(here, lambda: celery_calls(here, sizes.calls)),
                poll=lambda: turn(here, lambda: here.run(our_calls(here, place.poll, sizes.calls))),
                raw=lambda: turn(here, lambda: here.run(raw_calls(here, call_raw, sizes.calls))),
            )
            p50 = {side: statistics.median(each.times) * 1e3 for side, each in came.items()}
            p99 = {side: percentile(each.times, 99) * 1e3 for side, each in came.items()}
            took = {side: each.cpu * 1e6 for side, each in came.items()}
            served = {side: each.server * 1e6 for side, each in came.items()}
            pushed.add(p50["push"], p50["celery"])
            pushed_tail.add(p99["push"], p99["celery"])
            polled.add(p50["poll"], p50["celery"])
            polled_tail.add(p99["poll"], p99["celery"])
            raw.add(p50["push"], p50["raw"])
            cpu.add(took["push"], took["celery"])
            cpu_polled.add(took["poll"], took["celery"])
            cpu_raw.add(took["push"], took["raw"])
            server.add(served["push"], served["celery"], limit=served["raw"])
            for row in (pushed, polled, raw, cpu, cpu_raw):
                here.tell(row, repeat, here.repeats)
    return [pushed, pushed_tail, polled, polled_tail, raw, cpu, cpu_polled, cpu_raw, server]


def turn(here: Bench, calls: Callable[[], list[float]]) -> Turn:
    """Let one side make its calls and clean up, and see what that took."""
    served, began = here.stock.server_cpu(), time.process_time()
    times = calls()
    here.runner.run(asyncio.sleep(CLEANED))  # Celery's side waits as well: Redis does a little all the time.
    cpu = time.process_time() - began
    server = here.stock.server_cpu() - served
    here.stock.clean()
    return Turn(times, cpu / len(times), server / len(times))


async def our_calls(here: Bench, client: FiboClient, count: int) -> list[float]:
    """Time this client's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(await client.celery.call(TASK, (N,)))
        times.append(time.perf_counter() - began)
    here.checks["ours"].sentences(answers)
    return times


async def raw_calls(here: Bench, call: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    """Time the prototype's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(await call())
        times.append(time.perf_counter() - began)
    here.checks["prototype"].sentences(answers)
    return times


def celery_calls(here: Bench, count: int) -> list[float]:
    """Time Celery's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(here.stock.task.delay(N).get(timeout=TIMEOUT))
        times.append(time.perf_counter() - began)
    here.checks["Celery"].sentences(answers)
    return times


@contextlib.contextmanager
def prototype(here: Bench) -> Iterator[Callable[[], Awaitable[Any]]]:
    """Connect the prototype, warm it up, and give its call."""
    connection = Prototype(TASK, (N,)).connected(here.stock.url)
    raw = here.run(connection.__aenter__())
    try:
        here.run(raw_calls(here, raw.call, WARM_UP))
        yield raw.call
    finally:
        here.run(connection.__aexit__(None, None, None))


# Calls beside one huge sending.


def flooded(here: Bench) -> list[Row]:
    """Make calls one after the other: alone, and while the same client sends very many tasks to another queue."""
    place, count, least = here.stock, here.sizes.flood, here.sizes.small
    note = (
        f"one client in one process. Beside: as many calls as end before one send_many of {count:,} does, to a queue "
        f"that nobody serves. Alone: {least}."
    )
    p50 = Row(f"one call beside a send_many of {count:,}: p50", "ms", "less", beside="alone")
    p99 = Row(f"one call beside a send_many of {count:,}: p99", "ms", "less", 3, "alone", note=note)
    for repeat in range(here.repeats):
        came = in_turns(
            repeat,
            alone=lambda: here.run(our_calls(here, place.push, least)),
            beside=lambda: here.run(beside_sending(here, count)),
        )
        p50.add(*(statistics.median(came[side]) * 1e3 for side in ("beside", "alone")))
        p99.add(*(percentile(came[side], 99) * 1e3 for side in ("beside", "alone")))
        here.tell(p99, repeat, here.repeats)
        place.clean()
    return [p50, p99]


async def beside_sending(here: Bench, count: int) -> list[float]:
    """Time calls while many tasks are sent."""
    place = here.stock
    times, answers = [], []
    signatures = [FIBO_TASK(N)] * count
    sending = asyncio.create_task(place.push.celery.send_many(signatures, queue=NOBODY, timeout=TIMEOUT))
    while not sending.done() or len(times) < 2:
        began = time.perf_counter()
        answers.append(await place.push.celery.call(TASK, (N,), timeout=TIMEOUT))
        times.append(time.perf_counter() - began)
    assert len(await sending) == place.redis.llen(NOBODY) == count
    place.redis.unlink(NOBODY)
    here.checks["ours"].sentences(answers)
    return times


# Small calls beside large ones.


def mixed(here: Bench) -> list[Row]:
    """Make small calls one after the other: alone, and while the same client has large ones in flight."""
    place, sizes, repeats = here.fibo, here.sizes, here.repeats
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
