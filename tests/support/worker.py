"""A client in memory, and a worker that answers what a test says, when it says so."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fibo_client import FiboClient
from fibo_client.testing.messages import open_message
from support.memory import MemoryBackend, MemoryBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from fibo_client.celery.config import CeleryConfig


def value(n: int) -> int:
    """Give this worker's answer: quick for any n, and different for each."""
    return n * n + 7


@dataclass
class Job:
    """A task that was sent."""

    task_id: str
    queue: str
    priority: int
    numbers: list[int]
    alone: bool
    at: float
    expires: datetime | None


class WorkerBroker(MemoryBroker):
    """A broker that hands what is sent to a worker."""

    def __init__(self, worker: MemoryWorker) -> None:
        super().__init__()
        self.worker = worker

    def publish(self, messages, sender):
        super().publish(messages, sender)
        asyncio.get_running_loop().call_soon(self.hand_over, messages)

    def hand_over(self, messages) -> None:
        now = asyncio.get_running_loop().time()
        for sent in map(open_message, messages):
            (arg,) = sent.args
            alone = isinstance(arg, int)
            numbers = [arg] if alone else arg
            self.worker.take(Job(sent.task_id, sent.queue, sent.priority, numbers, alone, now, sent.expires))


class MemoryWorker:
    """Computes `value` of numbers.

    Attributes:
        jobs: All that was sent.
        delay: Seconds until a job is answered, or a function that gives them. None is never.
        refused: The numbers that fail.
    """

    def __init__(self) -> None:
        self.store = MemoryBackend()
        self.broker = WorkerBroker(self)
        self.jobs: list[Job] = []
        self.delay: float | Callable[[Job], float | None] | None = 0.001
        self.refused: set[int] = set()

    def connect(self, config: CeleryConfig) -> tuple[WorkerBroker, MemoryBackend]:
        self.broker.steps = config.redis.priority_steps
        return self.broker, self.store

    def take(self, job: Job) -> None:
        self.jobs.append(job)
        delay = self.delay(job) if callable(self.delay) else self.delay
        if delay is not None:
            asyncio.get_running_loop().call_later(delay, self.answer, job)

    def answer(self, job: Job, *, push: bool = True) -> None:
        """Store the result of a job."""
        if job.alone and job.numbers[0] in self.refused:
            self.fail(job, f"no {job.numbers[0]}")
        elif job.alone:
            self.store.put(job.task_id, result=f"{value(job.numbers[0]):x}", push=push)
        else:
            result = [
                {"error": ["ValueError", f"no {n}"]} if n in self.refused else f"{value(n):x}" for n in job.numbers
            ]
            self.store.put(job.task_id, result=result, push=push)

    def fail(self, job: Job, message: str = "broken") -> None:
        """Store a failure of a whole job."""
        error = {"exc_type": "ValueError", "exc_message": [message], "exc_module": "builtins"}
        self.store.put(job.task_id, status="FAILURE", result=error)

    @property
    def revoked(self) -> list[str]:
        return self.broker.revoked

    @property
    def deleted(self) -> list[str]:
        return self.store.deleted


@asynccontextmanager
async def memory_client(**settings: Any) -> AsyncIterator[tuple[FiboClient, MemoryWorker]]:
    """Open a client whose tasks go to a worker in memory."""
    worker = MemoryWorker()
    async with FiboClient(transport=worker, **settings) as client:
        yield client, worker


def leftovers(client: FiboClient) -> dict[str, int]:
    """Count what should be gone when nobody waits any more."""
    buckets = client._batcher._buckets.values()
    return {
        "waits": client.stats().pending,
        "numbers": sum(len(bucket.computations) for bucket in buckets),
        "chunks": sum(bucket.in_flight for bucket in buckets),
        "pending": sum(len(bucket.pending) for bucket in buckets),
    }


NOTHING = {"waits": 0, "numbers": 0, "chunks": 0, "pending": 0}
