"""A broker in memory that has AMQP's facts and not Redis's, beside a result backend of another kind.

Each message is confirmed alone, in any order; one for an undeclared queue is returned; a confirm can be lost. The
highest priority is served first. Listeners are not counted, and in one variant there is no remote control.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fibo_client.celery.brokers.base import Place
from fibo_client.celery.protocol.control import encode_request
from fibo_client.celery.protocol.message import TaskMessage, build_template, encode_arguments
from fibo_client.celery.protocol.moments import Moments
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.server_health import ServerHealth
from fibo_client.errors import PublishError, PublishUnknownError, TransportError
from fibo_client.telemetry import Server
from fibo_client.testing.memory import Memory, MemoryBackend
from fibo_client.testing.results import encode_error, encode_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.brokers.base import Sender
    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.testing.memory import Workers


class AmqpServer:
    """What a RabbitMQ would hold.

    Attributes:
        queues: The waiting messages by declared queue, oldest first.
        listeners: The workers that listen to remote control.
        lost: The ids of tasks whose messages are taken, and whose confirms are lost.
        down: Why nothing can be reached; None while all is well.
        worker: Takes messages as they come, if there is one.
    """

    def __init__(self, *queues: str, listeners: Workers | None = None) -> None:
        self.queues: dict[str, list[TaskMessage]] = {queue: [] for queue in queues}
        self.listeners = listeners
        self.lost: set[str] = set()
        self.down: str | None = None
        self.unanswered = False
        self.worker: AmqpWorker | None = None
        self.health = ServerHealth("amqp")
        self.health.connected()

    def take(self, queue: str) -> TaskMessage | None:
        """Take the message that is served next."""
        waiting = self.queues[queue]
        if not waiting:
            return None
        served = max(waiting, key=lambda message: message.priority)  # The oldest of several.
        waiting.remove(served)
        return served

    def check(self) -> None:
        if self.down is not None:
            raise TransportError(self.down)


class AmqpBroker:
    """Implements `fibo_client.celery.brokers.base.Broker`."""

    unusable: str | None = None

    def __init__(self, server: AmqpServer, *, remote_control: bool = True) -> None:
        self._amqp = server
        self._remote_control = remote_control
        self.health = server.health
        self.server = Server("rabbitmq")
        self.last_priority = 0

    def check(self, message: TaskMessage) -> None:
        """Accept any message."""

    @property
    def ready(self) -> bool:
        return self._amqp.down is None

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        self._amqp.check()

    def keep_alive(self) -> None:
        """Do nothing: there are no connections."""

    def publish(self, messages: Sequence[TaskMessage], sender: Sender) -> None:
        amqp, loop = self._amqp, asyncio.get_running_loop()
        outcomes: list[tuple[Any, ...]] = []
        for message in messages:
            error: PublishError | PublishUnknownError | None = None
            if message.queue not in amqp.queues:
                reason = f"NO_ROUTE: there is no queue {message.queue!r}"
                error = PublishError(reason, [message.id], refused=True)
            else:
                amqp.queues[message.queue].append(message)
                if amqp.unanswered or message.id in amqp.lost:
                    error = PublishUnknownError("no confirm came", [message.id])
                if amqp.worker is not None:
                    loop.call_soon(amqp.worker.serve)
            outcomes.append((sender.sent, [message]) if error is None else (sender.failed, [message], error))
        for outcome in reversed(outcomes):  # Confirms come in any order.
            loop.call_soon(*outcome)

    async def depth(self, queue: str) -> int:
        check_name("queue", queue)
        await asyncio.sleep(0)
        self._amqp.check()
        return len(self._amqp.queues.get(queue, ()))

    async def locate(self, queue: str, task_id: str, *, timeout: float) -> Place:
        """Count only: AMQP does not let a client look into a queue."""
        del task_id, timeout
        depth = await self.depth(queue)
        return Place(depth, None, complete=depth == 0)

    async def broadcast(self, request: ControlRequest) -> None:
        await self._send(request)

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        replies = list((await self._send(request)).items())[:limit]
        if limit is None or len(replies) < limit:
            await asyncio.sleep(timeout)  # Nobody knows how many there are.
        return dict(replies)

    async def _send(self, request: ControlRequest) -> dict[str, Any]:
        encode_request(request)
        await asyncio.sleep(0)
        self._amqp.check()
        if not self._remote_control:
            error = TransportError("this broker has no remote control")
            error.refused = True
            raise error
        return {} if self._amqp.listeners is None else self._amqp.listeners.hear(request)

    async def aclose(self) -> None:
        """Close nothing."""


class AmqpWorker:
    """Runs tasks as Celery does, chains and chords included, and stores results in a backend of another kind."""

    def __init__(self, server: AmqpServer, memory: Memory, queue: str, tasks: dict[str, Callable[..., Any]]) -> None:
        self._server = server
        self._memory = memory
        self._queue = queue
        self._tasks = tasks
        server.worker = self

    def serve(self) -> None:
        while (message := self._server.take(self._queue)) is not None:
            args, kwargs, embed = json.loads(message.body)
            try:
                value = self._tasks[message.headers["task"]](*args, **kwargs)
            except ValueError as error:
                self._store(message.id, "FAILURE", encode_error(error))
                continue
            for signature, rest in [(each, embed["chain"][:-1]) for each in (embed["chain"] or [])[-1:]]:
                self._send(signature, value, {**embed, "chain": rest})
            self._store(message.id, "SUCCESS", value)
            if embed["chord"] is not None:
                self._count(message, embed["chord"], value)

    def _count(self, message: TaskMessage, body: dict[str, Any], value: Any) -> None:
        name = f"celery-taskset-meta-{message.headers['group']}"
        if f"{name}.s" not in self._memory.others:
            return  # Celery never runs the body of a chord whose size is not stored.
        parts = json.loads(self._memory.others.get(f"{name}.j", b"{}")) | {message.headers["group_index"]: value}
        self._memory.others[f"{name}.j"] = json.dumps(parts).encode()
        if len(parts) == int(self._memory.others[f"{name}.s"]):
            values = [parts[index] for index in sorted(parts, key=int)]
            self._send(body, values, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})

    def _send(self, signature: dict[str, Any], value: Any, embed: dict[str, Any]) -> None:
        options = signature["options"]
        message = handmade(signature["task"], options["task_id"], [value, *signature["args"]], embed, self._queue)
        self._server.queues[self._queue].append(message)

    def _store(self, task_id: str, state: str, result: Any) -> None:
        self._memory.store(task_id, encode_meta(task_id, state, result))


def handmade(
    task: str, task_id: str, args: Sequence[Any], embed: dict[str, Any], queue: str, **headers: Any
) -> TaskMessage:
    """Make a message with an embed and headers of a canvas."""
    template = build_template(task, queue=queue, origin="here")
    template.headers.update(headers)
    _, *reprs = encode_arguments(tuple(args), {})
    empty = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([list(args), {}, {**empty, **embed}]).encode()
    return TaskMessage(task_id, template, body, *reprs, Moments(None, None, None), {})


def amqp_backend() -> tuple[Memory, MemoryBackend]:
    """Make a result backend that knows nothing of the broker."""
    memory = Memory()
    return memory, MemoryBackend(memory)
