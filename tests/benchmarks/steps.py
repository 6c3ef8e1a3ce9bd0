"""How long the client holds the event loop at a time: the longest step of what it does with very many tasks.

``python -m tests.benchmarks.steps PROGRAM URL COUNT RUNS``

runs one program in a process of its own, which has only what such a service has. A step is one callback that the event
loop runs, or a task until it waits again. It counts by the CPU time of its thread, so that what else runs on the
machine adds little to it, and without what Python's garbage collector took meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from asyncio import events
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `support` is

from support.waiting import eventually
from tests.benchmarks.answering import ANSWER
from tests.benchmarks.launch import our_calls

from fibo_client import FIBO_TASK, FiboClient
from fibo_client.celery import RemoteTask, chain, chord, group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Literal

    from tests.benchmarks.bench import Bench, Checks
    from tests.benchmarks.report import Row

    from fibo_client import Stream

SHORTEST = 20e-6
"""The seconds of the shortest step that counts for the percentile. The event loop has many that do next to nothing."""

WARM_UP = 500
TIMEOUT = 100
GIVEN_UP = 2.0
"""Seconds after which a `gather` whose answers do not come gives up."""

AFTERWARDS = 1.5
"""Seconds in which the client does what is left to do: that belongs to the program."""

SMALL_CHUNK = 37
"""The most numbers below F(10,000), which has 1,736 hexadecimal digits, whose answer has no more than 64 KiB."""

NOBODY = "nobody"
"""A queue that no worker serves."""

N = 30
LINE = "tasks.fibo_task"

CHUNK = 500
"""Calls of a task that share a message."""

ADD = RemoteTask[..., int]("stock.add")
TOTAL = RemoteTask[..., int]("stock.total")
NEGATED = RemoteTask[[int], int]("stock.negated", chunkable=True)


class Steps:
    """What steps took, in seconds, and what the longest one ran.

    Args:
        apart: A task whose steps do not count.
    """

    def __init__(self, apart: asyncio.Task[Any] | None = None) -> None:
        self.apart = apart
        self.took: list[float] = []
        self.longest = 0.0
        self.culprit: Any = None
        self._collected = 0.0
        self._began = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the event loop during a block."""
        run = events.Handle._run
        clock = time.thread_time

        def timed(handle: asyncio.Handle) -> None:
            if self.apart is not None and getattr(handle._callback, "__self__", None) is self.apart:
                run(handle)
                return
            collected, began = self._collected, clock()
            run(handle)
            took = clock() - began - (self._collected - collected)
            self.took.append(took)
            if took > self.longest:
                self.longest, self.culprit = took, handle._callback

        gc.callbacks.append(self._collecting)
        events.Handle._run = timed
        try:
            yield
        finally:
            events.Handle._run = run
            gc.callbacks.remove(self._collecting)

    def _collecting(self, phase: Literal["start", "stop"], _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self._collected += time.thread_time() - self._began

    def name(self) -> str:
        """Say what the longest step ran."""
        code = getattr(self.culprit, "func", self.culprit)  # of a partial
        task = getattr(code, "__self__", None)
        if isinstance(task, asyncio.Task):
            code = task.get_coro()
        return str(getattr(code, "__qualname__", code))


# The programs. Each yields once before what is watched, once after it, and then how many answers were right.


async def concurrent(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Compute many numbers by as many concurrent calls."""
    yield None
    answers = await our_calls(client, count)
    yield None
    yield right(answers)


async def many(client: FiboClient, count: int, chunk_size: int | None = SMALL_CHUNK) -> AsyncIterator[int | None]:
    """Compute many numbers by one call, with answers of up to 64 KiB."""
    yield None
    answers = await client.fibonacci_many(range(count), timeout=TIMEOUT, chunk_size=chunk_size)
    yield None
    yield right(answers)


async def sending(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Send many tasks."""
    signatures = [FIBO_TASK(N)] * count
    yield None
    handles = await client.celery.send_many(signatures, queue=NOBODY, timeout=TIMEOUT)
    yield None
    yield len({handle.id for handle in handles})


async def sending_flows(client: FiboClient, count: int, flows: Callable[[int], list[Any]]) -> AsyncIterator[int | None]:
    """Send many chains, or one group or chord of many."""
    given = flows(count)
    yield None
    results = await client.celery.send_many(given, queue=NOBODY, timeout=TIMEOUT)
    yield None
    yield count if len(results) == len(given) else 0


def many_chains(count: int) -> list[Any]:
    """Compose chains of three."""
    return [chain(ADD(n, 1), ADD.s(2), ADD.s(3)) for n in range(count)]


async def calling_flows(client: FiboClient, count: int, flows: Callable[[int], list[Any]]) -> AsyncIterator[int | None]:
    """Call many chains, or one group or chord of many, and count those that gave something."""
    given = flows(count)
    yield None
    values = await client.celery.call_many(given, timeout=TIMEOUT)
    yield None
    yield count if None not in values else 0


async def gathering(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Wait for many answers together, which come meanwhile."""
    with answering(client.config.broker_url) as begin:
        handles = [client.celery.result(handle.id) for handle in await sent(client, count)]
        yield None
        begin()
        answers = await client.celery.gather(handles, timeout=TIMEOUT)
        yield None
        yield answers.count(ANSWER)


async def waiting(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Wait for many answers together, which do not come."""
    handles = await sent(client, count)
    yield None
    with contextlib.suppress(TimeoutError):
        await client.celery.gather(handles, timeout=GIVEN_UP)
    yield None
    yield count


async def calling(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Make many calls of one task each at once."""
    yield None
    answers = await asyncio.gather(*(client.celery.call(LINE, (N,), timeout=TIMEOUT) for _ in range(count)))
    yield None
    yield sum(n == N for n, _ in answers)


async def leaving(client: FiboClient, count: int, chunk_size: int | None = None) -> AsyncIterator[int | None]:
    """Leave a stream that has many inputs in flight: numbers, or calls of one task in chunks of this size."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        while pulled < count:
            pulled += 1
            yield pulled

    async def are_sent() -> bool:
        await asyncio.sleep(0.5)  # To count what is in flight takes long.
        return pulled == count and not client.stats().unsent

    options: dict[str, Any] = {"max_in_flight": count, "timeout": TIMEOUT}
    if chunk_size is None:
        stream: Stream[int, Any] = client.stream(source(), **options)
    else:
        stream = client.celery.stream(NEGATED, source(), chunk_size=chunk_size, queue=NOBODY, **options)
    async with stream:
        await eventually(are_sent, timeout=TIMEOUT)
        await asyncio.sleep(0.2)  # What the client collects before it sends has been sent.
        yield None
    yield None
    yield pulled


async def streaming(client: FiboClient, count: int, chunk_size: int) -> AsyncIterator[int | None]:
    """Stream calls of one task, with all of them in flight."""
    yield None
    correct = 0
    async with client.celery.stream(
        NEGATED, range(count), chunk_size=chunk_size, max_in_flight=count, timeout=TIMEOUT
    ) as answers:
        async for n, answer in answers:
            correct += answer == -n
    yield None
    yield correct


async def calling_in_chunks(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Make many calls by one call, in chunks."""
    signatures = [NEGATED(n) for n in range(count)]
    yield None
    answers = await client.celery.call_many(signatures, chunk_size=CHUNK, timeout=TIMEOUT)
    yield None
    yield sum(answer == -n for n, answer in enumerate(answers))


async def completing(client: FiboClient, count: int) -> AsyncIterator[int | None]:
    """Take many answers as they come."""
    with answering(client.config.broker_url) as begin:
        handles = [client.celery.result(handle.id) for handle in await sent(client, count)]
        yield None
        begin()
        came = 0
        async for result in client.celery.as_completed(handles, timeout=TIMEOUT):
            came += result.id is not None
        yield None
        yield came


def right(answers: list[int]) -> int:
    """Count the right ones of the first Fibonacci numbers."""
    a, b, count = 0, 1, 0
    for answer in answers:
        count += answer == a
        a, b = b, a + b
    return count


async def sent(client: FiboClient, count: int) -> list[Any]:
    """Send many tasks to nobody, and let the client rest."""
    handles = await client.celery.send_many([FIBO_TASK(N)] * count, queue=NOBODY, timeout=TIMEOUT)
    await asyncio.sleep(0.1)
    return handles


@contextlib.contextmanager
def answering(url: str) -> Iterator[Callable[[], None]]:
    """Give what makes another process begin to answer."""
    command = [sys.executable, "-m", "tests.benchmarks.answering", url, NOBODY]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        pipe = process.stdin

        def begin() -> None:
            pipe.write(b"\n")
            pipe.flush()

        try:
            yield begin
        finally:
            pipe.close()
            process.wait(TIMEOUT)


async def measure(name: str, url: str, count: int, runs: int) -> list[dict[str, Any]]:
    """Run a program several times, once it is warm.

    Args:
        name: Which of `PROGRAMS`.
        url: The database.
        count: How many tasks or numbers.
        runs: How often.

    Returns:
        For each run the 99th percentile and the longest step, in seconds, what that ran, and the right answers.
    """
    program = PROGRAMS[name]
    said = []
    async with FiboClient(url) as client:
        for run in range(runs + 1):
            phases = program.run(client, min(count, WARM_UP) if run == 0 else count)
            await anext(phases)
            gc.collect()
            steps = Steps(asyncio.current_task() if program.tasks else None)
            with steps.watched():
                await asyncio.sleep(0)  # The step that is under way is not watched, and the program begins in it.
                await anext(phases)
                await asyncio.sleep(AFTERWARDS)
            came = [each async for each in phases]
            if run:
                long = sorted(took for took in steps.took if took >= SHORTEST) or [0.0]
                p99 = long[int(len(long) * 0.99)]
                said.append({"p99": p99, "max": steps.longest, "longest": steps.name(), "right": came[0]})
    return said


# What runs the programs.


@dataclasses.dataclass(frozen=True)
class Program:
    """What is measured of a program.

    Attributes:
        run: The program.
        title: What its rows are called, with the count in it.
        count: The size that says how many tasks or numbers there are.
        worker: The worker that serves it. Empty is none.
        goals: Whether it has goals. Those are for answers of up to 64 KiB.
        tasks: Whether the client works in many tasks of callers. Then what launches them does not count.
    """

    run: Callable[[FiboClient, int], AsyncIterator[int | None]]
    title: str
    count: str
    worker: Literal["fibo", "stock", ""] = ""
    goals: bool = True
    tasks: bool = False


PROGRAMS = {
    "concurrent": Program(concurrent, "{:,} concurrent fibonacci(n)", "concurrent", "fibo", tasks=True),
    "many": Program(many, "fibonacci_many of {:,}, answers up to 64 KiB", "many", "fibo"),
    "chunks": Program(partial(many, chunk_size=None), "fibonacci_many of {:,}", "many", "fibo", goals=False),
    "send": Program(sending, "send_many of {:,}", "flood"),
    "gather": Program(gathering, "gather of {:,}", "flood"),
    "timeout": Program(waiting, "gather of {:,} that times out", "flood"),
    "calls": Program(calling, "{:,} celery.calls at once", "at_once", "stock", tasks=True),
    "leave": Program(leaving, "leaving a stream with {:,} in flight", "flood"),
    "leave-calls": Program(partial(leaving, chunk_size=1), "leaving a stream with {:,} calls in flight", "flood"),
    "leave-chunks": Program(
        partial(leaving, chunk_size=CHUNK), f"leaving a stream with {{:,}} calls in flight, {CHUNK} a chunk", "flood"
    ),
    "stream-calls": Program(partial(streaming, chunk_size=1), "a stream of {:,} calls, all in flight", "held", "stock"),
    "stream-chunks": Program(
        partial(streaming, chunk_size=CHUNK),
        f"a stream of {{:,}} calls, all in flight, {CHUNK} a chunk",
        "flood",
        "stock",
    ),
    "call-chunks": Program(calling_in_chunks, f"call_many of {{:,}}, {CHUNK} a chunk", "flood", "stock"),
    "send-chains": Program(partial(sending_flows, flows=many_chains), "send_many of {:,} chains of 3", "held"),
    "send-group": Program(
        partial(sending_flows, flows=lambda count: [group(many_chains(count))]),
        "send of a group of {:,} chains",
        "held",
    ),
    "send-chord": Program(
        partial(sending_flows, flows=lambda count: [chord([ADD(n, 1) for n in range(count)], TOTAL())]),
        "send of a chord of {:,}",
        "held",
    ),
    "call-chains": Program(partial(calling_flows, flows=many_chains), "call_many of {:,} chains", "at_once", "stock"),
    "call-chord": Program(
        partial(calling_flows, flows=lambda count: [chord([ADD(n, 1) for n in range(count)], TOTAL())]),
        "call of a chord of {:,}",
        "at_once",
        "stock",
    ),
    "complete": Program(completing, "as_completed of {:,}", "flood"),
}


def longest(name: str, here: Bench) -> list[Row]:
    """Run a program in a process of its own, and take the best of its runs.

    Args:
        name: Which of `PROGRAMS`.
        here: What all measures use.

    Returns:
        Two rows.
    """
    from tests.benchmarks.report import Row

    program, runs = PROGRAMS[name], here.sizes.runs
    count = getattr(here.sizes, program.count)
    title = program.title.format(count)
    first = name == next(iter(PROGRAMS))
    note = (
        f"the best of {runs} runs, by CPU time of the thread, garbage collection apart; p99 of the steps that took "
        f"{SHORTEST * 1e6:g} us or more. What the client does in the {AFTERWARDS:g} s afterwards belongs to it."
    )
    p99 = Row(
        f"longest step, {title}: p99",
        "ms",
        "less",
        1 if program.goals else None,
        None,
        best=True,
        note=note if first else "",
    )
    most = Row(f"longest step, {title}: max", "ms", "less", 3 if program.goals else None, None, best=True)
    if first:
        most.headline = f"Longest hold of the event loop, {title}"
    url = getattr(here, program.worker).url if program.worker else here.server.fresh_url()
    for number, run in enumerate(runs_of(name, url, count, runs, here.checks["ours"])):
        p99.add(run["p99"] * 1e3)
        most.add(run["max"] * 1e3)
        figures = f"p99 {p99.ours[-1]:.2f} ms, max {most.ours[-1]:.2f} ms, of {run['longest']}"
        here.say(f"{number + 1} of {runs}: {title}: {figures}")
    if program.worker:
        getattr(here, program.worker).clean()
    else:
        with here.server.client(url) as redis:
            redis.flushdb()
    return [p99, most]


def runs_of(name: str, url: str, count: int, runs: int, checks: Checks) -> list[dict[str, Any]]:
    """Run a program in a process of its own, and count its right answers."""
    from tests.benchmarks.bench import ROOT

    came = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.steps", name, url, str(count), str(runs)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    said: list[dict[str, Any]] = json.loads(came.stdout)
    checks.asked += count * runs
    checks.right += sum(run["right"] for run in said)
    return said


if __name__ == "__main__":
    for variable in [each for each in os.environ if each.startswith(("CELERY_", "FIBO_"))]:
        del os.environ[variable]
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
