"""Very many calls that no worker answers, and what they leave behind: for tests, and larger for a soak."""

from __future__ import annotations

import asyncio
import gc
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibo_client import FiboClient, ResultTimeoutError
from fibo_client.contract import FIBONACCI
from support.waiting import eventually

if TYPE_CHECKING:
    import redis

PORTION = 10_000
"""How many calls are in flight at once: fewer than the client's limit."""


@dataclass(frozen=True)
class Unanswered:
    """What came of the calls.

    Attributes:
        timed_out: How many raised ResultTimeoutError.
        latest: The most seconds that one was past its deadline.
        grown: Bytes that the process grew by after the first portion.
        objects: Objects that were added after it.
        left: What the client still holds, by name.
    """

    timed_out: int
    latest: float
    grown: int
    objects: int
    left: dict[str, int]


async def call_in_vain(url: str, queue: str, count: int, *, coalesced: bool, timeout: float = 1.0) -> Unanswered:
    """Make calls to a queue without a worker, and let all of them time out.

    Args:
        url: The Redis server.
        queue: The queue.
        count: How many calls.
        coalesced: Whether by `fibonacci`, whose calls share tasks, or by `call`, with a task for each.
        timeout: Seconds for each call.

    Returns:
        What came of them.
    """
    timed_out, latest = 0, 0.0
    portion = max(1, min(PORTION, count // 2))  # At least two: what the first one leaves is no growth.
    loop = asyncio.get_running_loop()

    async def one(client: FiboClient, n: int) -> float:
        deadline = loop.time() + timeout
        try:
            await (
                client.fibonacci(n, timeout=timeout) if coalesced else client.celery.call(FIBONACCI(n), timeout=timeout)
            )
        except ResultTimeoutError:
            return loop.time() - deadline
        raise AssertionError("somebody answered")

    async with FiboClient(url, queue=queue, max_pending=2 * PORTION) as client:
        size = objects = 0
        for start in range(0, count, portion):
            numbers = range(start, min(start + portion, count))
            late = await asyncio.gather(*(one(client, n) for n in numbers))
            timed_out += len(late)
            latest = max(latest, *late)
            if not start:
                await _forgotten(client)
                size, objects = _resident(), _objects()
        await _forgotten(client)
        return Unanswered(timed_out, latest, _resident() - size, _objects() - objects, _left(client))


def still_to_run(client: redis.Redis, queue: str, now: float) -> list[dict[str, Any]]:
    """Find the messages in a queue that a worker could still run.

    Args:
        client: Redis.
        queue: The queue.
        now: The time, in seconds since the epoch.

    Returns:
        Their headers.
    """
    found = []
    for key in (queue, f"{queue}\x06\x163", f"{queue}\x06\x166", f"{queue}\x06\x169"):
        for payload in client.lrange(key, 0, -1):
            headers = json.loads(payload)["headers"]
            if headers["expires"] is None or datetime.fromisoformat(headers["expires"]).timestamp() > now:
                found.append(headers)
    return found


async def _forgotten(client: FiboClient) -> None:
    """Wait until nothing is held and the cleaner has no work. It deletes again, half a minute after the deadline."""
    cleaner = client.celery._session.cleaner

    def is_idle() -> bool:
        return not (cleaner._deleted or cleaner._revoked or any(_left(client).values()))

    await eventually(is_idle, "the client still holds something, or its cleaner has work", timeout=45)


def _left(client: FiboClient) -> dict[str, int]:
    session = client.celery._session
    reader = session._reader
    buckets = client._batcher._buckets.values()
    return {
        "waits": len(reader.awaited),
        "unsent": len(session._publisher._unfinished),
        "numbers": sum(len(bucket.computations) + bucket.in_flight for bucket in buckets),
        "subscribed": len(reader._to_subscribe) + len(reader._subscribed),
        "deadlines": len(reader.awaited._timed) + len(reader.awaited._heap),
        "reads": len(reader._schedule._heap),
    }


def _resident() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())
