"""What is measured. In each repeat both sides take their turns, in an order that changes from repeat to repeat."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import statistics
import time
from typing import TYPE_CHECKING, Any, TypeVar

import redis as redis_py
from celery import group
from support.clients import celery_client
from tests.benchmarks.bench import TASK, TIMEOUT, N
from tests.benchmarks.report import Row

from fibo_client import FIBO_TASK, FiboClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery import Celery
    from tests.benchmarks.bench import Bench

T = TypeVar("T")

BATCH = 500
"""How many messages the client pushes in one command, and so does the comparison with redis-py."""

TICK = 0.001
"""Seconds between two looks at the event loop's lag."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done in one repeat.

    Attributes:
        bulk: Tasks sent and collected together.
        calls: Calls in a row, before the other side has its turn.
        rounds: Such turns in a repeat.
        sent: Tasks that this client sends to a queue that nobody serves.
        sent_by_celery: The like for Celery.
        concurrent: Calls launched at once.
    """

    bulk: int
    calls: int
    rounds: int
    sent: int
    sent_by_celery: int
    concurrent: int


FULL = Sizes(bulk=2000, calls=100, rounds=2, sent=10_000, sent_by_celery=2000, concurrent=2000)
QUICK = Sizes(bulk=400, calls=50, rounds=2, sent=2000, sent_by_celery=400, concurrent=400)


def everything(here: Bench, sizes: Sizes, repeats: int) -> list[Row]:
    """Measure everything.

    Args:
        here: What all measures use.
        sizes: How much is done in one repeat.
        repeats: How often.

    Returns:
        The rows of the table.
    """
    return [
        *end_to_end(here, sizes, repeats),
        *one_call(here, sizes, repeats),
        *submitting(here, sizes, repeats),
        *loop_lag(here, sizes, (repeats + 1) // 2),
    ]


def in_turns(repeat: int, **sides: Callable[[], T]) -> dict[str, T]:
    """Let each side have its turn.

    Args:
        repeat: The number of the repeat: it says who is first.
        **sides: What to do, by side.

    Returns:
        What came of it, by side.
    """
    names = list(sides)
    first = repeat % len(names)
    return {name: sides[name]() for name in names[first:] + names[:first]}


# Many tasks, from sending to the last answer.


def end_to_end(here: Bench, sizes: Sizes, repeats: int) -> list[Row]:
    """Send many tasks together and collect all answers."""
    row = Row(f"{sizes.bulk:,} tasks, end to end", "results/s", "more", goal=1.0)
    for repeat in range(repeats):
        took = in_turns(
            repeat,
            ours=lambda: here.run(our_bulk(here, sizes.bulk)),
            celery=lambda: celery_bulk(here, sizes.bulk),
        )
        row.add(sizes.bulk / took["ours"], sizes.bulk / took["celery"])
        tell(here, row, repeat, repeats)
    return [row]


async def our_bulk(here: Bench, count: int) -> float:
    """Time this client."""
    began = time.perf_counter()
    handles = await here.push.submit_many([N] * count, task=FIBO_TASK)
    answers = await here.push.celery.gather(handles, timeout=TIMEOUT)
    took = time.perf_counter() - began
    here.checks["ours"].add(answers, [handle.id for handle in handles])
    here.clean()
    return took


def celery_bulk(here: Bench, count: int) -> float:
    """Time Celery."""
    began = time.perf_counter()
    result = celery_group(here.celery, count).apply_async()
    answers = result.get(timeout=TIMEOUT)
    took = time.perf_counter() - began
    here.checks["Celery"].add(answers, [each.id for each in result.results])
    del result
    here.clean()
    return took


def celery_group(app: Celery, count: int, **options: Any) -> group:
    """Put tasks into a group of Celery's."""
    return group([app.signature(TASK, (N,), **options) for _ in range(count)], app=app)


# One call after the other.


