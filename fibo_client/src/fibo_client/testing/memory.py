"""A broker and a result backend in memory: queues, results and subscriptions as over Redis, without a server.

They implement `fibo_client.celery.brokers.base` and `fibo_client.celery.backends.base`, so a client runs on them
unchanged.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from fibo_client.celery.brokers.base import Place
from fibo_client.celery.protocol.control import encode_request
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.server_health import ServerHealth
from fibo_client.errors import PublishError, PublishUnknownError, ReadError, TransportError
from fibo_client.telemetry import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.backends.base import Stored, Subscriber
    from fibo_client.celery.brokers.base import Sender
    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import TaskMessage


class Workers(Protocol):
    """The workers that take messages and answer remote control."""

    def admit(self, messages: Sequence[TaskMessage]) -> None:
        """Look at messages before they are queued. Raises ValueError if a worker could not take one."""
        ...

    def arrived(self, client: object) -> None:
        """Learn of a client, which may have queued something."""
        ...

    def hear(self, request: ControlRequest) -> dict[str, Any]:
        """Hear a remote control command; give the answers of its destinations, by node name."""
        ...

    @property
    def listening(self) -> int:
        """How many workers listen to remote control."""
        ...

    async def left(self, client: object) -> None:
        """Learn that a client was closed."""
        ...


class Memory:
    """What a Redis would hold, and its faults. Several clients may share one.

    Attributes:
        health: The server's health, which never changes.
        lists: The messages by queue and priority step, oldest first.
        results: The stored results, by task id.
        others: What else is stored in the backend, by Celery's names.
        subscriptions: The open connections for pushed results.
        workers: Who takes messages. None is nobody.
        down: Why nothing can be reached. None while it can.
        unanswered: Whether messages arrive although their answers are lost. None while answers come.
        mute: Whether pushes are lost.
    """

    def __init__(self) -> None:
        self.health: ServerHealth = ServerHealth("memory")
        self.health.connected()
        self.lists: dict[tuple[str, int], deque[TaskMessage]] = {}
        self.results: dict[str, bytes] = {}
        self.others: dict[str, bytes] = {}
        self.subscriptions: list[MemorySubscription] = []
        self.workers: Workers | None = None
        self.down: str | None = None
        self.unanswered: bool | None = None
        self.mute: bool = False

    def check(self) -> None:
        """Raise TransportError if it is down."""
        if self.down is not None:
            raise TransportError(self.down)

    @property
    def queues(self) -> list[str]:
        """The names of all queues that were ever sent to."""
        return list(dict.fromkeys(queue for queue, _ in self.lists))

    def put(self, queue: str, step: int, messages: Sequence[TaskMessage]) -> None:
        """Put messages into a queue. Priority step 0 is served first."""
        self.lists.setdefault((queue, step), deque()).extend(messages)

    def take(self, queues: Sequence[str] | None) -> TaskMessage | None:
        """Take the message that is served next from these queues; None is all of them."""
        for queue in self.queues if queues is None else queues:
            for messages in self._steps(queue):
                if messages:
                    return messages.popleft()
        return None

    def waiting(self, queue: str) -> list[str]:
        """Give the ids of the tasks that wait in a queue, in the order of service."""
        return [message.id for messages in self._steps(queue) for message in messages]

    def _steps(self, queue: str) -> list[deque[TaskMessage]]:
        """Give what waits in a queue, by priority."""
        return [self.lists[queue, step] for step in range(10) if (queue, step) in self.lists]

    def store(self, task_id: str, payload: bytes, *, push: bool = True) -> None:
        """Store a result and, like a worker, publish it."""
        self.results[task_id] = payload
        if push and not self.mute:
            for subscription in self.subscriptions:
                if task_id in subscription.ids:
                    subscription.push(task_id, payload)

    def break_subscriptions(self, reason: str) -> None:
        """Break all connections for pushed results."""
        for subscription in list(self.subscriptions):
            subscription.break_off(reason)


class MemoryBroker:
    """Implements `fibo_client.celery.brokers.base.Broker`.

    Args:
        memory: Where messages go.
        steps: The priorities with a list of their own.
    """

    unusable: str | None = None

    def __init__(self, memory: Memory, steps: tuple[int, ...] = (0, 3, 6, 9)) -> None:
        self._memory = memory
        self.steps = steps
        self.health: ServerHealth = memory.health
        self.server: Server = Server("memory")

    @property
    def last_priority(self) -> int:
        """See `Broker.last_priority`."""
        return self.steps[-1]

    def check(self, message: TaskMessage) -> None:
        """See `Broker.check`. Memory takes any message."""

    @property
    def ready(self) -> bool:
        """See `Broker.ready`. Reaching it takes a turn of the loop only where that fails."""
        return self._memory.down is None

    async def prepare(self) -> None:
        """See `Broker.prepare`."""
        await self._reach()

    def keep_alive(self) -> None:
        """See `Broker.keep_alive`. There are no connections."""

    def publish(self, messages: Sequence[TaskMessage], sender: Sender) -> None:
        """See `Broker.publish`."""
        error: PublishError | PublishUnknownError | None = None
        memory, loop = self._memory, asyncio.get_running_loop()
        task_ids = [message.id for message in messages]
        if memory.unanswered is not False:
            try:
                if memory.workers is not None:
                    memory.workers.admit(messages)
            except ValueError as reason:
                error = PublishError(f"a worker could not take it: {reason}", task_ids, refused=True)
            else:
                for message in messages:
                    step = self.steps[bisect_right(self.steps, message.priority) - 1]
                    memory.put(message.queue, step, [message])
                if memory.workers is not None:
                    memory.workers.arrived(self)
        if memory.unanswered is not None:
            error = PublishUnknownError("no answer from the broker", task_ids)
        # An answer takes at least one turn of the loop; a caller that is cancelled meanwhile has still sent.
        if error is None:
            loop.call_soon(sender.sent, messages)
        else:
            loop.call_soon(sender.failed, messages, error)

    async def depth(self, queue: str) -> int:
        """See `Broker.depth`."""
        check_name("queue", queue)
        await self._reach()
        return len(self._memory.waiting(queue))

    async def locate(self, queue: str, task_id: str, *, timeout: float) -> Place:  # noqa: ARG002 - memory answers at once
        """See `Broker.locate`. It searches all of a queue."""
        await self._reach()
        task_ids = self._memory.waiting(queue)
        return Place(len(task_ids), task_ids.index(task_id) if task_id in task_ids else None, complete=True)

    async def broadcast(self, request: ControlRequest) -> int:
        """See `Broker.broadcast`."""
        encode_request(request)  # Refuses what could not be sent.
        workers = await self._reach()
        if workers is None:
            return 0
        workers.hear(request)
        return workers.listening

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        """See `Broker.ask`."""
        encode_request(request)
        workers = await self._reach()
        if workers is None:
            return {}
        wanted = workers.listening if limit is None else min(limit, workers.listening)
        replies = dict(list(workers.hear(request).items())[:wanted])
        if len(replies) < wanted:
            await asyncio.sleep(timeout)  # Others may be slow.
        return replies

    async def aclose(self) -> None:
        """See `Broker.aclose`."""
        if self._memory.workers is not None:
            await self._memory.workers.left(self)

    async def _reach(self) -> Workers | None:
        await asyncio.sleep(0)
        self._memory.check()
        return self._memory.workers

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class MemoryBackend:
    """Implements `fibo_client.celery.backends.base.Backend`.

    Args:
        memory: Where results are.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.health: ServerHealth = memory.health
        self.unreadable: str | None = None

    async def get_many(self, task_ids: Sequence[str]) -> list[Stored]:
        """See `Backend.get_many`."""
        if self._memory.workers is not None:
            self._memory.workers.arrived(self)
        values: list[Stored] = [*map(self._memory.results.get, task_ids)]
        down = self._memory.down
        await asyncio.sleep(0)
        if down is not None:
            raise ReadError(down)
        return values

    async def delete_many(self, task_ids: Sequence[str]) -> None:
        """See `Backend.delete_many`."""
        self._memory.check()
        for task_id in task_ids:
            self._memory.results.pop(task_id, None)
        await asyncio.sleep(0)

    async def put_many(self, values: Mapping[str, bytes], *, expires: float) -> None:
        """See `Backend.put_many`."""
        await asyncio.sleep(0)
        self._memory.check()
        for name, value in values.items():
            self._memory.others[name] = value
            asyncio.get_running_loop().call_later(expires, self._memory.others.pop, name, None)

    async def get(self, name: str) -> bytes | None:
        """See `Backend.get`."""
        await asyncio.sleep(0)
        self._memory.check()
        return self._memory.others.get(name)

    async def discard(self, names: Sequence[str]) -> None:
        """See `Backend.discard`."""
        await asyncio.sleep(0)
        self._memory.check()
        for name in names:
            self._memory.others.pop(name, None)

    def keep_alive(self) -> None:
        """See `Backend.keep_alive`. There are no connections."""

    async def subscribe(self, subscriber: Subscriber) -> MemorySubscription:
        """See `Backend.subscribe`."""
        await asyncio.sleep(0)
        self._memory.check()
        subscription = MemorySubscription(self._memory, subscriber)
        self._memory.subscriptions.append(subscription)
        return subscription

    async def aclose(self) -> None:
        """See `Backend.aclose`. Owners close their subscriptions."""
        if self._memory.workers is not None:
            await self._memory.workers.left(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class MemorySubscription:
    """Implements `fibo_client.celery.backends.base.Subscription`.

    Args:
        memory: Where results are.
        subscriber: Who is told.

    Attributes:
        ids: The subscribed task ids.
        gone: Why the connection is broken. None while it is not.
    """

    def __init__(self, memory: Memory, subscriber: Subscriber) -> None:
        self._memory = memory
        self._subscriber = subscriber
        self._loop = asyncio.get_running_loop()
        self.ids: set[str] = set()
        self.gone: str | None = None

    def update(self, add: Sequence[str], remove: Sequence[str], *, look: bool) -> None:
        """See `Subscription.update`."""
        if self.gone is not None:
            raise TransportError(f"the subscription's connection is gone: {self.gone}")
        self.ids.difference_update(remove)
        self.ids.update(add)
        if add:
            self._loop.call_soon(self.confirm, add, look)

    def confirm(self, task_ids: Sequence[str], look: bool) -> None:
        """Say that these are subscribed to, and what is stored under them, if that is wanted."""
        if self.gone is None:
            self._subscriber.subscribed(task_ids, [*map(self._memory.results.get, task_ids)] if look else None)

    def push(self, task_id: str, payload: bytes) -> None:
        """Tell of a result. A worker may do so from another client's event loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._push, task_id, payload)

    def _push(self, task_id: str, payload: bytes) -> None:
        if self.gone is None:
            self._subscriber.pushed(task_id, payload)

    def abort(self) -> None:
        """See `Subscription.abort`."""
        self._break_off("the subscription was broken off")

    def break_off(self, reason: str) -> None:
        """Break the connection. The subscriber gets the reason."""
        if self.gone is None:
            self._break_off(reason)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._subscriber.lost, TransportError(reason))

    def _break_off(self, reason: str) -> None:
        if self.gone is None:
            self.gone = reason
            self._memory.subscriptions.remove(self)
