"""Redis as broker: tasks by LPUSH, remote control by PUBLISH, its answers in a list that expires."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

import hiredis

from fibo_client.celery.brokers.base import Place
from fibo_client.celery.protocol.control import decode_reply, encode_request
from fibo_client.celery.redis import envelope
from fibo_client.celery.redis.connection import pack
from fibo_client.celery.redis.encoder import SURE_BYTES, RedisEncoder
from fibo_client.celery.redis.errors import RedisFaultError, translated_errors
from fibo_client.celery.redis.keys import BrokerKeys
from fibo_client.celery.redis.replies import IGNORED, WrongReplyError
from fibo_client.celery.redis.sharing import shared_server
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import PublishError, PublishUnknownError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.brokers.base import Sender
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.connection import Connection
    from fibo_client.celery.redis.link import Limit
    from fibo_client.celery.redis.server import RedisServer
    from fibo_client.celery.server_health import ServerHealth
    from fibo_client.telemetry.tracer import Server

KEPT: Final = 60.0
"""Seconds that the list of answers to a question is kept after it: for those who answer late."""

GRACE: Final = 0.5
"""Seconds that Redis has to give the last answers to a question whose time is up."""

_LOOKS: Final = (0.002, 0.05)
"""Seconds until the first look for answers, and the most between two."""

PORTION: Final = 100
"""How many messages one command reads when one is looked for."""

MAX_SEARCHED: Final = 2000
"""How many messages of a list are looked at: half of them the oldest, half the newest."""

MAX_SEARCHED_BYTES: Final = 16 * 1024 * 1024
"""No more is read once so many bytes were."""


class RedisBroker:
    """Implements `fibo_client.celery.brokers.base.Broker`."""

    unusable: str | None = None

    def __init__(self, server: RedisServer, keys: BrokerKeys) -> None:
        self._redis = server
        self._keys = keys
        self.health: ServerHealth = server.health
        self.server: Server = server.address.server
        self._encoder = RedisEncoder(keys)
        self._connection: Connection  # The one that was ready last.

    @classmethod
    def connect(cls, config: CeleryConfig, shared: dict[RedisAddress, RedisServer]) -> Self:
        """Make the broker that the settings name, on connections that it shares with the result backend. No I/O yet."""
        address = parse_url(config.broker_url, config.redis, role="broker_url")
        keys = BrokerKeys.from_options(config.redis, db=address.db, control_exchange=config.control_exchange)
        return cls(shared_server(address, config, shared), keys)

    @property
    def last_priority(self) -> int:
        """See `Broker.last_priority`."""
        return self._keys.steps[-1]

    def check(self, message: TaskMessage) -> None:
        """See `Broker.check`."""
        if len(message.body) >= SURE_BYTES:
            self._encoder.check(message)

    @property
    def ready(self) -> bool:
        """See `Broker.ready`."""
        connection = self._redis.sending.ready
        if connection is None:
            return False
        self._connection = connection
        return True

    async def prepare(self) -> None:
        """See `Broker.prepare`."""
        with translated_errors():
            self._connection = await self._redis.sending.prepare(self._redis.limit())

    def publish(self, messages: Sequence[TaskMessage], sender: Sender) -> None:
        """See `Broker.publish`. One LPUSH for each list, so that all of its messages are there or none is."""
        encoded = self._encoder.encode_many(messages)
        if len(encoded) == 1:
            ((key, element),) = encoded
            self._push(key, (element,), messages, sender)
            return
        lists: dict[str, tuple[list[TaskMessage], list[bytes]]] = {}
        for message, (key, element) in zip(messages, encoded, strict=True):
            batch, elements = lists.get(key) or lists.setdefault(key, ([], []))
            batch.append(message)
            elements.append(element)
        for key, (batch, elements) in lists.items():
            self._push(key, elements, batch, sender)

    def _push(self, key: str, elements: Sequence[bytes], messages: Sequence[TaskMessage], sender: Sender) -> None:
        connection = self._connection
        connection.write(pack(("LPUSH", key, *elements)), (_Pushed(self._redis, connection, messages, sender),))

    def keep_alive(self) -> None:
        """See `Broker.keep_alive`."""
        self._redis.keep_alive()

    async def depth(self, queue: str) -> int:
        """See `Broker.depth`."""
        with translated_errors():
            return sum(await self._redis.reading.execute(*[("LLEN", key) for key in self._keys.queues(queue)]))

    async def locate(self, queue: str, task_id: str, *, timeout: float) -> Place:
        """See `Broker.locate`. Workers take from the right; the list of priority 0 comes first."""
        deadline = asyncio.get_running_loop().time() + timeout

        def limit() -> Limit:
            return self._redis.limit(deadline + GRACE, timeout)

        with translated_errors():
            return await self._search(self._keys.queues(queue), task_id, deadline, limit)

    async def _search(self, keys: Sequence[str], task_id: str, deadline: float, limit: Callable[[], Limit]) -> Place:
        loop = asyncio.get_running_loop()
        lengths = await self._redis.reading.execute(*[("LLEN", key) for key in keys], limit=limit())
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
                    (found,) = await self._redis.reading.execute(
                        ("LRANGE", key, -start - PORTION, -start - 1), limit=limit()
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
            (heard,) = await self._redis.sending.execute(command)
            count: int = heard
            return count

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        """See `Broker.ask`."""
        # Workers put their answers straight into a list, as kombu does for an exchange without a name. The list is
        # there before they are asked, with an element of ours and an expiry, so whatever happens, and however late
        # they answer, nothing stays. It is looked into, and not waited on: a client may ask much at once.
        ticket = str(uuid.uuid4())
        answers = self._keys.reply_list(ticket)
        body = encode_request(request, ticket=ticket, reply_key=self._keys.reply_routing_key(ticket))
        asking: tuple[Command, ...] = (
            ("MULTI",),
            ("RPUSH", answers, ""),
            ("PEXPIRE", answers, int((timeout + KEPT) * 1000)),
            ("EXEC",),
            self._publish_command(body, time.time() + timeout),
        )
        deadline = asyncio.get_running_loop().time() + timeout
        with translated_errors():
            # Not by the connection for reading: nothing large comes by this one, over which it might be given up.
            *_, listening = await self._redis.sending.execute(
                *asking, limit=self._redis.limit(deadline + GRACE, timeout)
            )
            wanted = listening if limit is None else min(listening, limit)
            try:
                return await self._collect(answers, ticket, wanted, deadline, timeout)
            finally:
                if (connection := self._redis.reading.ready) is not None:
                    connection.write(pack(("LTRIM", answers, -1, -1)), (IGNORED,))

    def _publish_command(self, body: bytes, expires: float | None) -> Command:
        message = envelope.encode_control(
            body, exchange=self._keys.request_exchange, expires=expires, delivery_tag=str(uuid.uuid4())
        )
        return ("PUBLISH", self._keys.control_channel, message)

    async def _collect(self, answers: str, ticket: str, wanted: int, deadline: float, timeout: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        replies: dict[str, Any] = {}
        seen, (pause, longest) = 0, _LOOKS
        while len(replies) < wanted and (left := deadline - loop.time()) > 0:
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, longest)
            # New ones come from the left; ours is the last on the right.
            (found,) = await self._redis.reading.execute(
                ("LRANGE", answers, 0, -2 - seen), limit=self._redis.limit(deadline + GRACE, timeout)
            )
            seen += len(found)
            for answer in reversed(found):
                try:
                    answered, body = envelope.decode_reply(answer)
                    if answered == ticket and len(replies) < wanted:
                        replies |= decode_reply(body)
                except ResultDecodeError:
                    continue  # Somebody else wrote into the list. It is no answer of a worker.
        return replies

    async def aclose(self) -> None:
        """See `Broker.aclose`."""
        await self._redis.aclose()

    def __str__(self) -> str:
        return str(self._redis.address)

    def __repr__(self) -> str:
        return f"<RedisBroker at {self._redis.address}>"


class _Pushed:
    """Is owed the reply to LPUSH."""

    __slots__ = ("_connection", "_messages", "_redis", "_sender")

    def __init__(
        self, redis: RedisServer, connection: Connection, messages: Sequence[TaskMessage], sender: Sender
    ) -> None:
        self._redis = redis
        self._connection = connection
        self._messages = messages
        self._sender = sender

    def set_result(self, reply: Any, /) -> None:
        """See `ReplyHandler`."""
        if type(reply) is int:
            self._sender.sent(self._messages)
        elif isinstance(reply, hiredis.ReplyError):
            self.set_exception(self._redis.sending.refused(self._connection, reply, ("LPUSH",)))
        else:
            raise WrongReplyError(self, ("LPUSH",))

    def set_exception(self, error: BaseException, /) -> None:
        """See `ReplyHandler`."""
        task_ids = [message.id for message in self._messages]
        failure: PublishError | PublishUnknownError
        if isinstance(error, RedisFaultError) and error.outcome != "unknown":
            failure = PublishError(str(error), task_ids, refused=error.refused)
        else:
            failure = PublishUnknownError(str(error), task_ids)
        failure.__cause__ = error
        self._sender.failed(self._messages, failure)


def _portions(length: int) -> list[int]:
    """Say where to look in a list of that length, by distance from its oldest."""
    if length <= MAX_SEARCHED:
        return list(range(0, length, PORTION))
    half = MAX_SEARCHED // 2
    return [*range(0, half, PORTION), *range(length - half, length, PORTION)]
