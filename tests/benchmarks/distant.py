"""Calls to a Redis that is a millisecond away.

``python -m tests.benchmarks.distant PORT SECONDS``

is the proxy that keeps bytes waiting, so many seconds each way, in a process of its own. It tells its own port, and
ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `support` is

from support.proxy import Proxy

from fibo_client import FiboClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis as redis_py
    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

AWAY = 0.001
"""Seconds that bytes take, each way."""


def distant(here: Bench) -> list[Row]:
    """Make warm calls through the proxy, and compare them with one round trip through it and what a call takes here."""
    from tests.benchmarks.bench import WARM_UP, in_turns
    from tests.benchmarks.calls import our_calls
    from tests.benchmarks.report import Row

    place, count = here.stock, here.sizes.distant
    note = (
        f"a proxy of {AWAY * 1e3:g} ms each way, in a process of its own. The other side is the p50 of a call without "
        "it and what a PING takes longer with it than without. Round trips: what the call takes longer, in such PINGs."
    )
    row = Row("one warm call, 1 ms away: p50", "ms", "less", 1.15, "one round trip and the worker", note=note)
    trips = Row("one warm call, 1 ms away: round trips", "", "less", beside=None)
    with proxied(here.server.port) as port, contextlib.ExitStack() as stack:
        url = place.url.replace(f":{here.server.port}/", f":{port}/")
        far = stack.enter_context(here.server.client(url))
        client = FiboClient(url)
        here.run(client.open())
        stack.callback(lambda: here.run(client.aclose()))
        here.run(our_calls(here, client, WARM_UP))
        for repeat in range(here.repeats):
            came = in_turns(
                repeat,
                far=lambda: statistics.median(here.run(our_calls(here, client, count))) * 1e3,
                near=lambda: statistics.median(here.run(our_calls(here, place.push, count))) * 1e3,
                far_ping=lambda: pinged(far, count),
                near_ping=lambda: pinged(place.redis, count),
            )
            trip = came["far_ping"] - came["near_ping"]
            row.add(came["far"], came["near"] + trip)
            trips.add((came["far"] - came["near"]) / trip)
            here.tell(row, repeat, here.repeats)
            here.tell(trips, repeat, here.repeats)
    place.clean()
    return [row, trips]


def pinged(redis: redis_py.Redis, count: int) -> float:
    """Give the milliseconds of a PING, the median of so many."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        redis.ping()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


@contextlib.contextmanager
def proxied(port: int) -> Iterator[int]:
    """Run the proxy before a port, and give its own."""
    from tests.benchmarks.bench import ROOT

    command = [sys.executable, "-m", "tests.benchmarks.distant", str(port), str(AWAY)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def main(port: int, seconds: float) -> None:
    """Run the proxy until the input ends."""
    async with Proxy(port).running() as proxy:
        proxy.delay = seconds
        print(proxy.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
