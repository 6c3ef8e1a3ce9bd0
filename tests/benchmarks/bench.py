"""What all measures use: a private Redis, workers, and for each side a client that has been warmed up.

A worker is started when a measure asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from support.clients import celery_client
from support.servers import RedisServer, stock_worker
from tests.benchmarks.report import Work

from fibo_client import FiboClient
from fibo_client.contract import FIBONACCI, FIBONACCI_CHUNK, fibo_message
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    import redis as redis_py
    from celery import Celery
    from tests.benchmarks.report import Row

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

N = 30
ANSWER = "832040"
TASK = "tasks.fibo_task"
TIMEOUT = 100
"""Seconds for anything that is measured: far more than it takes, so that a fault ends the run."""

INTERVAL = 0.01
"""What Celery's `GroupResult.get` is given as `interval`. By default a group whose answers are all there already waits
for half a second nevertheless."""

SIDES = ("ours", "Celery", "prototype")
WARM_UP = 20
MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done in one repeat.

    Attributes:
        bulk: Tasks sent and collected together, one value each.
        calls: Calls in a row, before the other side has its turn.
        distant: Calls in a row through a proxy that delays.
        sent: Tasks sent to a queue that nobody serves.
        flows: Chains sent together, and tasks in the header of a chord.
        many: Values in one `fibonacci_many`, and in Celery's group of the same.
        concurrent: Concurrent calls.
        threaded: Calls that Celery makes in threads meanwhile.
        large: Calls of a large n in flight.
        small: Small calls beside them.
        streamed: Values of the stream.
        pending: Results that are waited for in vain.
        watched: Seconds for which commands are counted.
        huge: The huge n.
        top: The largest n of the plot of costs.
        peer: Tasks of each peer.
        requests: Requests of each caller of a service.
        flood: Tasks of one huge `send_many` or `gather`, and numbers of a stream that is left.
        at_once: Calls of one task each that are made at once.
        held: Calls that are made and have no answer, to see what memory they take.
        clients: Clients that call at once.
        client_calls: Calls of each of them.
        runs: Runs of a program whose best counts.
    """

    bulk: int
    calls: int
    distant: int
    sent: int
    flows: int
    many: int
    concurrent: int
    threaded: int
    large: int
    small: int
    streamed: int
    pending: int
    watched: float
    huge: int
    top: int
    peer: int
    requests: int
    flood: int
    at_once: int
    held: int
    clients: int
    client_calls: int
    runs: int


FULL = Sizes(
    bulk=2000,
    calls=200,
    distant=50,
    sent=10_000,
    flows=1000,
    many=10_000,
    concurrent=10_000,
    threaded=2000,
    large=200,
    small=400,
    streamed=1_000_000,
    pending=1000,
    watched=10,
    huge=10_000_000,
    top=10_000_000,
    peer=2000,
    requests=12,
    flood=100_000,
    at_once=2000,
    held=10_000,
    clients=100,
    client_calls=20,
    runs=5,
)
QUICK = Sizes(
    bulk=400,
    calls=50,
    distant=20,
    sent=2000,
    flows=200,
    many=1000,
    concurrent=2000,
    threaded=400,
    large=50,
    small=100,
    streamed=50_000,
    pending=1000,
    watched=3,
    huge=10_000_000,
    top=1_000_000,
    peer=400,
    requests=4,
    flood=20_000,
    at_once=400,
    held=2000,
    clients=20,
    client_calls=10,
    runs=2,
)


@dataclasses.dataclass
class Checks:
    """How many answers of one side were right, of how many."""

    right: int = 0
    asked: int = 0

    @property
    def all_right(self) -> bool:
        return self.right == self.asked > 0

    def same(self, answers: Sequence[Any], expected: Sequence[Any]) -> None:
        """Check answers against what they should be.

        Args:
            answers: What came.
            expected: What should have come, as many.
        """
        self.asked += len(expected)
        self.right += sum(a == b for a, b in zip(answers, expected, strict=False))

    def sentences(self, answers: Sequence[Any], task_ids: Sequence[str] | None = None) -> None:
        """Check the answers of `TASK`.

        Args:
            answers: Pairs of `N` and a sentence, or what came in place of one.
            task_ids: Whose answers they should be, where that is known.
        """
        self.asked += len(answers)
        for place, answer in enumerate(answers):
            match answer:
                case [int(n), str(said)]:
                    task_id = task_ids[place] if task_ids else said.partition("task id ")[2].partition(" ")[0]
                    self.right += n == N and said == fibo_message(task_id, ANSWER)

    def ends(self, ends: Sequence[tuple[int, int]]) -> None:
        """Check large numbers by their last 64 bits, which costs nothing while something is measured.

        Args:
            ends: Pairs of n and the last 64 bits of what came.
        """
        self.asked += len(ends)
        self.right += sum(end == last_bits(n) for n, end in ends)


