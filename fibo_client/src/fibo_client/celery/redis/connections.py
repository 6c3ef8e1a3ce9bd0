"""Connections to one Redis server: few, bounded, each command under a deadline of our own.

redis-py's own time limits and retries are switched off. On CPython 3.11 a ``socket_timeout`` makes it swallow
cancellations, and a retried LPUSH would send a task twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import redis
from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from fibo_client._version import __version__
from fibo_client.celery.config import DEFAULT_BROKER_URL
from fibo_client.celery.redis.errors import (
    IS_IT_REDIS,
    IS_IT_REDIS_AT_ALL,
    IS_IT_RUNNING,
    IS_IT_TLS,
    IS_IT_WELL,
    SAY_WHERE,
    ConnectionsBusyError,
    RedisFaultError,
    explain,
    explain_connect,
    outcome_of,
    without_traceback,
)
from fibo_client.celery.server_health import ServerHealth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress, TLSOptions
    from fibo_client.celery.redis.errors import Outcome

logger: Final = logging.getLogger("fibo_client")

EXPLICIT: Final[dict[str, Any]] = {
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "health_check_interval": 0,
    "decode_responses": False,
    "protocol": 2,
}
"""What redis-py would otherwise choose itself, and differently from version to version. RESP2 because old proxies
and some managed servers know no other."""

_can_read = getattr(AbstractConnection, "can_read", None) or AbstractConnection.can_read_destructive
"""The latter before redis-py 8."""

LAST_GOODBYE: Final = 1.0
"""The most seconds that closing waits for the other side, which TLS does. Then connections are cut."""

# The latter before redis-py 7.2.
_SILENT: Final[dict[str, Any]] = (
    {"driver_info": None} if hasattr(redis, "DriverInfo") else {"lib_name": None, "lib_version": None}
)
"""Have redis-py not say who we are: `_handshake` does."""

_CLIENT_INFO: Final = (
    ("CLIENT", "SETINFO", "LIB-NAME", f"redis-py(fibo_client_v{__version__})"),
    ("CLIENT", "SETINFO", "LIB-VER", redis.__version__),
)

FAILURES: Final[tuple[type[Exception], ...]] = (TimeoutError, RedisError, OSError, RuntimeError)
"""How using a connection can fail. RuntimeError is uvloop's, for a handle that is closed."""


class Limit(NamedTuple):
    """By when something must be over: waiting for a connection, making it, and the answer.

    Attributes:
        at: When, by the loop's clock.
        seconds: How long that was to be, for messages.
    """

    at: float
    seconds: float


