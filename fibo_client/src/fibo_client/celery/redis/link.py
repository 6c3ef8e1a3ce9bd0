"""Which connection to use: a fresh one at once, one that was idle after a PING, and another in place of a lost one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis

from fibo_client.celery.redis.commands import can_be_repeated
from fibo_client.celery.redis.connection import Connection, pack
from fibo_client.celery.redis.errors import IS_IT_WELL, GivenUpError, RedisFaultError
from fibo_client.celery.redis.replies import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.credentials import Credentials
    from fibo_client.celery.redis.server import RedisServer

FRESH_FOR: Final = 10.0
"""For so many seconds after the last bytes from Redis, a connection is used without a PING first."""

PING_TIMEOUT: Final = 1.0
"""The most seconds that an idle connection has to show that it is well, before another is made."""

IDLE: Final = 5.0
"""Seconds without a sign of life after which one is asked for, while somebody waits."""

_SILENCE: Final = "the connection was silent, and another one was not"

_PING: Final = pack(("PING",))


class Limit(NamedTuple):
    """By when something must be over: making a connection, and the answer.

    Attributes:
        at: When, by the loop's clock.
        seconds: How long that was to be, for messages.
    """

    at: float
    seconds: float


class Link:
    """One of the connections to a server: made when first needed, and made anew when it is lost.

    Args:
        server: The server.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._retired: set[Connection] = set()
        self._needs_ping = False

    # Use.

    @property
    def connection(self) -> Connection | None:
        """The connection, where there is one."""
        return self._connection

    @property
    def ready(self) -> Connection | None:
        """The connection, where something can be written to it at once."""
        connection = self._connection
        if connection is None or not connection.is_usable or self._needs_ping:
            return None
        return connection if asyncio.get_running_loop().time() <= connection.heard + FRESH_FOR else None

    async def prepare(self, limit: Limit) -> Connection:
        """Give the connection, after making it, or after finding it well, where that is needed.

        Args:
            limit: By when it must be there.

        Returns:
            The connection.

        Raises:
            RedisFaultError: None could be had within the limit; nothing was sent.
        """
        while True:
            connection = self.ready
            if connection is not None:
                return connection
            connecting = self._connecting
            if connecting is None:
                connecting = self._start(self._obtain)
            left = limit.at - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait([connecting], timeout=max(0.0, left))
            if not done:
                raise self._server.too_late(limit)
            if connecting.cancelled():
                raise self._server.fault("unsent", "the client was closed")
            error = connecting.exception()
            if isinstance(error, RedisFaultError):
                raise error.again()
            if error is not None:
                raise error
            if connecting.result().is_lost:  # Already; then the next attempt is for those who come after.
                raise self._server.too_late(limit)

    async def execute(self, *commands: Command, limit: Limit | None = None) -> list[Any]:
        """Send commands together and read their replies.

        Args:
            *commands: The commands; at least one.
            limit: By when it must be over. None is the time limit of every command.

        Returns:
            The replies, in order: bytes, int, lists, None.

        Raises:
            GivenUpError: The connection was given up, and they must not be sent again.
            RedisFaultError: One failed; the outcome says how.
        """
        while True:
            connection = self.ready or await self.prepare(limit or self._server.limit())
            future = connection.request(commands)
            try:
                replies = await (future if limit is None else self._within(limit, future))
                break
            except GivenUpError:
                if not can_be_repeated(commands):
                    raise
                limit = limit or self._server.limit()
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise self.refused(connection, reply, command)
        return replies

    async def _within(self, limit: Limit, future: asyncio.Future[list[Any]]) -> list[Any]:
        try:
            async with asyncio.timeout_at(limit.at):
                return await future
        except TimeoutError:
            fault = self._server.fault("unknown", f"no answer within {limit.seconds:g} s. {IS_IT_WELL}")
            raise fault from None

    def refused(self, connection: Connection, error: hiredis.ReplyError, command: Command) -> RedisFaultError:
        """Make the error for a command that was refused on a connection of this link."""
        fault = self._server.refusal(error, command)
        if str(error).startswith("READONLY") and connection.is_usable:  # Another server is the master now.
            self._let_go(connection)
            self._server.is_replica(self, connection, fault)
        return fault

    # Making it.

    def _start(self, make: Callable[[], Any]) -> asyncio.Task[Connection]:
        task: asyncio.Task[Connection] = asyncio.get_running_loop().create_task(
            make(), name="fibo_client.connecting", context=contextvars.Context()
        )
        self._connecting = task
        task.add_done_callback(self._made)
        return task

    def _made(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # Whoever waits is told; perhaps nobody does any more.

    async def _obtain(self) -> Connection:
        """Find the present connection well, or make another."""
        connection = self._connection
        if connection is not None and connection.is_usable:
            with contextlib.suppress(TimeoutError, RedisFaultError):
                async with asyncio.timeout(PING_TIMEOUT):
                    await connection.request([("PING",)])
                self._needs_ping = False
                return connection
        return await self._replace()

    async def _replace(self) -> Connection:
        """Make a connection, perhaps beside one that is silent. If it can be had, that one has died."""
        silent, began = self._connection, asyncio.get_running_loop().time()
        new = await self._server.connect(self)
        self._needs_ping = False
        if silent is not None and silent.is_usable and silent.heard > began:
            self._let_go(new)
            return silent
        if silent is not None and not silent.is_lost:
            self._server.health.broke()
            self._let_go(silent)
            if self is not self._server.sending:  # There, what was sent may have arrived, and the answer may come.
                silent.abort(GivenUpError("unknown", str(self._server.fault("unknown", _SILENCE))))
        self._connection = new
        return new

    def _let_go(self, connection: Connection) -> None:
        """Use a connection no more. It is closed once all has been answered that was asked on it."""
        if connection is self._connection:
            self._connection = None
        if not connection.is_lost:
            self._retired.add(connection)
            connection.retire()

    def require_ping(self) -> None:
        """Have the connection show that it is well before it is used again."""
        self._needs_ping = True

    def watch_recovery(self) -> None:
        """Have the connection tell when the server answers."""
        if self._connection is not None:
            self._connection.reports_recovery = True

    def keep_alive(self) -> None:
        """Ask for a sign of life where there was none for long."""
        connection = self._connection
        if connection is None or not connection.is_usable or not connection.is_idle:
            return
        if self._needs_ping or asyncio.get_running_loop().time() >= connection.heard + IDLE:
            connection.write(_PING, (IGNORED,))

    def authenticate(self, connection: Connection, credentials: Credentials) -> None:
        """Have a connection of this link use new credentials. One that cannot is replaced."""
        if connection.is_usable:
            checked = connection.request([("AUTH", *credentials)])
            checked.add_done_callback(partial(self._authenticated, connection))

    def _authenticated(self, connection: Connection, checked: asyncio.Future[list[Any]]) -> None:
        if checked.exception() is None and isinstance(checked.result()[0], hiredis.ReplyError):
            self._let_go(connection)

    # What the connection says.

    def suspected(self, connection: Connection) -> None:
        """See `Listener.suspected`."""
        self._server.suspected()
        if connection is self._connection and self._connecting is None:
            self._start(self._replace)

    def lost(self, connection: Connection, fault: RedisFaultError) -> None:
        """See `Listener.lost`."""
        self._retired.discard(connection)
        if connection is self._connection:
            self._connection = None
            self._server.lost(connection, fault)

    def answered(self, connection: Connection) -> None:
        """See `Listener.answered`."""
        is_first = not connection.is_proven
        connection.is_proven = True
        self._server.answered(self, is_first=is_first)

    # The end.

    async def aclose(self) -> None:
        """Close the connection once what was written has left."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connection = self._connection
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    def abort(self) -> None:
        """Close what is still open."""
        closed = self._server.fault("unknown", "the client was closed")
        for connection in (*self._retired, *([self._connection] if self._connection else [])):
            connection.abort(closed)