@dataclasses.dataclass
class Place:
    """A database with a worker that serves it, and a client of each kind for it.

    Attributes:
        url: The database.
        worker: The worker.
        redis: A connection to it, for looking and cleaning.
        push: This project's client, as it comes.
        poll: The same, without push.
        celery: Celery's client.
        task: `TASK`, as Celery's user has it.
        counts: The control command by which the worker tells what it has done.
    """

    url: str
    worker: WorkerProcess
    redis: redis_py.Redis
    push: FiboClient
    poll: FiboClient
    celery: Celery
    task: Any
    counts: str

    def clean(self) -> None:
        """Delete all results of both sides, and collect garbage, outside of what is measured.

        A result object of Celery unsubscribes when it is collected, which must not happen while this side is measured.
        """
        gc.collect()
        keys = list(self.redis.scan_iter(match="celery-task-meta-*", count=1000))
        for start in range(0, len(keys), 500):
            self.redis.unlink(*keys[start : start + 500])

    def server_cpu(self) -> float:
        """Give the seconds of CPU that the server has used so far."""
        said = self.redis.info("cpu")
        return float(said["used_cpu_user"] + said["used_cpu_sys"])

    def settle(self) -> None:
        """Clean up after warming up, and let garbage collection leave alone what is loaded by now.

        Otherwise each side would be held up by what the bench has loaded for the other.
        """
        self.clean()
        gc.freeze()

    def counted(self) -> tuple[int, int]:
        """Ask the worker what it has done so far.

        Returns:
            Values computed, and tasks run.
        """
        (reply,) = self.celery.control.broadcast(
            self.counts, destination=[self.worker.node], reply=True, limit=1, timeout=TIMEOUT
        )
        said = reply[self.worker.node]
        if self.counts == "computed":
            return said["values"], said["tasks"]
        run = sum(said["total"].values())  # a plain worker: one value a task
        return run, run

    @contextlib.contextmanager
    def working(self, asked: int) -> Iterator[list[Work]]:
        """Have the worker count.

        Args:
            asked: The values that are asked for in the block.

        Yields:
            A list, which has what was done after the block.
        """
        work: list[Work] = []
        values, tasks = self.counted()
        yield work
        values_now, tasks_now = self.counted()
        work.append(Work(asked, values_now - values, tasks_now - tasks))


