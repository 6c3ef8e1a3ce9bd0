"""The double's own broker and result backend, with a log, and with faults for tests of single parts.

Users' tests have `fibo_client.testing`; what is here goes below its surface.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from fibo_client.celery.backends.base import Confirmed
from fibo_client.celery.brokers.base import PublishOutcome
from fibo_client.errors import PublishError, PublishUnknownError, ReadError
from fibo_client.testing import memory
from fibo_client.testing.results import encode_meta

if TYPE_CHECKING:
    from fibo_client.celery.protocol.message import TaskMessage


class MemorySubscription(memory.MemorySubscription):
    """A connection for pushed results, which may be silent."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend._memory)
        self.backend = backend
        self.pings = 0

    @property
    def events(self) -> asyncio.Queue[Any]:
        return self._events

    async def update(self, add, remove) -> None:
        self.backend.log.append(("subscribe", list(add), list(remove)))
        await super().update(add, remove)

    async def ping(self) -> None:
        self.pings += 1
        if self.backend.answers_pings:
            await super().ping()

    def break_off(self, reason: str = "connection lost") -> None:
        super().break_off(reason)

    def tell(self, event) -> None:
        if self.backend.confirms or not isinstance(event, Confirmed):
            super().tell(event)


class MemoryBackend(memory.MemoryBackend):
    """Results, and a log of the commands."""

    def __init__(self) -> None:
        super().__init__(memory.Memory())
        self.log: list[tuple[Any, ...]] = []
        self.read_at: list[tuple[float, list[str]]] = []
        self.subscriptions: list[MemorySubscription] = []
        self.latency = 0.0
        self.failures = 0
        self.confirms = True
        self.answers_pings = True
        self.hangs = False

    @property
    def values(self) -> dict[str, bytes]:
        return self._memory.results

    def put(self, task_id: str, status: str = "SUCCESS", result: Any = None, *, push: bool = True) -> None:
        """Store a result and, like a worker, publish it."""
        self.put_bytes(task_id, encode_meta(task_id, status, result), push=push)

    def put_bytes(self, task_id: str, payload: bytes, *, push: bool = True) -> None:
        self._memory.store(task_id, payload, push=push)

    async def get_many(self, task_ids) -> list[bytes | None]:
        self.read_at.append((asyncio.get_running_loop().time(), list(task_ids)))
        self.log.append(("read", list(task_ids)))
        if self.hangs:
            await asyncio.sleep(5)  # The client's io_timeout.
            raise ReadError("no answer within 5 s")
        values = await super().get_many(task_ids)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.failures:
            self.failures -= 1
            raise ReadError("connection refused")
        return values

    async def delete_many(self, task_ids) -> None:
        self.log.append(("delete", list(task_ids)))
        await super().delete_many(task_ids)

    async def subscribe(self) -> MemorySubscription:
        subscription = MemorySubscription(self)
        self._memory.subscriptions.append(subscription)
        self.subscriptions.append(subscription)
        return subscription

    async def aclose(self) -> None:
        self.log.append(("close",))

    @property
    def deleted(self) -> list[str]:
        """What was deleted, in order."""
        return [task_id for entry in self.log if entry[0] == "delete" for task_id in entry[1]]

    def reads_of(self, task_id: str) -> list[float]:
        """When a result was read."""
        return [at for at, task_ids in self.read_at if task_id in task_ids]


class MemoryBroker(memory.MemoryBroker):
    """Messages, and a log of the commands."""

    def __init__(self) -> None:
        super().__init__(memory.Memory())
        self.commands: list[list[TaskMessage]] = []
        self.outcomes: deque[Exception | float] = deque()
        self.broadcasts: list[tuple[float, Any]] = []
        self.listening = 1

    async def publish(self, messages):
        """Succeed, or follow the next of `outcomes`: an error to give or to raise, or seconds to take."""
        self.commands.append(list(messages))
        outcome = self.outcomes.popleft() if self.outcomes else 0.0
        if isinstance(outcome, (PublishError, PublishUnknownError)):
            yield PublishOutcome(messages, outcome)
            return
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            await asyncio.sleep(outcome)
        async for each in super().publish(messages):
            yield each

    @property
    def revoked(self) -> list[str]:
        """The tasks that were revoked, in order."""
        revocations = [request for _, request in self.broadcasts if request.method == "revoke"]
        return [task_id for request in revocations for task_id in request.arguments["task_id"]]

    async def broadcast(self, request) -> int:
        self.broadcasts.append((asyncio.get_running_loop().time(), request))
        await super().broadcast(request)
        return self.listening
