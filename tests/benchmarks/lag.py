"""What the rest of the program notices: how late the event loop comes to other things. `launch` is the program."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench import ROOT, in_turns, percentile
from tests.benchmarks.launch import RESOLVED, SLICE, TICK
from tests.benchmarks.report import Row

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench

ROUNDS = 5
"""Runs of the program in one repeat: one run is over too soon for a p99."""

STRETCHES = 50
"""Stretches of time in each tenfold, of which a plot shows the largest lag."""


def lag(here: Bench) -> list[Row]:
    """Launch many calls and watch the event loop."""
    count, threaded, repeats = here.sizes.concurrent, here.sizes.threaded, here.repeats
    what, in_threads = f"loop lag, {count:,} calls", f"Celery in threads, {threaded:,}"
    note = (
        f"calls of distinct n in slices of {SLICE}; a look every millisecond; {ROUNDS} runs a repeat. Bare futures: "
        f"the same program on futures that a callback resolves, {RESOLVED} an iteration, once all are launched. "
        "Prompt ones are resolved from the first slice on. Each in a process of its own."
    )
    p99 = Row(f"{what}: p99", "ms", "less", beside=None, note=note)
    longest = Row(f"{what}: max", "ms", "less", goal=2.0, beside="bare futures")
    bare_p99 = Row(f"{what}: p99", "ms", "less", beside="bare futures")
    prompt_max = Row(f"{what}: max", "ms", "less", beside="prompt futures")
    threads_p99 = Row(f"{what}: p99", "ms", "less", beside=in_threads)
    threads_max = Row(f"{what}: max", "ms", "less", beside=in_threads)
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            ours=partial(run, here, "ours", count, ROUNDS),
            bare=partial(run, here, "bare", count, ROUNDS),
            prompt=partial(run, here, "prompt", count, ROUNDS),
            threads=partial(run, here, "threads", threaded, 1),
        )
        late = {side: [seconds * 1e3 for each in runs for _, seconds in each["lags"]] for side, runs in came.items()}
        tail = {side: percentile(lags, 99) for side, lags in late.items()}
        most = {side: max(lags) for side, lags in late.items()}
        p99.add(tail["ours"])
        longest.add(most["ours"], most["bare"])
        prompt_max.add(most["ours"], most["prompt"])
        bare_p99.add(tail["ours"], tail["bare"])
        threads_p99.add(tail["ours"], tail["threads"])
        threads_max.add(most["ours"], most["threads"])
        here.tell(p99, repeat, repeats)
        here.tell(longest, repeat, repeats)
        here.curves["lag over time"] = {
            "ours": points(came["ours"][-1]["lags"]),
            "bare futures": points(came["bare"][-1]["lags"]),
            "Celery in threads": points(came["threads"][-1]["lags"]),
            "calls": {"ours": count, "bare futures": count, "Celery in threads": threaded},
        }
    return [p99, longest, bare_p99, prompt_max, threads_p99, threads_max]


def run(here: Bench, side: str, count: int, rounds: int) -> list[dict[str, Any]]:
    """Run the program of one side."""
    came = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.launch", side, here.fibo.url, str(count), str(rounds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    runs = json.loads(came.stdout)
    if side not in ("bare", "prompt"):
        checks = here.checks["ours" if side == "ours" else "Celery"]
        checks.asked += count * rounds
        checks.right += sum(each["right"] for each in runs)
        here.fibo.clean()
    return runs


def points(lags: list[list[float]]) -> list[list[float]]:
    """Give seconds and milliseconds for a plot: the largest lag of each stretch, which grow longer with time."""
    worst: dict[int, tuple[float, float]] = {}
    for at, seconds in lags:
        stretch = int(STRETCHES * math.log10(max(at, TICK) / TICK))
        if seconds > worst.get(stretch, (0, 0))[1]:
            worst[stretch] = at, seconds
    return [[round(at, 5), round(seconds * 1e3, 3)] for at, seconds in worst.values()]
