"""Redis as result backend: results by MGET, pushed ones by SUBSCRIBE to the very same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import hiredis

from fibo_client.celery.redis.commands import VALUES
from fibo_client.celery.redis.connection import MOST_STRINGS, pack
from fibo_client.celery.redis.errors import (
    GivenUpError,
    RedisFaultError,
    ReplyTooLargeError,
    translated,
    translated_errors,
)
from fibo_client.celery.redis.keys import RESULT, result_key_prefix
from fibo_client.celery.redis.replies import SubscribeReply, WrongReplyError
from fibo_client.celery.redis.sharing import shared_server
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import ReadError, ResultTooLargeError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.backends.base import Stored, Subscriber
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.connection import Connection
    from fibo_client.celery.redis.replies import ReplyHandler
    from fibo_client.celery.redis.server import RedisServer
    from fibo_client.celery.server_health import ServerHealth

_ACROSS_SLOTS: Final = "CROSSSLOT"
_GONE: Final = "the subscription's connection is gone"


class RedisBackend:
    """Implements `fibo_client.celery.backends.base.Backend`."""

    def __init__(self, server: RedisServer, prefix: str, max_bytes: int) -> None:
        self._server = server
        self.health: ServerHealth = server.health
        self.unreadable: str | None = None
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._one_key_each = False

    @classmethod
    def connect(cls, config: CeleryConfig, shared: dict[RedisAddress, RedisServer]) -> Self:
        """Make the backend that the settings name, on connections that it shares with the broker. No I/O yet."""
        if config.result_backend is None:
            address = parse_url(config.broker_url, config.redis, role="broker_url")
        else:
            address = parse_url(config.result_backend, config.redis, role="result_backend")
        prefix = result_key_prefix(config.redis.result_prefix)
        return cls(shared_server(address, config, shared), prefix, config.max_result_bytes)

    async def get_many(self, task_ids: Sequence[str]) -> list[Stored]:
        """See `Backend.get_many`. One MGET."""
        try:
            return await self._read_bounded(list(map(self._prefix.__add__, task_ids)), task_ids)
        except RedisFaultError as fault:
            error = ReadError(str(fault))
            error.refused = fault.refused
            raise error from fault

    async def _read_bounded(self, keys: Sequence[str], task_ids: Sequence[str]) -> list[Stored]:
        """Read results. Those that are too large fail alone."""
        try:
            return await self._read(keys)
        except ReplyTooLargeError:
            pass
        try:
            lengths = await self._server.reading.execute(*[("STRLEN", key) for key in keys])
        except RedisFaultError as fault:
            if not fault.refused:
                raise
            if len(keys) == 1:
                return [self._too_large("more bytes than the", task_ids[0])]
            half = len(keys) // 2  # A user who may not ask for lengths finds it by trying.
            return [
                *await self._read_bounded(keys[:half], task_ids[:half]),
                *await self._read_bounded(keys[half:], task_ids[half:]),
            ]
        stored: list[Stored] = []
        some: list[str] = []
        size = 0
        for key, task_id, length in zip(keys, task_ids, lengths, strict=True):
            if some and (length > self._max_bytes or size + length > MOST_STRINGS // 2 * self._max_bytes):
                stored += await self._read(some)  # They may have grown meanwhile: there is room for as much again.
                some, size = [], 0
            if length > self._max_bytes:
                stored.append(self._too_large(f"{length} bytes, more than", task_id))
            else:
                some.append(key)
                size += length
        return [*stored, *(await self._read(some) if some else ())]

    def _too_large(self, how: str, task_id: str) -> ResultTooLargeError:
        return ResultTooLargeError(f"it has {how} {self._max_bytes} (max_result_bytes)", task_id)

    async def _read(self, keys: Sequence[str]) -> list[Any]:
        if not self._one_key_each:
            try:
                (values,) = await self._server.reading.execute(("MGET", *keys))
            except RedisFaultError as fault:
                self._note_slots(fault)
            else:
                return list(values)
        return await self._server.reading.execute(*[("GET", key) for key in keys])

    def _note_slots(self, fault: RedisFaultError) -> None:
        """Read and delete one by one from now on, where the server wants that."""
        if _ACROSS_SLOTS not in str(fault):
            raise fault
        self._one_key_each = True

    async def delete_many(self, task_ids: Sequence[str]) -> None:
        """See `Backend.delete_many`. One UNLINK."""
        await self._unlink(list(map(self._prefix.__add__, task_ids)))

    async def get(self, name: str) -> bytes | None:
        """See `Backend.get`. One MGET, which a client may say anyway."""
        try:
            ((value,),) = await self._server.reading.execute(("MGET", self._key(name)))
        except RedisFaultError as fault:
            raise ReadError(str(fault)) from fault
        return bytes(value) if value is not None else None

    async def discard(self, names: Sequence[str]) -> None:
        """See `Backend.discard`. One UNLINK."""
        await self._unlink([self._key(name) for name in names])

    def _key(self, name: str) -> str:
        return f"{self._prefix.removesuffix(RESULT)}{name}"

    async def _unlink(self, keys: list[str]) -> None:
        try:
            if not self._one_key_each:
                try:
                    await self._server.reading.execute(("UNLINK", *keys))
                except RedisFaultError as fault:
                    self._note_slots(fault)
                else:
                    return
            await self._server.reading.execute(*[("UNLINK", key) for key in keys])
        except RedisFaultError as fault:
            raise translated(fault) from fault.__cause__

    async def put_many(self, values: Mapping[str, bytes], *, expires: float) -> None:
        """See `Backend.put_many`. A SET for each: MSET sets no expiry. They leave in one write."""
        milliseconds = max(1, round(expires * 1000))
        with translated_errors():
            await self._server.reading.execute(
                *[("SET", self._key(name), value, "PX", milliseconds) for name, value in values.items()]
            )

    async def subscribe(self, subscriber: Subscriber) -> RedisSubscription:
        """See `Backend.subscribe`."""
        with translated_errors():
            connection = await self._server.subscribed.prepare(self._server.limit())
        subscription = RedisSubscription(subscriber, connection, self._prefix, self._server)
        connection.subscriber = subscription
        return subscription

    def keep_alive(self) -> None:
        """See `Backend.keep_alive`."""
        self._server.keep_alive()

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._server.aclose()

    def __str__(self) -> str:
        return str(self._server.address)

    def __repr__(self) -> str:
        return f"<RedisBackend at {self._server.address}>"


class RedisSubscription:
    """Implements `fibo_client.celery.backends.base.Subscription`.

    Attributes:
        connection: The connection.
    """

    def __init__(self, subscriber: Subscriber, connection: Connection, prefix: str, server: RedisServer) -> None:
        self._subscriber = subscriber
        self.connection = connection
        self._prefix = prefix
        self._prefix_length = len(prefix.encode())
        self._server = server
        self._fault: RedisFaultError | None = None

    def update(self, add: Sequence[str], remove: Sequence[str], *, look: bool) -> None:
        """See `Subscription.update`. One write: the read runs behind the subscription, and SET comes before PUBLISH."""
        connection = self.connection
        if self._fault is not None or not connection.is_usable:
            raise TransportError(str(self._fault or self._server.fault("unsent", _GONE)))
        data = b""
        owed: list[ReplyHandler] = []
        if remove:
            data = pack(("UNSUBSCRIBE", *map(self._prefix.__add__, remove)))
            owed.append(SubscribeReply(len(remove), _ignore))
        if add:
            keys = list(map(self._prefix.__add__, add))
            reads = look and not connection.is_resp2  # There, a subscribed connection takes no other commands.
            added = _Added(self, self._subscriber, add, reads=reads)
            data += pack(("SUBSCRIBE", *keys))
            owed.append(SubscribeReply(len(add), added.confirmed))
            if reads:
                data += pack(("MGET", *keys))
                owed.append(added)
        if data:
            connection.write(data, owed)

    def refused(self, error: hiredis.ReplyError) -> None:
        """Tell that nothing is pushed, because the server does not let us."""
        self.lost(self._server.refusal(error, ("SUBSCRIBE",)))

    def pushed(self, push: Sequence[Any]) -> None:
        """See `Subscriber.pushed`."""
        if push[0] == b"message" and len(push) == 3 and type(push[1]) is type(push[2]) is bytes:
            self._subscriber.pushed(push[1][self._prefix_length :].decode(errors="replace"), push[2])

    def lost(self, fault: RedisFaultError) -> None:
        """See `Subscriber.lost`."""
        if self._fault is None:
            self._fault = fault
            self._subscriber.lost(translated(fault))

    def abort(self) -> None:
        """See `Subscription.abort`."""
        # No failure of the server's, after which other connections would wait: the last deletions may need one.
        self._fault = self._fault or GivenUpError("unsent", str(self._server.fault("unsent", _GONE)))
        if not self.connection.is_lost:
            self.connection.abort(self._fault)


def _ignore(_: object) -> None:
    """Take the end of UNSUBSCRIBE."""


class _Added:
    """Waits for SUBSCRIBE to be confirmed, and is owed what is stored then, where that is read."""

    __slots__ = ("_reads", "_subscriber", "_subscription", "_task_ids")

    def __init__(
        self, subscription: RedisSubscription, subscriber: Subscriber, task_ids: Sequence[str], *, reads: bool
    ) -> None:
        self._reads = reads
        self._subscription = subscription
        self._subscriber = subscriber
        self._task_ids = task_ids

    def confirmed(self, reply: object) -> None:
        """Take the end of SUBSCRIBE: None, or an error."""
        if isinstance(reply, hiredis.ReplyError):
            self._subscription.refused(reply)
        elif not self._reads:
            self._subscriber.subscribed(self._task_ids, None)

    def set_result(self, reply: Any, /) -> None:
        """See `ReplyHandler`. An error is dropped here: the ordinary read meets it, too, and reports it."""
        if isinstance(reply, hiredis.ReplyError):
            self._subscriber.subscribed(self._task_ids, None)
        elif type(reply) is list and len(reply) == len(self._task_ids) and VALUES.issuperset(map(type, reply)):
            self._subscriber.subscribed(self._task_ids, reply)
        else:
            raise WrongReplyError(self, ("MGET",))

    def set_exception(self, _: BaseException, /) -> None:
        """See `ReplyHandler`. The subscriber learns that the connection is gone."""
