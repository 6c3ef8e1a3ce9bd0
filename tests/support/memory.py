"""The double's own broker and result backend, with a log, and with faults for tests of single parts.

Users' tests have `fibo_client.testing`; what is here goes below its surface.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from fibo_client.errors import PublishError, PublishUnknownError, ReadError
from fibo_client.testing import memory
from fibo_client.testing.results import encode_meta

if TYPE_CHECKING:
    from fibo_client.celery.backends.base import Subscriber
    from fibo_client.celery.protocol.message import TaskMessage


class MemorySubscription(memory.MemorySubscription):
    """A connection for pushed results, which may be silent, or unable to look."""

    def __init__(self, backend: MemoryBackend, subscriber: Subscriber) -> None:
        super().__init__(backend._memory, subscriber)
        self.backend = backend
        self.unconfirmed: list[list[str]] = []

    @property
    def subscriber(self) -> Subscriber:
        return self._subscriber

    def update(self, add, remove, *, look) -> None:
        self.backend.log.append(("subscribe", list(add), list(remove)))
        super().update(add, remove, look=look)

    def break_off(self, reason: str = "connection lost") -> None:
        super().break_off(reason)

    def confirm(self, task_ids, look=True) -> None:
        if self.backend.looks:
            super().confirm(task_ids, look)
        elif not self.backend.confirms:
            self.unconfirmed.append(task_ids)
        elif self.gone is None:
            self.subscriber.subscribed(task_ids, None)


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
        self.looks = False  # As over RESP2. What is stored is then read by the reader itself.
        self.kept_alive = 0
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

    def keep_alive(self) -> None:
        self.kept_alive += 1

    async def subscribe(self, subscriber) -> MemorySubscription:
        subscription = MemorySubscription(self, subscriber)
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

    def publish(self, messages, sender) -> None:
        """Succeed, or follow the next of `outcomes`: an error to give or to raise, or seconds to take."""
        self.commands.append(list(messages))
        outcome = self.outcomes.popleft() if self.outcomes else 0.0
        loop = asyncio.get_running_loop()
        if isinstance(outcome, (PublishError, PublishUnknownError)):
            loop.call_soon(sender.failed, messages, outcome)
        elif isinstance(outcome, Exception):
            raise outcome
        elif outcome:
            loop.call_later(outcome, super().publish, messages, sender)
        else:
            super().publish(messages, sender)

    @property
    def revoked(self) -> list[str]:
        """The tasks that were revoked, in order."""
        revocations = [request for _, request in self.broadcasts if request.method == "revoke"]
        return [task_id for request in revocations for task_id in request.arguments["task_id"]]

    async def broadcast(self, request) -> int:
        self.broadcasts.append((asyncio.get_running_loop().time(), request))
        await super().broadcast(request)
        return self.listening


class Servers:
    """A broker and a result backend in memory, where nobody works."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.backend = MemoryBackend()

    def connect(self, config):
        return self.broker, self.backend

    @property
    def sent(self) -> list[str]:
        return [message.id for messages in self.broker.commands for message in messages]

    @property
    def revocations(self) -> list[tuple[list[str], bool]]:
        arguments = [request.arguments for _, request in self.broker.broadcasts if request.method == "revoke"]
        return [(each["task_id"], each.get("terminate", False)) for each in arguments]
