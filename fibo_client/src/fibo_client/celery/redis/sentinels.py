"""Ask the Sentinels where the master is.

They are asked what redis-py asks, so they need permit no more, and what they say is judged as there. It is asked over
connections of our own, because each version of redis-py knows other options for TLS.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import hiredis

from fibo_client.celery.redis.connection import Connection
from fibo_client.celery.redis.errors import RedisFaultError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.options import RedisOptions

_MAX_REPLY: Final = 4 * 1024 * 1024
"""The most bytes in an answer: a Sentinel uses half a kilobyte for each master that it watches."""

_DOWN: Final = {"s_down", "o_down"}
"""Flags of a master that a Sentinel, or most of them, cannot reach."""

_WANTS_OTHERS: Final = ("WRONGPASS", "NOAUTH", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH")


async def find_master(
    address: RedisAddress, options: RedisOptions, io_timeout: float, tls: ssl.SSLContext | None
) -> tuple[str, int]:
    """Ask one Sentinel after the other, until one knows the master. The caller bounds the time.

    Args:
        address: The Sentinels, and the name of the master.
        options: The Sentinels' user name and password.
        io_timeout: Seconds that the caller gives all of them. One that is silent is left in time to ask the others.
        tls: How to speak TLS. None is not at all.

    Returns:
        The master's host and port.

    Raises:
        OSError: No Sentinel that can be reached knows the master.
        ReplyError: A Sentinel refused the question.
    """
    name, share = str(address.master_name), io_timeout / len(address.hosts)
    last, refusal, hint = len(address.hosts) - 1, None, ""
    for number, (host, port) in enumerate(address.hosts):
        try:
            async with asyncio.timeout(share if number < last else None):
                masters = await _ask(host, port, options, io_timeout, tls)
        except (OSError, RedisFaultError):
            continue
        except hiredis.ReplyError as error:
            if str(error).startswith(_WANTS_OTHERS):
                hint = ": a Sentinel wants another sentinel_username or sentinel_password"
            else:
                refusal = error
            continue
        found = _master(masters, name)
        if found is not None:
            return found
    raise refusal or ConnectionError(f"No master found for {name!r}{hint}")


async def _ask(host: str, port: int, options: RedisOptions, io_timeout: float, tls: ssl.SSLContext | None) -> Any:
    user, password = options.sentinel_username, options.sentinel_password
    commands: list[Command] = [("SENTINEL", "MASTERS")]
    if user or password:
        commands.insert(0, ("AUTH", *([user] if user else []), password or ""))
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(_Nobody(), f"{host}:{port}", io_timeout, _MAX_REPLY), host, port, ssl=tls
    )
    try:
        replies = await connection.request(commands)
    finally:
        connection.abort(connection.fault("unknown", "it has been asked"))
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise reply
    return replies[-1]


def _master(masters: Any, name: str) -> tuple[str, int] | None:
    """Find the address of a master that is well in what a Sentinel said, which may be anything."""
    try:
        for each in masters:
            said = dict(zip(each[::2], each[1::2], strict=True))
            if said[b"name"] == name.encode():
                flags = set(said[b"flags"].decode().split(","))
                return (said[b"ip"].decode(), int(said[b"port"])) if "master" in flags and not flags & _DOWN else None
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


class _Nobody:
    """Listens to a connection that is asked one thing."""

    def pushed(self, push: Sequence[Any]) -> None:
        """See `Listener`."""

    def suspected(self, connection: Connection) -> None:
        """See `Listener`."""

    def lost(self, connection: Connection, fault: RedisFaultError) -> None:
        """See `Listener`."""

    def answered(self, connection: Connection) -> None:
        """See `Listener`."""