class Connections:
    """A bounded pool of connections to one Redis server."""

    def __init__(self, address: RedisAddress, config: CeleryConfig, health: ServerHealth | None = None) -> None:
        self.address = address
        self.health: ServerHealth = health or ServerHealth(str(address), IS_IT_REDIS_AT_ALL)
        self._io_timeout = config.io_timeout
        self._sentinel: Sentinel | None = None
        self._slots = anyio.Semaphore(config.redis.max_connections)
        # What blocks for long may have half of the connections: publishing and reading need the others.
        self._long = anyio.Semaphore(max(1, config.redis.max_connections // 2))
        self._closed = False
        self._pool = self._make_pool(config)
        # Connected, and used by nobody. They stay out of redis-py's pool: each turn there costs as much as a command.
        self._free: list[AbstractConnection] = []
        # The transports of all that were made. redis-py gives no other way to them, and forgets them on failures.
        self._transports: dict[AbstractConnection, asyncio.WriteTransport | None] = {}

    def _make_pool(self, config: CeleryConfig) -> ConnectionPool:
        address = self.address
        common: dict[str, Any] = {**EXPLICIT, **_SILENT, "retry": Retry(NoBackoff(), 0)}
        options = {
            **common,
            "redis_connect_func": partial(_handshake, address.db),
            "max_connections": config.redis.max_connections,
            "username": address.username,
            "password": address.password,
        }
        secure = {} if address.ssl is None else _tls(address.ssl)
        if address.kind == "sentinel":
            credentials = {"username": config.redis.sentinel_username, "password": config.redis.sentinel_password}
            own = {**common, **secure, **credentials, "ssl": bool(secure), "redis_connect_func": partial(_handshake, 0)}
            self._sentinel = Sentinel(list(address.hosts), sentinel_kwargs=own)
            options |= {**secure, "ssl": bool(secure)}
            return SentinelConnectionPool(address.master_name, self._sentinel, **options)
        if address.kind == "unix":
            return ConnectionPool(connection_class=UnixDomainSocketConnection, path=address.path, **options)
        kind = SSLConnection if secure else Connection
        return ConnectionPool(connection_class=kind, host=address.host, port=address.port, **options, **secure)

    @asynccontextmanager
    async def connection(self, limit: Limit | None = None) -> AsyncIterator[AbstractConnection]:
        """Borrow a connection that is connected.

        Args:
            limit: By when it must be there. None is the time limit, from now on.

        Yields:
            The connection.

        Raises:
            RedisFaultError: None could be had within the time limit; nothing was sent.
        """
        connection = await self._take(limit or self.limit())
        try:
            yield connection
        finally:
            await self._give_back(connection)

    @asynccontextmanager
    async def long_connection(self, limit: Limit) -> AsyncIterator[AbstractConnection]:
        """Borrow a connection for commands that block for long. Half of all connections at most are lent so.

        Args:
            limit: By when it must be there.

        Yields:
            The connection.

        Raises:
            RedisFaultError: None could be had within the time limit; nothing was sent.
        """
        await self._acquire(self._long, limit)
        try:
            connection = await self._take(limit)
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._long.release()

    def limit(self, deadline: float = math.inf, seconds: float = math.inf) -> Limit:
        """Say by when a command that begins now must be over.

        Args:
            deadline: When at the latest, by the loop's clock.
            seconds: How long after its beginning that is.

        Returns:
            The limit: the deadline, or that of every command if that is sooner.
        """
        usual = asyncio.get_running_loop().time() + self._io_timeout
        return Limit(usual, self._io_timeout) if usual <= deadline else Limit(deadline, min(self._io_timeout, seconds))

    def _is_short(self, seconds: float) -> bool:
        """Tell whether a time that passed was a caller's own. That says nothing of Redis, nor of other connections."""
        return seconds < self._io_timeout

    async def _take(self, limit: Limit) -> AbstractConnection:
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._acquire(self._slots, limit)
        try:
            while self._free and not self._closed:
                connection = self._free.pop()
                clean = False
                try:
                    # Nobody closed it, and nothing came that nobody asked for.
                    clean = connection.is_connected and not await _can_read(connection)
                except FAILURES:
                    pass
                finally:
                    if not clean:
                        self.health.broke()
                        await self._drop(connection)
                if clean:
                    return connection
            return await self._connect(limit)
        except BaseException:
            self._slots.release()
            raise

    async def _give_back(self, connection: AbstractConnection) -> None:
        try:
            if connection.is_connected and not self._closed:
                self._free.append(connection)
            else:
                await self._drop(connection)
        finally:
            self._slots.release()

    async def _drop(self, connection: AbstractConnection) -> None:
        self._transports.pop(connection, None)
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def _acquire(self, slots: anyio.Semaphore, limit: Limit) -> None:
        try:
            async with asyncio.timeout_at(limit.at):
                await slots.acquire()
        except TimeoutError:
            busy = f"all connections were busy for {limit.seconds:g} s (max_connections)"
            raise ConnectionsBusyError("unsent", f"{self.address}: {busy}") from None

    async def _connect(self, limit: Limit) -> AbstractConnection:
        self._check_open()
        try:
            async with asyncio.timeout_at(limit.at):
                connection: AbstractConnection = await self._pool.get_connection()
                self.health.connected()
                self._transports[connection] = _transport(connection)
        except TimeoutError:
            advice = IS_IT_REDIS if self.address.ssl is None else IS_IT_TLS
            fault = self._fault("unsent", f"no connection within {limit.seconds:g} s. {advice}")
            if not self._is_short(limit.seconds):
                self._note(fault, certain=True)
            raise fault from None
        except (RedisError, OSError) as error:
            if isinstance(error, (ResponseError, AuthenticationError)):
                fault = self._fault(outcome_of(error), explain(error))
            else:
                reason = explain_connect(error, tls=self.address.ssl is not None)
                # Most likely nobody has said where Redis is.
                unsaid = reason.endswith(IS_IT_RUNNING) and str(self.address) == DEFAULT_BROKER_URL
                fault = self._fault("unsent", f"{reason} {SAY_WHERE}" if unsaid else reason)
            self._note(fault, certain=True)
            raise fault from without_traceback(error)
        if self._closed:  # Meanwhile; and nobody would close this one.
            await self._drop(connection)
        self._check_open()
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise self._fault("unsent", "the client was closed")

    async def execute(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands together and read their answers. The time limit is one for all of it.

        Args:
            *commands: The commands with their arguments; at least one.

        Returns:
            The answers, in order, as redis-py parses them: bytes, int, lists, None.

        Raises:
            RedisFaultError: One failed; the outcome says how.
        """
        limit = Limit(asyncio.get_running_loop().time() + self._io_timeout, self._io_timeout)
        connection = await self._take(limit)
        try:
            return await self.exchange(connection, commands, limit=limit)
        finally:
            await self._give_back(connection)

    async def exchange(
        self,
        connection: AbstractConnection,
        commands: Sequence[tuple[Any, ...]],
        *,
        limit: Limit | None = None,
    ) -> list[Any]:
        """Send commands together over one connection and read their answers.

        Args:
            connection: From `connection`.
            commands: The commands with their arguments.
            limit: By when it must be over. None is the time limit, from now on.

        Returns:
            The answers, in order.

        Raises:
            RedisFaultError: One failed; the outcome says how.
            asyncio.CancelledError: The caller left. The connection is cut, so that nobody reads what was for him.
        """
        answers: list[Any] = []
        refusal: RedisFaultError | None = None
        if not connection.is_connected:  # redis-py would silently reconnect.
            raise self._fault("unsent", "the connection is gone")
        transport = self._transports.get(connection)
        at, seconds = self.limit() if limit is None else limit
        try:
            async with asyncio.timeout_at(at):
                await connection.send_packed_command(_packed(commands))
                for command in commands:
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        # The other answers are still to be read, or the connection's next user would get them.
                        reason = explain(error)
                        if isinstance(error, NoPermissionError):  # Of a key, Redis does not say which command it was.
                            reason = f"{command[0]}: {reason}"
                        refusal = refusal or self._fault(outcome_of(error), reason)
        except FAILURES as error:
            _cut(transport)
            if isinstance(error, TimeoutError) and self._is_short(seconds):
                await connection.disconnect(nowait=True)
                raise self._broken(error, seconds) from without_traceback(error)
            raise await self.failed(connection, error, seconds) from without_traceback(error)
        except asyncio.CancelledError:
            _cut(transport)
            raise
        if self.health.failures:
            self._tell(self.health.worked(time.monotonic()))
        if refusal is not None:
            raise refusal
        return answers

    async def send(self, connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands and leave their answers to `receive`.

        Args:
            connection: From `connection`.
            commands: The commands with their arguments.

        Raises:
            RedisFaultError: They may not have been sent.
        """
        if not connection.is_connected:  # redis-py would silently reconnect.
            raise self._fault("unsent", "the connection is gone")
        transport = self._transports.get(connection)
        try:
            async with asyncio.timeout(self._io_timeout):
                await connection.send_packed_command(_packed(commands))
        except FAILURES as error:
            _cut(transport)
            raise await self.failed(connection, error, self._io_timeout) from without_traceback(error)

    async def failed(
        self, connection: AbstractConnection, error: Exception, seconds: float | None = None
    ) -> RedisFaultError:
        """Drop a connection whose use failed, unless Redis only said no, and tell what is known of the outcome."""
        if isinstance(error, ResponseError):
            return self._fault(outcome_of(error), explain(error))
        fault = self._broken(error, seconds)
        if not self._closed:  # Else whoever closed it knows.
            self.health.broke()
            self._note(fault, certain=fault.outcome != "unknown" or isinstance(error, TimeoutError))
        await connection.disconnect(nowait=True)
        # What broke this one has most likely broken those that nobody uses now. Each would cost its next user an error.
        while self._free:
            self.health.broke()
            await self._drop(self._free.pop())
        return fault

    def _broken(self, error: Exception, seconds: float | None) -> RedisFaultError:
        if isinstance(error.__context__, ReadOnlyError):  # Of a Sentinel's connection, redis-py makes another error.
            return self._fault("unsent", explain(error))
        if isinstance(error, (BusyLoadingError, AuthenticationError)):
            return self._fault(outcome_of(error), explain(error))
        if seconds is not None and isinstance(error, TimeoutError):
            return self._fault("unknown", f"no answer within {seconds:g} s. {IS_IT_WELL}")
        return self._fault("unknown", explain(error))

    async def aclose(self) -> None:
        """Close all connections, also those in use, and make no more."""
        self._closed = True
        transports = list(self._transports.values())
        try:
            with anyio.move_on_after(LAST_GOODBYE):
                await self._pool.aclose()
                if self._sentinel is not None:
                    for sentinel in self._sentinel.sentinels:
                        await sentinel.aclose()
        except FAILURES:
            pass  # It was broken already.
        finally:
            for transport in transports:
                _cut(transport)

    def _note(self, fault: RedisFaultError, *, certain: bool) -> None:
        if fault.refused:  # It is there, and says so.
            return
        self._tell(self.health.failed(time.monotonic(), str(fault), certain=certain))

    def _tell(self, line: str | None) -> None:
        if line is not None:
            logger.warning("%s", line)

    def _fault(self, outcome: Outcome, reason: str) -> RedisFaultError:
        return RedisFaultError(outcome, f"{self.address}: {reason}")

    def __repr__(self) -> str:
        return f"<Connections to {self.address}>"


def _transport(connection: AbstractConnection) -> asyncio.WriteTransport | None:
    writer: asyncio.StreamWriter | None = getattr(connection, "_writer", None)
    return None if writer is None else writer.transport


def _cut(transport: asyncio.WriteTransport | None) -> None:
    """Close a connection without a word. Closing it as redis-py does would first send what has not left yet, later."""
    if transport is not None:
        transport.abort()


def _packed(commands: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Write commands as Redis reads them. redis-py does the same, at five times the cost for each argument."""
    pieces = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            pieces += (b"$%d\r\n" % len(data), data, b"\r\n")
    return pieces


async def _handshake(db: int, connection: AbstractConnection) -> None:
    """Choose the database, and say who we are, for Redis to show in its list of clients."""
    # redis-py would do so in several writes, and pass over an error that answers the last of them. What a server says
    # before it closes, as in protected mode, would be lost: the second write fails, and drops what came.
    await connection.on_connect()  # Authenticates, where there is a password.
    select = [("SELECT", db)] if db else []
    await connection.send_packed_command(_packed([*select, *_CLIENT_INFO]), check_health=False)
    for _ in select:
        await connection.read_response()
    said: ResponseError | None = None
    for _ in _CLIENT_INFO:
        try:
            await connection.read_response()
        except ResponseError as error:  # Before 7.2, Redis does not know the command; and not every user may give it.
            said = said or error
        except RedisError:
            if said is None or "setinfo" in str(said).lower():
                raise
            raise said from None


def _tls(options: TLSOptions) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": options.cert_reqs,
        "ssl_ca_certs": options.ca_certs,
        "ssl_certfile": options.certfile,
        "ssl_keyfile": options.keyfile,
        "ssl_check_hostname": options.check_hostname,
    }