def one_call(here: Bench, sizes: Sizes, repeats: int) -> list[Row]:
    """Make calls, each when the one before has its answer."""
    rows = {
        "push": [Row("one call, pushed: p50", "ms", "less", goal=1.0), Row("one call, pushed: p99", "ms", "less")],
        "poll": [Row("one call, polled: p50", "ms", "less", goal=1.3), Row("one call, polled: p99", "ms", "less")],
    }
    for repeat in range(repeats):
        times: dict[str, list[float]] = {"push": [], "poll": [], "celery": []}
        for turn in range(sizes.rounds):
            block = in_turns(
                repeat * sizes.rounds + turn,
                push=lambda: here.run(our_calls(here, here.push, sizes.calls)),
                celery=lambda: celery_calls(here, sizes.calls),
                poll=lambda: here.run(our_calls(here, here.poll, sizes.calls)),
            )
            for side, seconds in block.items():
                times[side] += seconds
        for side, (p50, p99) in rows.items():
            p50.add(statistics.median(times[side]) * 1e3, statistics.median(times["celery"]) * 1e3)
            p99.add(percentile(times[side], 99) * 1e3, percentile(times["celery"], 99) * 1e3)
            tell(here, p50, repeat, repeats)
    return [*rows["push"], *rows["poll"]]


async def our_calls(here: Bench, client: FiboClient, count: int) -> list[float]:
    """Time this client's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(await client.fibo_task(N))
        times.append(time.perf_counter() - began)
    here.checks["ours"].add(answers)
    here.clean()
    return times


def celery_calls(here: Bench, count: int) -> list[float]:
    """Time Celery's calls."""
    times, answers = [], []
    for _ in range(count):
        began = time.perf_counter()
        answers.append(here.celery.send_task(TASK, (N,)).get(timeout=TIMEOUT))
        times.append(time.perf_counter() - began)
    here.checks["Celery"].add(answers)
    here.clean()
    return times


# Sending alone.


def submitting(here: Bench, sizes: Sizes, repeats: int) -> list[Row]:
    """Send tasks to a queue that nobody serves."""
    beside_celery = Row("sending tasks", "tasks/s", "more")
    without_result = Row("sending tasks, no result wanted", "tasks/s", "more")
    beside_redis = Row("sending tasks", "tasks/s", "more", beside="redis-py, ready bytes")
    with idle(here) as (client, app, redis):
        for repeat in range(repeats):
            rates = in_turns(
                repeat,
                ours=lambda: here.run(our_sending(client, redis, sizes.sent)),
                celery=lambda: celery_sending(here, app, redis, sizes.sent_by_celery),
                ours_ignored=lambda: here.run(our_sending(client, redis, sizes.sent, ignore_result=True)),
                celery_ignored=lambda: celery_sending(
                    here, app, redis, sizes.sent_by_celery, options={"ignore_result": True}
                ),
                redis=lambda: redis_sending(redis, ready_bytes(here, client, redis, sizes.sent)),
            )
            beside_celery.add(rates["ours"], rates["celery"])
            without_result.add(rates["ours_ignored"], rates["celery_ignored"])
            beside_redis.add(rates["ours"], rates["redis"])
            tell(here, beside_celery, repeat, repeats)
    return [beside_celery, without_result, beside_redis]


@contextlib.contextmanager
def idle(here: Bench) -> Iterator[tuple[FiboClient, Celery, redis_py.Redis]]:
    """Give a client of each kind for a database that no worker serves, ready to send."""
    client = FiboClient(here.idle_url)
    with celery_client(here.idle_url) as app, redis_py.Redis.from_url(here.idle_url) as redis:
        here.run(client.open())
        try:
            here.run(our_sending(client, redis, BATCH))
            celery_sending(here, app, redis, 10)
            yield client, app, redis
        finally:
            here.run(client.aclose())


async def our_sending(client: FiboClient, redis: redis_py.Redis, count: int, **options: Any) -> float:
    """Give the rate of this client, in tasks a second."""
    arguments = [(N,)] * count
    began = time.perf_counter()
    handles = await client.celery.send_many(FIBO_TASK, arguments, **options)
    took = time.perf_counter() - began
    assert len(handles) == redis.llen("celery") == count
    redis.delete("celery")
    return count / took


