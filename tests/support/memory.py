"""A broker and a result store in memory, which do what a test tells them and write down what was asked of them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from fibo_client.celery.transport.base import Confirmed, Parcel, Place, Pushed
from fibo_client.celery.transport.weather import Weather
from fibo_client.errors import ReadError, TransportError
from fibo_client.telemetry import Server


def meta_bytes(task_id: str, status: str = "SUCCESS", result: Any = None) -> bytes:
    """A result as a worker stores it."""
    return json.dumps({"status": status, "result": result, "traceback": None, "task_id": task_id}).encode()


class MemorySubscription:
    """A connection for pushed results."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.ids: set[str] = set()
        self.events: asyncio.Queue[Confirmed | Pushed | TransportError | None] = asyncio.Queue()
        self.gone = False
        self.pings = 0

    async def update(self, add, remove) -> None:
        if self.gone:
            raise TransportError("gone")
        self.store.log.append(("subscribe", list(add), list(remove)))
        self.ids |= set(add)
        self.ids -= set(remove)
        for task_id in add:
            if self.store.confirms:
                self.events.put_nowait(Confirmed((task_id,)))

    async def receive(self):
        event = await self.events.get()
        if isinstance(event, TransportError):
            raise event
        return event

    async def ping(self) -> None:
        self.pings += 1
        if self.store.answers_pings:
            self.events.put_nowait(None)

    def break_off(self) -> None:
        self.gone = True
        self.events.put_nowait(TransportError("connection lost"))

    async def abort(self) -> None:
        self.break_off()

    async def aclose(self) -> None:
        self.gone = True


class MemoryStore:
    """Results in a dict."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.log: list[tuple[Any, ...]] = []
        self.read_at: list[tuple[float, list[str]]] = []
        self.subscriptions: list[MemorySubscription] = []
        self.latency = 0.0
        self.failures = 0
        self.confirms = True
        self.answers_pings = True
        self.hangs = False
        self.weather = Weather("memory")

    def put(self, task_id: str, status: str = "SUCCESS", result: Any = None, *, push: bool = True) -> None:
        """Store a result and, like a worker, publish it."""
        self.put_bytes(task_id, meta_bytes(task_id, status, result), push=push)

    def put_bytes(self, task_id: str, payload: bytes, *, push: bool = True) -> None:
        self.values[task_id] = payload
        for subscription in self.subscriptions:
            if push and task_id in subscription.ids and not subscription.gone:
                subscription.events.put_nowait(Pushed(task_id, payload))

    async def read_many(self, task_ids) -> list[bytes | None]:
        self.read_at.append((asyncio.get_running_loop().time(), list(task_ids)))
        self.log.append(("read", list(task_ids)))
        if self.hangs:
            await asyncio.sleep(5)
            raise ReadError("no answer within 5 s")
        values = [self.values.get(task_id) for task_id in task_ids]
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.failures:
            self.failures -= 1
            raise ReadError("connection refused")
        return values

    async def delete(self, task_ids) -> None:
        self.log.append(("delete", list(task_ids)))
        for task_id in task_ids:
            self.values.pop(task_id, None)

    async def subscribe(self) -> MemorySubscription:
        subscription = MemorySubscription(self)
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


class MemoryTemplate:
    """Messages that are no more than their arguments."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def dated(self, moments) -> MemoryTemplate:
        return self

    def fill(self, task_id, nonce, arguments, more_headers) -> Parcel:
        return Parcel(task_id, self.queue, arguments.body)


class MemoryBroker:
    """Messages in a list."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, list[Parcel]]] = []
        self.outcomes: deque[Exception | float] = deque()
        self.broadcasts: list[tuple[float, Any]] = []
        self.weather = Weather("memory")
        self.server = Server("memory")

    def prepare(self, example, queue) -> MemoryTemplate:
        return MemoryTemplate(queue)

    async def publish(self, route, parcels) -> None:
        """Succeed, or do what the next outcome says: raise an error, or take so many seconds."""
        self.commands.append((route, list(parcels)))
        outcome = self.outcomes.popleft() if self.outcomes else 0.0
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(outcome)

    @property
    def revoked(self) -> list[str]:
        """The tasks that were revoked, in order."""
        return [task_id for _, request in self.broadcasts for task_id in request.arguments["task_id"]]

    async def depth(self, queue) -> int:
        return sum(len(parcels) for route, parcels in self.commands if route == queue)

    async def locate(self, queue, task_id) -> Place:
        waiting = [parcel.task_id for route, parcels in self.commands for parcel in parcels if route == queue]
        return Place(len(waiting), waiting.index(task_id) if task_id in waiting else None, complete=True)

    async def broadcast(self, request) -> int:
        self.broadcasts.append((asyncio.get_running_loop().time(), request))
        return 1

    async def ask(self, request, *, timeout, limit=None) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass
