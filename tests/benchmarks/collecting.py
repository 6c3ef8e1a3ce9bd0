"""Many values, from sending to the last answer."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import group
from support.waiting import until
from tests.benchmarks.bench import INTERVAL, TASK, TIMEOUT, N, Place, in_turns, timed
from tests.benchmarks.launch import RESOLVED, SLICE, bare_calls, our_calls, threaded_calls
from tests.benchmarks.report import Row
from tests.benchmarks.sending import BATCH, idle, ready_bytes

from fibo_client import FIBO_TASK
from fibo_client.contract import FIBONACCI, decode_number, encode_number
from fibo_worker.fibonacci import fibonacci

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Work

    from fibo_client import FiboClient


# One task a value, on a plain worker.


def end_to_end(here: Bench) -> list[Row]:
    """Send many tasks, one value each, to a plain worker, and collect all answers."""
    count, place = here.sizes.bulk, here.stock
    row = Row(
        f"{count:,} tasks of one value, plain worker", "values/s", "more", goal=1.4, limit="the worker alone, no client"
    )
    with idle(here) as (client, _, redis):
        messages = [ready_bytes(here, client, redis, count) for _ in range(here.repeats)]
    for repeat in range(here.repeats):
        came = in_turns(
            repeat,
            ours=partial(our_bulk, here, count),
            celery=partial(celery_bulk, here, count),
            limit=partial(worker_alone, place, messages[repeat]),
        )
        (ours, work), theirs, limit = came["ours"], came["celery"], came["limit"]
        row.add(count / ours, count / theirs, limit=count / limit, work=work)
        here.tell(row, repeat, here.repeats)
    return [row]


def our_bulk(here: Bench, count: int) -> tuple[float, Work]:
    """Time this client."""
    place = here.stock

    async def collect() -> tuple[float, list[Any]]:
        began = time.perf_counter()
        handles = await place.push.submit_many([N] * count, task=FIBO_TASK)
        answers = await place.push.celery.gather(handles, timeout=TIMEOUT)
        took = time.perf_counter() - began
        here.checks["ours"].sentences(answers, [handle.id for handle in handles])
        return took, answers

    with place.working(count) as work:
        took, _ = here.run(collect())
    place.clean()
    return took, work[0]


def celery_bulk(here: Bench, count: int) -> float:
    """Time Celery."""
    app = here.stock.celery
    tasks = group([app.signature(TASK, (N,)) for _ in range(count)], app=app)
    began = time.perf_counter()
    result = tasks.apply_async()
    answers = result.get(timeout=TIMEOUT, interval=INTERVAL)
    took = time.perf_counter() - began
    here.checks["Celery"].sentences(answers, [each.id for each in result.results])
    del result
    here.stock.clean()
    return took


def worker_alone(place: Place, messages: list[bytes]) -> float:
    """Time the worker from ready bytes to stored results, with no client that waits."""
    before = place.redis.dbsize()
    began = time.perf_counter()
    push(place, messages)
    stored = before + len(messages)
    until(lambda: place.redis.dbsize() >= stored, "not all results are stored", timeout=TIMEOUT, interval=0.005)
    took = time.perf_counter() - began
    place.clean()
    return took


def push(place: Place, messages: list[bytes]) -> None:
    """Push ready bytes to a queue that is served."""
    for start in range(0, len(messages), BATCH):
        place.redis.lpush("celery", *messages[start : start + BATCH])


# Many values together, on fibo-worker.


def many(here: Bench) -> list[Row]:
    """Compute the first so many Fibonacci numbers by one `fibonacci_many`, and by Celery's group of as many tasks."""
    count, repeats = here.sizes.many, here.repeats
    row = Row(
        f"fibonacci_many(range({count:,}))",
        "values/s",
        "more",
        goal=150,
        note=f"all numbers are distinct. Celery runs the same {count:,} numbers as a group, one task each, on the same "
        f"worker; {repeats} repeats. The limit is one core that computes all and turns each into hex and back, with "
        "no wire; the worker has two.",
        limit="one core, no wire",
        headline=f"{count:,} numbers by fibonacci_many",
    )
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            ours=partial(our_many, here, count),
            celery=partial(celery_many, here, count),
            limit=partial(local_many, count),
        )
        (ours, work), theirs, limit = came["ours"], came["celery"], came["limit"]
        row.add(count / ours, count / theirs, limit=count / limit, work=work)
        here.tell(row, repeat, repeats)
    return [row]