def celery_sending(
    here: Bench, app: Celery, redis: redis_py.Redis, count: int, options: dict[str, Any] | None = None
) -> float:
    """Give the rate of Celery, in tasks a second."""
    began = time.perf_counter()
    result = celery_group(app, count, **(options or {})).apply_async()
    took = time.perf_counter() - began
    assert len(result) == redis.llen("celery") == count
    redis.delete("celery")
    del result
    here.clean()
    return count / took


def ready_bytes(here: Bench, client: FiboClient, redis: redis_py.Redis, count: int) -> list[bytes]:
    """Make the messages that this client would send."""

    async def send() -> list[bytes]:
        await client.celery.send_many(FIBO_TASK, [(N,)] * count)
        return redis.lrange("celery", 0, -1)

    messages = here.run(send())
    redis.delete("celery")
    return messages


def redis_sending(redis: redis_py.Redis, messages: list[bytes]) -> float:
    """Give the rate of redis-py alone: what no client can surpass."""
    began = time.perf_counter()
    for start in range(0, len(messages), BATCH):
        redis.lpush("celery", *messages[start : start + BATCH])
    took = time.perf_counter() - began
    redis.delete("celery")
    return len(messages) / took


# What the rest of the program notices.


def loop_lag(here: Bench, sizes: Sizes, repeats: int) -> list[Row]:
    """Launch many calls at once on one event loop, and see how late other things on it get their turns."""
    what, beside = "loop lag meanwhile", "Celery in threads"
    p99 = Row(f"{what}: p99", "ms", "less", beside=beside)
    longest = Row(f"{what}: max", "ms", "less", beside=beside)
    rate = Row(f"{sizes.concurrent:,} calls at once", "results/s", "more", beside=beside)
    here.run(celery_in_threads(here, 50))  # each thread has connections of its own
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            ours=lambda: here.run(ours_at_once(here, sizes.concurrent)),
            celery=lambda: here.run(celery_in_threads(here, sizes.concurrent)),
        )
        (ours, our_time), (theirs, their_time) = came["ours"], came["celery"]
        p99.add(percentile(ours, 99) * 1e3, percentile(theirs, 99) * 1e3)
        longest.add(max(ours) * 1e3, max(theirs) * 1e3)
        rate.add(sizes.concurrent / our_time, sizes.concurrent / their_time)
        tell(here, longest, repeat, repeats)
    return [rate, p99, longest]


async def ours_at_once(here: Bench, count: int) -> tuple[list[float], float]:
    """Give the lags with this client, and how long it took."""
    with watched() as lags:
        await asyncio.sleep(5 * TICK)
        began = time.perf_counter()
        answers = await asyncio.gather(*(here.push.fibo_task(N, timeout=TIMEOUT) for _ in range(count)))
        took = time.perf_counter() - began
        await asyncio.sleep(5 * TICK)
    here.checks["ours"].add(answers)
    here.clean()
    return lags, took


async def celery_in_threads(here: Bench, count: int) -> tuple[list[float], float]:
    """Give the lags with Celery's blocking calls in threads, and how long it took."""

    def call() -> Any:
        return here.celery.send_task(TASK, (N,)).get(timeout=TIMEOUT)

    with watched() as lags:
        await asyncio.sleep(5 * TICK)
        began = time.perf_counter()
        answers = await asyncio.gather(*(asyncio.to_thread(call) for _ in range(count)), return_exceptions=True)
        took = time.perf_counter() - began
        await asyncio.sleep(5 * TICK)
    here.checks["Celery"].add(answers)
    here.clean()
    return lags, took


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Look all the time how late the event loop is. The list fills up meanwhile."""
    lags: list[float] = []

    async def look() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(time.perf_counter() - due)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield lags
    finally:
        looking.cancel()


def percentile(values: Sequence[float], percent: int) -> float:
    """Give the value below which so many percent are."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def tell(here: Bench, row: Row, repeat: int, repeats: int) -> None:
    """Show the figures of one repeat."""
    here.tell(
        f"{repeat + 1} of {repeats}: {row.what}: {row.ours[-1]:,.2f} {row.unit}; {row.beside} {row.theirs[-1]:,.2f}"
    )
