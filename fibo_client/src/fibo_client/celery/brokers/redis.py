"""Redis as broker: tasks by LPUSH, remote control by PUBLISH, its answers by BRPOP."""

from __future__ import annotations

import asyncio
import contextvars
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

from fibo_client.celery.brokers.base import Place, PublishOutcome
from fibo_client.celery.protocol.control import decode_reply, encode_request
from fibo_client.celery.redis import envelope
from fibo_client.celery.redis.connections import Limit
from fibo_client.celery.redis.encoder import SURE_BYTES, RedisEncoder
from fibo_client.celery.redis.errors import RedisFaultError, translated_errors
from fibo_client.celery.redis.keys import BrokerKeys
from fibo_client.celery.redis.sharing import shared_connections
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import PublishError, PublishUnknownError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.connections import Connections
    from fibo_client.celery.server_health import ServerHealth
    from fibo_client.telemetry.tracer import Server

_REPLY_TTL_MS = 60_000

GRACE: Final = 0.5
"""Seconds that Redis has to say that a question's time is up: it looks at its clock ten times a second only."""

LAST_UNBINDING: Final = 1.0
"""The most seconds that a broker which closes waits until the places for answers to its questions are gone."""

PORTION: Final = 100
"""How many messages one command reads when one is looked for."""

MAX_SEARCHED: Final = 2000
"""How many messages of a list are looked at: half of them the oldest, half the newest."""

MAX_SEARCHED_BYTES: Final = 16 * 1024 * 1024
"""No more is read once so many bytes were."""


