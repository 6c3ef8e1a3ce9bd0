"""Make a connection to a Redis server: find it, speak TLS, say who is there, and choose the database.

Of redis-py only the interface of credential providers is used, whose versions differ in all else. The first commands
leave together, and what a server says before it closes the connection is told.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

import hiredis
import redis

from fibo_client._version import __version__
from fibo_client.celery.redis.credentials import credentials_of
from fibo_client.celery.redis.sentinels import find_master
from fibo_client.celery.redis.tls import tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.connection import Connection
    from fibo_client.celery.redis.options import RedisOptions

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""When the system looks whether a silent peer is there, in seconds and times."""

_CLIENT_INFO: Final[tuple[Command, ...]] = (
    ("CLIENT", "SETINFO", "LIB-NAME", f"redis-py(fibo_client_v{__version__})"),
    ("CLIENT", "SETINFO", "LIB-VER", redis.__version__),
)
_OLD: Final = ("unknown command", "noproto", "wrong number of arguments for 'hello'")
"""What a server says of HELLO that knows RESP2 alone."""


class Connector:
    """Makes connections to one database.

    Args:
        address: The database.
        options: The settings of Redis, for the Sentinels.
        io_timeout: Seconds that a server may take for an answer, and a peer for its acknowledgement.
    """

    def __init__(self, address: RedisAddress, options: RedisOptions, io_timeout: float) -> None:
        self._address = address
        self._options = options
        self._io_timeout = io_timeout
        self._tls: ssl.SSLContext | None = None

    async def connect(self, factory: Callable[[], Connection]) -> tuple[Connection, int]:
        """Connect. The caller bounds the time.

        Args:
            factory: Makes the connection.

        Returns:
            The connection, and the version of the protocol that is spoken on it: 3 or 2.

        Raises:
            OSError: The server cannot be reached, or the Sentinels do not know it.
            ReplyError: The server, or a Sentinel, refused something.
            RedisFaultError: It closed the connection.
            ConfigError: A file for TLS cannot be read.
        """
        transport, connection = await self._open(factory)
        try:
            if self._address.keepalive:
                _keep_alive(transport.get_extra_info("socket"), self._io_timeout)
            return connection, await self._greet(connection)
        except BaseException:
            connection.close()
            raise

    async def _open(self, factory: Callable[[], Connection]) -> tuple[asyncio.BaseTransport, Connection]:
        address, loop = self._address, asyncio.get_running_loop()
        if address.kind == "unix":
            return await loop.create_unix_connection(factory, address.path)
        host, port = address.host, address.port
        if address.ssl is not None and self._tls is None:
            self._tls = tls_context(address.ssl)
        if address.kind == "sentinel":
            host, port = await find_master(address, self._options, self._io_timeout, self._tls)
        return await loop.create_connection(factory, host, port, ssl=self._tls)

    async def _greet(self, connection: Connection) -> int:
        """Say who is there, in one write. Give the version of the protocol."""
        address = self._address
        credentials = await credentials_of(address)
        needed: list[Command] = [("AUTH", *credentials)] if credentials else []
        needed += [("SELECT", address.db)] if address.db else []
        needed += [] if address.client_name is None else [("CLIENT", "SETNAME", address.client_name)]
        hello: list[Command] = [] if address.protocol == 2 else [("HELLO", 3)]
        replies = await connection.request([*needed, *hello, *_CLIENT_INFO])
        for reply in replies[: len(needed)]:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        if not hello:
            return 2
        said = replies[len(needed)]
        if not isinstance(said, hiredis.ReplyError):
            return 3
        if any(sign in str(said).lower() for sign in _OLD):
            return 2
        raise said


def _keep_alive(sock: Any, io_timeout: float) -> None:
    """Have the system find out that a peer is gone, where it can."""
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    settings = [(socket.SOL_SOCKET, "SO_KEEPALIVE", 1)]
    settings += [(socket.IPPROTO_TCP, name, value) for name, value in _KEEPALIVE]
    settings.append((socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(io_timeout * 1000)))
    for level, name, value in settings:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(level, option, value)