def our_many(here: Bench, count: int) -> tuple[float, Work]:
    """Time this client."""
    return our_time(here, count, lambda client: client.fibonacci_many(range(count), timeout=TIMEOUT))


def our_time(here: Bench, count: int, ask: Callable[[FiboClient], Awaitable[list[int]]]) -> tuple[float, Work]:
    """Time this client, check its answers, and count what the worker computed."""
    place = here.fibo

    async def compute() -> float:
        began = time.perf_counter()
        answers = await ask(place.push)
        took = time.perf_counter() - began
        here.checks["ours"].same(answers, here.numbers[:count])
        return took

    with place.working(count) as work:
        took = here.run(compute())
    place.clean()
    return took, work[0]


def celery_many(here: Bench, count: int) -> float:
    """Time Celery, whose user has to turn the text into numbers, too."""
    app = here.fibo.celery
    tasks = group([app.signature(FIBONACCI.name, (n,)) for n in range(count)], app=app)
    began = time.perf_counter()
    result = tasks.apply_async()
    answers = [int(text, 16) for text in result.get(timeout=TIMEOUT, interval=INTERVAL)]
    took = time.perf_counter() - began
    here.checks["Celery"].same(answers, here.numbers[:count])
    del result
    here.fibo.clean()
    return took


def local_many(count: int) -> float:
    """Time the arithmetic and the text both ways."""
    took, _ = timed(lambda: [decode_number(encode_number(fibonacci(n))) for n in range(count)])
    return took


# Concurrent calls.


def concurrent(here: Bench) -> list[Row]:
    """Make many calls at once, and let Celery make as many as it can in some ten seconds, in threads."""
    count, threaded, repeats = here.sizes.concurrent, here.sizes.threaded, here.repeats
    row = Row(
        f"{count:,} concurrent fibonacci(n), slices of {SLICE}",
        "calls/s",
        "more",
        goal=100,
        beside="Celery in threads",
        note=f"all n are distinct. Celery makes {threaded:,} calls with the first {threaded:,} of the same numbers, "
        "each by asyncio.to_thread(send_task(...).get). Bare futures: the same program on futures that a callback "
        f"resolves, {RESOLVED} an iteration, once all are launched.",
    )
    beside_bare = Row(row.what, "calls/s", "more", goal=0.40, beside="bare futures")
    celery_concurrent(here, 50)  # each thread has connections of its own
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            ours=partial(our_concurrent, here, count),
            celery=partial(celery_concurrent, here, threaded),
            bare=partial(bare_concurrent, here, count),
        )
        ours, work = came["ours"]
        row.add(count / ours, threaded / came["celery"], work=work)
        beside_bare.add(count / ours, count / came["bare"])
        here.tell(row, repeat, repeats)
        here.tell(beside_bare, repeat, repeats)
    return [row, beside_bare]


def our_concurrent(here: Bench, count: int) -> tuple[float, Work]:
    """Time this client."""
    return our_time(here, count, lambda client: our_calls(client, count))


def celery_concurrent(here: Bench, count: int) -> float:
    """Time Celery's blocking calls in threads."""
    place = here.fibo

    async def compute() -> float:
        began = time.perf_counter()
        answers = await threaded_calls(place.celery, count)
        took = time.perf_counter() - began
        here.checks["Celery"].same(answers, here.numbers[:count])
        return took

    took = here.run(compute())
    place.clean()
    return took


def bare_concurrent(here: Bench, count: int) -> float:
    """Time as many tasks that await futures."""

    async def compute() -> float:
        began = time.perf_counter()
        await bare_calls(count)
        return time.perf_counter() - began

    return here.run(compute())