class RedisBroker:
    """Implements `fibo_client.celery.brokers.base.Broker`."""

    unusable: str | None = None

    def __init__(self, connections: Connections, keys: BrokerKeys) -> None:
        self._connections = connections
        self._keys = keys
        self.health: ServerHealth = connections.health
        self.server: Server = connections.address.server
        self._encoder = RedisEncoder(keys)
        self._asking: set[str] = set()
        self._over: list[str] = []
        self._unbinding: set[asyncio.Task[None]] = set()
        self._one_unbinds = asyncio.Lock()

    @classmethod
    def connect(cls, config: CeleryConfig, shared: dict[RedisAddress, Connections]) -> Self:
        """Make the broker that the settings name, on connections that it shares with the result backend. No I/O yet."""
        address = parse_url(config.broker_url, config.redis, role="broker_url")
        keys = BrokerKeys.from_options(config.redis, db=address.db, control_exchange=config.control_exchange)
        return cls(shared_connections(address, config, shared), keys)

    @property
    def last_priority(self) -> int:
        """See `Broker.last_priority`."""
        return self._keys.steps[-1]

    def check(self, message: TaskMessage) -> None:
        """See `Broker.check`."""
        if len(message.body) >= SURE_BYTES:
            self._encoder.check(message)

    async def publish(self, messages: Sequence[TaskMessage]) -> AsyncGenerator[PublishOutcome, None]:
        """See `Broker.publish`. One LPUSH for each list, so that all of its messages are there or none is."""
        lists: dict[str, tuple[list[TaskMessage], list[bytes]]] = {}
        for message, (key, element) in zip(messages, self._encoder.encode_many(messages), strict=True):
            batch, elements = lists.get(key) or lists.setdefault(key, ([], []))
            batch.append(message)
            elements.append(element)
        down: str | None = None
        for key, (batch, elements) in lists.items():
            error: PublishError | PublishUnknownError | None = None
            if down is not None:  # The next command would fail like the one before, and perhaps as slowly.
                error = PublishError(down, [message.id for message in batch])
            else:
                try:
                    await self._connections.execute(("LPUSH", key, *elements))
                except RedisFaultError as fault:
                    task_ids = [message.id for message in batch]
                    refused = fault.outcome == "refused"
                    down = None if refused else str(fault)
                    if fault.outcome == "unknown":
                        error = PublishUnknownError(str(fault), task_ids)
                    else:
                        error = PublishError(str(fault), task_ids, refused=refused)
                    error.__cause__ = fault
            yield PublishOutcome(batch, error)

    async def depth(self, queue: str) -> int:
        """See `Broker.depth`."""
        with translated_errors():
            return sum(await self._connections.execute(*[("LLEN", key) for key in self._keys.queues(queue)]))

    async def locate(self, queue: str, task_id: str, *, timeout: float) -> Place:
        """See `Broker.locate`. Workers take from the right; the list of priority 0 comes first."""
        deadline = asyncio.get_running_loop().time() + timeout

        def limit() -> Limit:
            return self._connections.limit(deadline + GRACE, timeout)

        with translated_errors():
            async with self._connections.connection(limit()) as connection:
                return await self._search(connection, self._keys.queues(queue), task_id, deadline, limit)

    async def _search(
        self,
        connection: AbstractConnection,
        keys: Sequence[str],
        task_id: str,
        deadline: float,
        limit: Callable[[], Limit],
    ) -> Place:
        loop = asyncio.get_running_loop()
        lengths = await self._connections.exchange(connection, [("LLEN", key) for key in keys], limit=limit())
        depth, before, complete = sum(lengths), 0, True
        left, looked = MAX_SEARCHED_BYTES, False
        for key, length in zip(keys, lengths, strict=True):
            for start in _portions(length):
                # The first read is made in any case: connecting may have taken all of the time.
                if looked and (left <= 0 or loop.time() >= deadline):
                    complete = False
                    break
                looked = True
                # Counted from the oldest. A worker that takes one meanwhile shifts the rest by one.
                try:
                    (found,) = await self._connections.exchange(
                        connection, [("LRANGE", key, -start - PORTION, -start - 1)], limit=limit()
                    )
                except RedisFaultError as fault:
                    if not fault.refused:
                        raise
                    return Place(depth, None, complete=False)  # Who may only send need not see what others sent.
                for index, payload in enumerate(reversed(found)):
                    left -= len(payload)
                    if envelope.is_task(payload, task_id):
                        return Place(depth, before + start + index, complete=complete)
            complete = complete and length <= MAX_SEARCHED
            before += length
        return Place(depth, None, complete)

    async def broadcast(self, request: ControlRequest) -> int:
        """See `Broker.broadcast`."""
        command = self._publish_command(encode_request(request), None)
        with translated_errors():
            (heard,) = await self._connections.execute(command)
            return int(heard)

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        """See `Broker.ask`. Workers look up where to answer in a set, so the asker enters itself there first."""
        ticket, reply_key = str(uuid.uuid4()), str(uuid.uuid4())
        body = encode_request(request, ticket=ticket, reply_exchange=self._keys.reply_exchange, reply_key=reply_key)
        bind = ("SADD", self._keys.reply_bindings, self._keys.reply_binding(reply_key))
        asking = self._publish_command(body, time.time() + timeout)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        first = self._connections.limit(deadline + GRACE, timeout)
        with translated_errors():
            async with self._connections.long_connection(first) as connection:
                self._asking.add(reply_key)
                try:
                    began = loop.time()
                    _, listening = await self._connections.exchange(connection, [bind, asking], limit=first)
                    wanted = listening if limit is None else min(listening, limit)
                    # That time is up has as long a way as this answer had.
                    last = Limit(deadline + GRACE + min(GRACE, loop.time() - began), timeout)
                    replies = await self._collect(connection, reply_key, ticket, wanted, deadline, last)
                finally:  # Whoever is told of a failure, or is cancelled, does not wait for it.
                    unbinding = self._unbind_in_background(reply_key)
        await asyncio.wait([unbinding], timeout=max(0.0, deadline - loop.time()) + GRACE)
        return replies

    def _publish_command(self, body: bytes, expires: float | None) -> tuple[Any, ...]:
        message = envelope.encode_control(
            body, exchange=self._keys.request_exchange, expires=expires, delivery_tag=str(uuid.uuid4())
        )
        return ("PUBLISH", self._keys.control_channel, message)

    async def _collect(
        self, connection: AbstractConnection, reply_key: str, ticket: str, wanted: int, deadline: float, last: Limit
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        replies: dict[str, Any] = {}
        while len(replies) < wanted:
            left = deadline - loop.time()
            if left <= 0:
                break
            # Redis takes 0 for "for ever".
            blocking = ("BRPOP", self._keys.reply_list(reply_key), f"{max(left, 0.01):.3f}")
            (popped,) = await self._connections.exchange(connection, [blocking], limit=last)
            if popped is None:
                break
            try:
                answered, body = envelope.decode_reply(popped[1])
                if answered == ticket:
                    replies |= decode_reply(body)
            except ResultDecodeError:
                continue  # Somebody else wrote into the list. It is no answer of a worker.
        return replies

    def _unbind_in_background(self, reply_key: str) -> asyncio.Task[None]:
        self._asking.discard(reply_key)
        self._over.append(reply_key)
        unbinding = asyncio.get_running_loop().create_task(
            self._unbind(), name="fibo_client.unbinding", context=contextvars.Context()
        )
        self._unbinding.add(unbinding)
        unbinding.add_done_callback(self._unbinding.discard)
        return unbinding

    async def _unbind(self) -> None:
        async with self._one_unbinds:  # While Redis is silent, this shall not hold more than one connection.
            reply_keys, self._over = self._over, []
            if not reply_keys:
                return
            try:
                await self._connections.execute(*[each for key in reply_keys for each in self._unbinding_of(key)])
            except RedisFaultError:
                pass  # The caller learns of an outage from the question itself; there is nothing more to say.

    def _unbinding_of(self, reply_key: str) -> list[tuple[Any, ...]]:
        # In this order: while the member is there, a late answer makes the list again. One that is on its way already
        # must find a list with an expiry, so there must be a list.
        answers = self._keys.reply_list(reply_key)
        return [
            ("SREM", self._keys.reply_bindings, self._keys.reply_binding(reply_key)),
            ("RPUSH", answers, ""),
            ("PEXPIRE", answers, _REPLY_TTL_MS),
        ]

    async def aclose(self) -> None:
        """See `Broker.aclose`. Where questions are still open, what is kept for their answers is removed first."""
        for reply_key in list(self._asking):
            self._unbind_in_background(reply_key)
        if self._unbinding:
            _, late = await asyncio.wait(self._unbinding, timeout=LAST_UNBINDING)
            for unbinding in late:
                unbinding.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._connections.aclose()

    def __str__(self) -> str:
        return str(self._connections.address)

    def __repr__(self) -> str:
        return f"<RedisBroker at {self._connections.address}>"


def _portions(length: int) -> list[int]:
    """Say where to look in a list of that length, by distance from its oldest."""
    if length <= MAX_SEARCHED:
        return list(range(0, length, PORTION))
    half = MAX_SEARCHED // 2
    return [*range(0, half, PORTION), *range(length - half, length, PORTION)]
