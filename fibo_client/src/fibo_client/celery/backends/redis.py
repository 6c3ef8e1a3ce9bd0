"""Redis as result backend: results by MGET, pushed ones by SUBSCRIBE to the very same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio

from fibo_client.celery.backends.base import Confirmed, Pushed
from fibo_client.celery.redis.connections import FAILURES
from fibo_client.celery.redis.errors import RedisFaultError, translated, without_traceback
from fibo_client.celery.redis.keys import RESULT, result_key_prefix
from fibo_client.celery.redis.sharing import shared_connections
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import ReadError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio.connection import AbstractConnection

    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.connections import Connections
    from fibo_client.celery.server_health import ServerHealth


class RedisBackend:
    """Implements `fibo_client.celery.backends.base.Backend`."""

    def __init__(self, connections: Connections, prefix: str) -> None:
        self._connections = connections
        self.health: ServerHealth = connections.health
        self.unreadable: str | None = None
        self._prefix = prefix

    @classmethod
    def connect(cls, config: CeleryConfig, shared: dict[RedisAddress, Connections]) -> Self:
        """Make the backend that the settings name, on connections that it shares with the broker. No I/O yet."""
        if config.result_backend is None:
            address = parse_url(config.broker_url, config.redis, role="broker_url")
        else:
            address = parse_url(config.result_backend, config.redis, role="result_backend")
        return cls(shared_connections(address, config, shared), result_key_prefix(config.redis.result_prefix))

    async def get_many(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """See `Backend.get_many`. One MGET."""
        try:
            (values,) = await self._connections.execute(("MGET", *map(self._prefix.__add__, task_ids)))
        except RedisFaultError as fault:
            error = ReadError(str(fault))
            error.refused = fault.refused
            raise error from fault
        return list(values)

    async def delete_many(self, task_ids: Sequence[str]) -> None:
        """See `Backend.delete_many`. One UNLINK."""
        try:
            await self._connections.execute(("UNLINK", *map(self._prefix.__add__, task_ids)))
        except RedisFaultError as fault:
            raise translated(fault) from fault.__cause__

    async def put(self, name: str, value: bytes, *, expires: float) -> None:
        """See `Backend.put`. One SET."""
        key = f"{self._prefix.removesuffix(RESULT)}{name}"
        try:
            await self._connections.execute(("SET", key, value, "PX", max(1, round(expires * 1000))))
        except RedisFaultError as fault:
            raise translated(fault) from fault.__cause__

    async def subscribe(self) -> RedisSubscription:
        """See `Backend.subscribe`."""
        borrowed = self._connections.connection()
        connection = await borrowed.__aenter__()
        return RedisSubscription(borrowed, connection, self._prefix, self._connections)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._connections.aclose()

    def __str__(self) -> str:
        return str(self._connections.address)

    def __repr__(self) -> str:
        return f"<RedisBackend at {self._connections.address}>"


class RedisSubscription:
    """Implements `fibo_client.celery.backends.base.Subscription` on one connection.

    It is redis-py's bare connection, not its PubSub: that one reconnects and subscribes again by itself, without a
    word, and what was published meanwhile is lost. Whoever waits must know, to read once more.
    """

    def __init__(
        self,
        borrowed: AbstractAsyncContextManager[AbstractConnection],
        connection: AbstractConnection,
        prefix: str,
        connections: Connections,
    ) -> None:
        self._borrowed = borrowed
        self._connection = connection
        self._prefix = prefix
        self._connections = connections
        self._closed = False

    async def update(self, add: Sequence[str], remove: Sequence[str]) -> None:
        """See `Subscription.update`."""
        commands = []
        if remove:
            commands.append(("UNSUBSCRIBE", *map(self._prefix.__add__, remove)))
        if add:
            commands.append(("SUBSCRIBE", *map(self._prefix.__add__, add)))
        if commands:
            await self._connections.send(self._connection, commands)

    async def ping(self) -> None:
        """See `Subscription.ping`."""
        await self._connections.send(self._connection, [("PING",)])

    async def receive(self) -> Confirmed | Pushed | None:
        """See `Subscription.receive`."""
        if self._closed or not self._connection.is_connected:
            raise TransportError(f"{self._connections.address}: the subscription's connection is gone")
        try:
            event = await self._connection.read_response()
        except FAILURES as error:
            raise await self._connections.failed(self._connection, error) from without_traceback(error)
        if not isinstance(event, list) or len(event) != 3 or not isinstance(event[1], bytes):
            return None
        kind, channel, payload = event
        task_id = channel.decode(errors="replace").removeprefix(self._prefix)
        if kind == b"message" and isinstance(payload, bytes):
            return Pushed(task_id, payload)
        return Confirmed((task_id,)) if kind == b"subscribe" else None

    async def abort(self) -> None:
        """See `Subscription.abort`. The connection goes back to the pool only when its reader is done with it."""
        if not self._closed:
            await self._connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """See `Subscription.aclose`."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._connection.disconnect(nowait=True)
            await self._borrowed.__aexit__(None, None, None)
