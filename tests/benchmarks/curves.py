"""What the plots show beside the measures: how figures change with the batch, with the callers, and with n."""

from __future__ import annotations

import asyncio
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench import TIMEOUT, in_turns, percentile, timed
from tests.benchmarks.collecting import celery_many, our_many
from tests.benchmarks.large import local, through_worker

from fibo_client.contract import FIBONACCI

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

REPEATS = 3
BATCHES = (1, 10, 100, 1000, 10_000)
CALLERS = (1, 4, 16, 64, 256)
CALLS = 512
"""About so many calls for each number of callers, and two for each caller at least."""

MOST_FOR_CELERY = 1000
"""The largest batch that Celery is given here. Its 10,000 are measured once, elsewhere."""


def batches(here: Bench) -> list[Row]:
    """Compute batches of distinct values, from one to many."""
    sizes = [size for size in BATCHES if size <= here.sizes.many]
    ours: dict[int, list[float]] = {size: [] for size in sizes}
    theirs: dict[int, list[float]] = {size: [] for size in sizes if size <= MOST_FOR_CELERY}
    for repeat in range(min(here.repeats, REPEATS)):
        for size in sizes:
            sides: dict[str, Any] = {"ours": partial(our_many, here, size)}
            if size in theirs:
                sides["celery"] = partial(celery_many, here, size)
            came = in_turns(repeat, **sides)
            ours[size].append(size / came["ours"][0])
            if size in theirs:
                theirs[size].append(size / came["celery"])
    here.curves["throughput by batch"] = {
        "ours": [[size, statistics.median(rates)] for size, rates in ours.items()],
        "Celery group": [[size, statistics.median(rates)] for size, rates in theirs.items()],
    }
    return []


def callers(here: Bench) -> list[Row]:
    """Let more and more callers call at once, each again as soon as it has its answer."""
    curves: dict[str, list[list[float]]] = {"ours": [], "Celery in threads": []}
    for count in CALLERS:
        times: dict[str, list[float]] = {name: [] for name in curves}
        for repeat in range(min(here.repeats, REPEATS)):
            came = in_turns(
                repeat,
                ours=partial(latencies, here, count, "ours"),
                celery=partial(latencies, here, count, "Celery"),
            )
            times["ours"] += came["ours"]
            times["Celery in threads"] += came["celery"]
            here.fibo.clean()
        for name, seconds in times.items():
            curves[name].append([count, statistics.median(seconds) * 1e3, percentile(seconds, 99) * 1e3])
            here.say(f"{count} callers, {name}: p50 {curves[name][-1][1]:.2f} ms")
    here.curves["latency by callers"] = curves
    return []


def latencies(here: Bench, callers: int, side: str) -> list[float]:
    """Time each call of each caller. All callers have numbers of their own."""
    times: list[float] = []
    rounds = max(CALLS // callers, 2)
    place = here.fibo

    def blocking(n: int) -> int:
        return int(place.celery.send_task(FIBONACCI.name, (n,)).get(timeout=TIMEOUT), 16)

    async def caller(number: int) -> None:
        answers = []
        for n in range(number, rounds * callers, callers):
            began = time.perf_counter()
            if side == "ours":
                answers.append(await place.push.fibonacci(n, timeout=TIMEOUT))
            else:
                answers.append(await asyncio.to_thread(blocking, n))
            times.append(time.perf_counter() - began)
        here.checks[side].same(answers, here.numbers[number : rounds * callers : callers])

    async def all_of_them() -> None:
        await asyncio.gather(*(caller(number) for number in range(callers)))

    here.run(all_of_them())
    return times


def cost(here: Bench) -> list[Row]:
    """Compute one number after the other, larger and larger, through the worker and in this process."""
    curves: dict[str, list[list[float]]] = {"ours": [], "local": []}
    n = 10
    while n <= here.sizes.top:
        times: dict[str, list[float]] = {name: [] for name in curves}
        for repeat in range(here.repeats):
            came = in_turns(repeat, ours=partial(through_worker, here, n), local=partial(timed, partial(local, n)))
            here.checks["ours"].same([came["ours"][1]], [came["local"][1]])
            for name in curves:
                times[name].append(came[name][0] * 1e3)
        for name, each in times.items():
            curves[name].append([n, statistics.median(each)])
        here.fibo.clean()
        n *= 10
    here.curves["cost by n"] = curves
    return []
