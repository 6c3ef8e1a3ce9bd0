"""Sending tasks to a queue that nobody serves."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import redis as redis_py
from celery import group
from support.clients import celery_client
from tests.benchmarks.bench import TASK, N, in_turns
from tests.benchmarks.report import Row

from fibo_client import FIBO_TASK, FiboClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from tests.benchmarks.bench import Bench

BATCH = 500
"""How many messages the client pushes in one command, and so does the comparison with redis-py."""


def submit(here: Bench) -> list[Row]:
    """Send many small tasks: this client, Celery's group, and redis-py with bytes that are ready."""
    count, repeats = here.sizes.sent, here.repeats
    beside_celery = Row(
        f"send {count:,} tasks",
        "tasks/s",
        "more",
        goal=100,
        limit="redis-py, ready bytes",
        headline=f"{count:,} tasks by send_many",
    )
    beside_redis = Row(f"send {count:,} tasks", "tasks/s", "more", goal=0.35, beside="redis-py, ready bytes")
    with idle(here) as (client, app, redis):
        for repeat in range(repeats):
            rates = in_turns(
                repeat,
                ours=lambda: here.run(our_sending(client, redis, count)),
                celery=lambda: celery_sending(app, redis, count),
                redis=lambda: redis_sending(redis, ready_bytes(here, client, redis, count)),
            )
            beside_celery.add(rates["ours"], rates["celery"], limit=rates["redis"])
            beside_redis.add(rates["ours"], rates["redis"])
            here.tell(beside_celery, repeat, repeats)
    return [beside_celery, beside_redis]


@contextlib.contextmanager
def idle(here: Bench) -> Iterator[tuple[FiboClient, Celery, redis_py.Redis]]:
    """Give a client of each kind for a database that no worker serves, ready to send."""
    url = here.server.fresh_url()
    client = FiboClient(url)
    with celery_client(url) as app, redis_py.Redis.from_url(url) as redis:
        here.run(client.open())
        try:
            here.run(our_sending(client, redis, BATCH))
            celery_sending(app, redis, 10)
            yield client, app, redis
        finally:
            here.run(client.aclose())


async def our_sending(client: FiboClient, redis: redis_py.Redis, count: int) -> float:
    """Give the rate of this client, in tasks a second."""
    arguments = [(N,)] * count
    began = time.perf_counter()
    handles = await client.celery.send_many([FIBO_TASK(*each) for each in arguments])
    took = time.perf_counter() - began
    assert len(handles) == redis.llen("celery") == count
    redis.delete("celery")
    return count / took


def celery_sending(app: Celery, redis: redis_py.Redis, count: int) -> float:
    """Give the rate of Celery, in tasks a second."""
    tasks = group([app.signature(TASK, (N,)) for _ in range(count)], app=app)
    began = time.perf_counter()
    result = tasks.apply_async()
    took = time.perf_counter() - began
    assert len(result) == redis.llen("celery") == count
    redis.delete("celery")
    return count / took


def ready_bytes(here: Bench, client: FiboClient, redis: redis_py.Redis, count: int, **options: Any) -> list[bytes]:
    """Make the messages that this client would send."""

    async def send() -> list[bytes]:
        await client.celery.send_many([FIBO_TASK(N)] * count, **options)
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
