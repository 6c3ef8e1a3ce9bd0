"""What all measures use: one private Redis, one plain worker, and on each side a client that has been warmed up."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
from typing import TYPE_CHECKING, Any

from support.clients import celery_client
from support.servers import RedisServer, stock_worker

from fibo_client import FiboClient
from fibo_client.contract import fibo_message

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import redis as redis_py
    from celery import Celery

    from fibo_worker.dev import WorkerProcess

N = 30
ANSWER = "832040"
TASK = "tasks.fibo_task"
TIMEOUT = 100
"""Seconds for anything that is measured: far more than it takes, so that a fault ends the run."""

WARM_UP = 20


@dataclasses.dataclass
class Checks:
    """How many answers of one side were right, of how many."""

    right: int = 0
    asked: int = 0

    @property
    def all_right(self) -> bool:
        return self.right == self.asked > 0

    def add(self, answers: list[Any], task_ids: list[str] | None = None) -> None:
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


@dataclasses.dataclass
class Bench:
    """What all measures use.

    Attributes:
        runner: The event loop on which this project's clients live. It stands still while Celery is measured.
        url: The Redis that the worker serves.
        idle_url: A database of it that nobody serves.
        worker: The worker.
        redis: A connection to `url`, for looking and cleaning.
        push: This project's client, as it comes.
        poll: The same, without push.
        celery: Celery's client.
        checks: Whether answers were right: of ``ours``, of ``Celery``.
        tell: Shows a line.
    """

    runner: asyncio.Runner
    url: str
    idle_url: str
    worker: WorkerProcess
    redis: redis_py.Redis
    push: FiboClient
    poll: FiboClient
    celery: Celery
    tell: Callable[[str], None]
    checks: dict[str, Checks] = dataclasses.field(default_factory=lambda: {"ours": Checks(), "Celery": Checks()})

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the event loop, after all that was left to do there.

        Args:
            coroutine: The coroutine.

        Returns:
            What it returns.
        """
        self.runner.run(asyncio.sleep(0.02))
        return self.runner.run(coroutine)

    def clean(self) -> None:
        """Delete all results of both sides, and collect garbage, outside of what is measured.

        A result object of Celery unsubscribes when it is collected, which must not happen while this side is measured.
        """
        gc.collect()
        keys = list(self.redis.scan_iter(match="celery-task-meta-*", count=1000))
        for start in range(0, len(keys), 500):
            self.redis.unlink(*keys[start : start + 500])


@contextlib.contextmanager
def bench(tell: Callable[[str], None]) -> Iterator[Bench]:
    """Start everything, and stop it at the end.

    Args:
        tell: Shows a line.

    Yields:
        What all measures use.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        url = server.fresh_url()
        worker = stack.enter_context(stock_worker(url, concurrency=2))
        here = Bench(
            runner=stack.enter_context(asyncio.Runner()),
            url=url,
            idle_url=server.fresh_url(),
            worker=worker,
            redis=stack.enter_context(server.client(url)),
            push=FiboClient(url),
            poll=FiboClient(url, push=False),
            celery=stack.enter_context(celery_client(url)),
            tell=tell,
        )
        for client in (here.push, here.poll):
            here.runner.run(client.open())
            stack.callback(lambda client=client: here.runner.run(client.aclose()))
        warm_up(here)
        yield here


def warm_up(here: Bench) -> None:
    """Have each client make its connections and declarations, and the worker's processes import what they need.

    Args:
        here: What all measures use.
    """
    for _ in range(WARM_UP):
        here.run(here.push.fibo_task(N, timeout=TIMEOUT))
        here.run(here.poll.fibo_task(N, timeout=TIMEOUT))
        here.celery.send_task(TASK, (N,)).get(timeout=TIMEOUT)
    here.clean()