@dataclasses.dataclass
class Bench:
    """What all measures use.

    Attributes:
        runner: The event loop on which this project's clients live. It stands still while Celery is measured.
        server: The private Redis.
        stack: What is closed at the end.
        sizes: How much is done in one repeat.
        repeats: How often most things are measured.
        say: Shows a line.
        checks: Whether answers were right: of ``ours``, of ``Celery``, of the raw ``prototype``.
        curves: What the plots show.
    """

    runner: asyncio.Runner
    server: RedisServer
    stack: contextlib.ExitStack
    sizes: Sizes
    repeats: int
    say: Callable[[str], None]
    checks: dict[str, Checks] = dataclasses.field(default_factory=lambda: {side: Checks() for side in SIDES})
    curves: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def stock(self) -> Place:
        """A plain Celery worker with two processes."""
        self.say("starting a plain Celery worker with two processes")
        url = self.server.fresh_url()
        place = self._place(url, self.stack.enter_context(stock_worker(url, concurrency=2)), "stats")
        for _ in range(WARM_UP):
            self.run(place.push.celery.call(TASK, (N,), timeout=TIMEOUT))
            self.run(place.poll.celery.call(TASK, (N,), timeout=TIMEOUT))
            place.task.delay(N).get(timeout=TIMEOUT)
        place.settle()
        return place

    @functools.cached_property
    def fibo(self) -> Place:
        """The worker of fibo-worker with two processes and its defaults, which counts."""
        self.say("starting fibo-worker with two processes")
        url = self.server.fresh_url()
        worker = WorkerProcess(
            url, app="tests.benchmarks.counted", concurrency=2, env={"PYTHONPATH": str(ROOT)}, stop_timeout=0
        )
        place = self._place(url, self.stack.enter_context(worker), "computed")
        for _ in range(WARM_UP):
            self.run(place.push.fibonacci(N, timeout=TIMEOUT))
            self.run(place.push.celery.call(FIBONACCI_CHUNK, ([N],), timeout=TIMEOUT))
            place.celery.send_task(FIBONACCI.name, (N,)).get(timeout=TIMEOUT)
        place.settle()
        return place

    @functools.cached_property
    def numbers(self) -> list[int]:
        """The first Fibonacci numbers, by addition."""
        numbers = [0, 1]
        while len(numbers) < max(self.sizes.many, self.sizes.concurrent):
            numbers.append(numbers[-2] + numbers[-1])
        return numbers

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop, after all that was left to do there.

        Args:
            coroutine: The coroutine.

        Returns:
            What it returns.
        """
        self.runner.run(asyncio.sleep(0.02))  # What is left to do is nobody's to wait for.
        return self.runner.run(coroutine)

    def tell(self, row: Row, repeat: int, repeats: int) -> None:
        """Show the figures of one repeat.

        Args:
            row: Where they are.
            repeat: The number of the repeat.
            repeats: Of how many.
        """
        beside = f"; {row.beside} {row.theirs[-1]:,.2f}" if row.beside else ""
        self.say(f"{repeat + 1} of {repeats}: {row.what}: {row.ours[-1]:,.2f} {row.unit}{beside}")

    def check(self) -> None:
        """See that the workers that were started are still there."""
        for name in ("stock", "fibo"):
            if name in self.__dict__:
                getattr(self, name).worker.check()

    def _place(self, url: str, worker: WorkerProcess, counts: str) -> Place:
        app = self.stack.enter_context(celery_client(url))
        place = Place(
            url=url,
            worker=worker,
            redis=self.stack.enter_context(self.server.client(url)),
            push=FiboClient(url),
            poll=FiboClient(url, push=False),
            celery=app,
            task=app.task(name=TASK, shared=False)(fibo_task),
            counts=counts,
        )
        for client in (place.push, place.poll):
            self.run(client.open())
            self.stack.callback(lambda client=client: self.run(client.aclose()))
        return place


@contextlib.contextmanager
def bench(sizes: Sizes, repeats: int, say: Callable[[str], None]) -> Iterator[Bench]:
    """Start a Redis, and stop everything at the end.

    Args:
        sizes: How much is done in one repeat.
        repeats: How often most things are measured.
        say: Shows a line.

    Yields:
        What all measures use.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        yield Bench(stack.enter_context(asyncio.Runner()), server, stack, sizes, repeats, say)


def fibo_task(value: int) -> None:
    """Stand for the task whose code only the worker has."""


def in_turns(repeat: int, **sides: Callable[[], Any]) -> dict[str, Any]:
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


def percentile(values: Sequence[float], percent: int) -> float:
    """Give the value below which so many percent are.

    Args:
        values: Two values or more.
        percent: 1 to 99.

    Returns:
        The percentile.
    """
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def last_bits(n: int) -> int:
    """Compute the last 64 bits of F(n), by doubling.

    Args:
        n: The index.

    Returns:
        The bits.
    """
    a, b = 0, 1
    for bit in f"{n:b}":
        a, b = a * (2 * b - a) & MASK, (a * a + b * b) & MASK
        if bit == "1":
            a, b = b, (a + b) & MASK
    return a


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Time a call.

    Args:
        work: What to call.

    Returns:
        Seconds, and what it returned.
    """
    began = time.perf_counter()
    came = work()
    return time.perf_counter() - began, came
