"""Chains and chords beside Celery's own canvas, on the same plain worker."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import celery
from tests.benchmarks.bench import TIMEOUT, in_turns, percentile
from tests.benchmarks.report import Row
from tests.benchmarks.sending import idle

from fibo_client.celery import RemoteTask, chain, chord

if TYPE_CHECKING:
    import redis as redis_py
    from celery import Celery
    from tests.benchmarks.bench import Bench

    from fibo_client.celery import CeleryClient

ADD = RemoteTask[..., int]("stock.add")
TOTAL = RemoteTask[..., int]("stock.total")


def submit(here: Bench) -> list[Row]:
    """Send many chains of three to a queue that nobody serves, which both sides compose as well."""
    count = here.sizes.flows
    row = Row(
        f"send {count:,} chains of 3",
        "chains/s",
        "more",
        50,
        headline=f"{count:,} chains of 3 by send_many",
        note="each side composes its chains as well. Celery sends one chain at a time: it has no other way.",
    )
    with idle(here) as (client, app, redis):
        here.run(our_chains(client.celery, redis, 10))
        celery_chains(app, redis, 10)
        for repeat in range(here.repeats):
            rates = in_turns(
                repeat,
                ours=lambda: here.run(our_chains(client.celery, redis, count)),
                celery=lambda: celery_chains(app, redis, count),
            )
            row.add(rates["ours"], rates["celery"])
            here.tell(row, repeat, here.repeats)
    return [row]


async def our_chains(client: CeleryClient, redis: redis_py.Redis, count: int) -> float:
    """Give the rate of this client, in chains a second."""
    began = time.perf_counter()
    results = await client.send_many([chain(ADD(n, 1), ADD.s(2), ADD.s(3)) for n in range(count)])
    took = time.perf_counter() - began
    assert len(results) == redis.llen("celery") == count
    redis.delete("celery")
    return count / took


def celery_chains(app: Celery, redis: redis_py.Redis, count: int) -> float:
    """Give the rate of Celery, in chains a second."""
    began = time.perf_counter()
    for n in range(count):
        celery_chain(app, n).apply_async()
    took = time.perf_counter() - began
    assert redis.llen("celery") == count
    redis.delete("celery")
    return count / took


def celery_chain(app: Celery, n: int) -> Any:
    """Compose what this client's side has."""
    return celery.chain(*[app.signature(ADD.name, args) for args in ((n, 1), (2,), (3,))])


def chords(here: Bench) -> list[Row]:
    """Call a large chord, from composing it to its result."""
    place, count = here.stock, here.sizes.flows
    row = Row(f"a chord of {count:,}, end to end", "tasks/s", "more", 1.3)

    def theirs() -> float:
        began = time.perf_counter()
        header = [place.celery.signature(ADD.name, (n, 1)) for n in range(count)]
        total = celery.chord(header, place.celery.signature(TOTAL.name)).apply_async().get(timeout=TIMEOUT)
        took = time.perf_counter() - began
        here.checks["Celery"].same([total], [count * (count + 1) // 2])
        place.clean()
        return count / took

    async def ours() -> float:
        began = time.perf_counter()
        total = await place.push.celery.call(chord([ADD(n, 1) for n in range(count)], TOTAL()), timeout=TIMEOUT)
        took = time.perf_counter() - began
        here.checks["ours"].same([total], [count * (count + 1) // 2])
        return count / took

    for repeat in range(here.repeats):
        rates = in_turns(repeat, ours=lambda: here.run(ours()), celery=theirs)
        place.clean()
        row.add(rates["ours"], rates["celery"])
        here.tell(row, repeat, here.repeats)
    return [row]


def chains(here: Bench) -> list[Row]:
    """Call chains of three, each when the one before has its result."""
    place, count = here.stock, here.sizes.calls
    p50 = Row("one chain of 3: p50", "ms", "less", 0.7)
    p99 = Row("one chain of 3: p99", "ms", "less")

    def theirs() -> list[float]:
        times, values = [], []
        for n in range(count):
            began = time.perf_counter()
            values.append(celery_chain(place.celery, n).apply_async().get(timeout=TIMEOUT))
            times.append(time.perf_counter() - began)
        here.checks["Celery"].same(values, range(6, count + 6))
        place.clean()
        return times

    async def ours() -> list[float]:
        times, values = [], []
        for n in range(count):
            began = time.perf_counter()
            values.append(await place.push.celery.call(chain(ADD(n, 1), ADD.s(2), ADD.s(3)), timeout=TIMEOUT))
            times.append(time.perf_counter() - began)
        here.checks["ours"].same(values, range(6, count + 6))
        return times

    for repeat in range(here.repeats):
        came = in_turns(repeat, ours=lambda: here.run(ours()), celery=theirs)
        place.clean()
        p50.add(*(statistics.median(came[side]) * 1e3 for side in ("ours", "celery")))
        p99.add(*(percentile(came[side], 99) * 1e3 for side in ("ours", "celery")))
        here.tell(p50, repeat, here.repeats)
    return [p50, p99]
