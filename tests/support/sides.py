"""Brokers and backends for the same tests: a real Redis, the double that users' tests run on, and AMQP's facts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.celery.redis.envelope import is_task
from fibo_client.testing import FakeCelery
from fibo_client.testing.memory import Memory, MemoryBackend
from fibo_client.testing.worker import Worker
from support.amqp import AmqpBroker, AmqpServer
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from support.hand import Hand
    from support.servers import RedisServer


class Facts:
    """Facts in which brokers differ."""

    first, last = 0, 9
    """The priorities that are served first and last."""
    counts_listeners = True
    patience = 10.0
    """The most seconds that a question to all workers takes."""
    one_server = True
    """Whether the broker and the result backend are on one server."""


class RedisSide(Facts):
    """A Redis that no worker serves, or the one with two workers."""

    def __init__(
        self, server: RedisServer | None, hand: Hand | None, nodes: tuple[str, ...], url: str | None = None
    ) -> None:
        self.url = url or server.url
        self.hand = hand
        self.nodes = nodes
        self._opened: list[Any] = []

    def connect(self, url: str | None = None, **settings: Any) -> tuple[Broker, Backend]:
        broker, backend = connect(CeleryConfig(broker_url=url or self.url, **settings))
        self._opened += [broker, backend]
        return broker, backend

    async def put(self, task_id: str, payload: bytes, *, publish: bool = True) -> None:
        """Store a result as a worker does."""
        await self.hand.put_bytes(task_id, payload, publish=publish)

    async def served(self, queue: str, task_ids: list[str]) -> list[str]:
        """Take all messages of a queue as a worker does. Gives the ids of their tasks."""
        lists = [queue, *(f"{queue}\x06\x16{step}" for step in (3, 6, 9))]
        taken = []
        while (popped := await self.hand.redis.brpop(lists, timeout=0.01)) is not None:
            taken += [task_id for task_id in task_ids if is_task(popped[1], task_id)]
        return taken

    async def break_subscriptions(self) -> None:
        await self.hand.redis.client_kill_filter(_type="pubsub")

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[tuple[Broker, Backend]]:
        """A broker and a backend whose server is not there."""
        yield self.connect(f"redis://127.0.0.1:{free_port()}/0")

    @contextlib.asynccontextmanager
    async def unanswered(self) -> AsyncIterator[Broker]:
        """A broker whose server accepts commands and gives no answers."""
        broker, _ = self.connect(io_timeout=0.2)
        await broker.prepare()
        await self.hand.redis.client_pause(2000)
        yield broker
        await self.hand.redis.client_unpause()

    async def aclose(self) -> None:
        for each in self._opened:
            await each.aclose()


class MemorySide(Facts):
    """The double, without a worker or with two."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.fake = FakeCelery(queues=(), nodes=nodes)
        self.memory = self.fake._memory  # No user's test puts bytes into a result, or takes what waits.
        self.nodes = nodes
        self._opened: list[Any] = []

    def connect(self, **settings: Any) -> tuple[Broker, Backend]:
        broker, backend = self.fake.connect(CeleryConfig(**settings))
        self._opened += [broker, backend]
        return broker, backend

    async def put(self, task_id: str, payload: bytes, *, publish: bool = True) -> None:
        self.memory.store(task_id, payload, push=publish)

    async def served(self, queue: str, task_ids: list[str]) -> list[str]:
        taken = []
        while (message := self.memory.take([queue])) is not None:
            taken += [message.id] if message.id in task_ids else []
        return taken

    async def break_subscriptions(self) -> None:
        self.memory.break_subscriptions("killed")

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[tuple[Broker, Backend]]:
        both = self.connect()
        with self.fake.redis_down():
            yield both

    @contextlib.asynccontextmanager
    async def unanswered(self) -> AsyncIterator[Broker]:
        broker, _ = self.connect()
        with self.fake.no_answer(arrives=True):
            yield broker

    async def aclose(self) -> None:
        for each in self._opened:
            await each.aclose()


class AmqpSide(Facts):
    """A broker with AMQP's facts, and results in another store; without a worker or with two."""

    first, last = 9, 0
    counts_listeners = False
    patience = 0.1
    one_server = False

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.nodes = nodes
        self.memory = Memory()
        workers = Worker(self.memory, queues=(), nodes=nodes, concurrency=None)
        self.amqp = AmqpServer("celery", "other", listeners=workers)

    def connect(self, **_: Any) -> tuple[Broker, Backend]:
        return AmqpBroker(self.amqp), MemoryBackend(self.memory)

    async def put(self, task_id: str, payload: bytes, *, publish: bool = True) -> None:
        self.memory.store(task_id, payload, push=publish)

    async def served(self, queue: str, task_ids: list[str]) -> list[str]:
        taken = []
        while (message := self.amqp.take(queue)) is not None:
            taken += [message.id] if message.id in task_ids else []
        return taken

    async def break_subscriptions(self) -> None:
        self.memory.break_subscriptions("killed")

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[tuple[Broker, Backend]]:
        both = self.connect()
        self.amqp.down = self.memory.down = "nobody answers"
        yield both
        self.amqp.down = self.memory.down = None

    @contextlib.asynccontextmanager
    async def unanswered(self) -> AsyncIterator[Broker]:
        broker, _ = self.connect()
        self.amqp.unanswered = True
        yield broker
        self.amqp.unanswered = False

    async def aclose(self) -> None:
        """Close nothing."""
