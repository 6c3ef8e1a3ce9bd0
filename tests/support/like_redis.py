"""A small Redis in this process, for a client on an event loop with a clock of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis

from support.wire import Commands, FakeTransport, Push, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fibo_client.celery.redis.connection import Connection
    from fibo_client.celery.redis.connector import Connector
    from fibo_client.celery.redis.server import RedisServer


class LikeRedis:
    """Values, lists and channels. It takes the place of a server's connector.

    Args:
        version: The protocol that it speaks.
        latency: Seconds that bytes take on the way, each way.

    Attributes:
        values: What is stored.
        lists: The elements of the lists, the newest last.
        refusals: The error that it gives to a command, by name.
        connections: How many connections it has taken.
        attempts: When each attempt to connect began, by the loop's clock.
        lasts: Seconds after which it closes each connection. None is that it does not.
        most_answers: The commands that it answers on each connection before it closes it. None is no limit.
        peers: Its ends of the connections.
        down: Whether it takes no connections.
        stopped: Whether it takes in what comes, and does nothing until this is false.
    """

    def __init__(self, version: int = 3, latency: float = 0.001) -> None:
        self.version = version
        self.latency = latency
        self.values: dict[bytes, bytes] = {}
        self.lists: dict[bytes, list[bytes]] = {}
        self.refusals: dict[bytes, str | None] = {}
        self.connections = 0
        self.attempts: list[float] = []
        self.lasts: float | None = None
        self.most_answers: int | None = None
        self.peers: list[Peer] = []
        self.down = False
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    @property
    def stopped(self) -> bool:
        return not self._goes_on.is_set()

    @stopped.setter
    def stopped(self, stopped: bool) -> None:
        if stopped:
            self._goes_on.clear()
        elif self.stopped:
            self._goes_on.set()
            for peer in self.peers:
                peer.go_on()

    def serve(self, server: RedisServer) -> None:
        """Have the connections of a server lead here."""
        server._connector = cast("Connector", self)

    async def connect(self, factory: Callable[[], Connection]) -> tuple[Connection, int]:
        """See `Connector.connect`."""
        loop = asyncio.get_running_loop()
        self.attempts.append(loop.time())
        await asyncio.sleep(self.latency)
        if self.down:
            raise ConnectionRefusedError
        await self._goes_on.wait()
        await asyncio.sleep(2 * self.latency)
        self.connections += 1
        connection = factory()
        self.peers.append(peer := Peer(self, connection))
        if self.lasts is not None:
            loop.call_later(self.lasts, peer.cut)
        return connection, self.version

    def refuse(self, name: bytes, error: str | None) -> None:
        """Give this error to a command from now on. None is none."""
        self.refusals[name] = error

    def store(self, key: str, value: bytes, *, publish: bool) -> None:
        """Store a value and publish it, as a worker does."""
        self.values[key.encode()] = value
        if publish:
            for peer in self.peers:
                peer.publish(key.encode(), value)

    @property
    def channels(self) -> set[str]:
        """The channels that somebody is subscribed to."""
        return {
            channel.decode()
            for peer in self.peers
            if peer.is_open and not peer.transport.is_closing()
            for channel in peer.channels
        }

    def cut(self, *, subscribed: bool | None = None) -> None:
        """Cut connections: those that are subscribed, the others, or all."""
        for peer in list(self.peers):
            if subscribed is None or bool(peer.channels) is subscribed:
                peer.cut()

    def forget(self) -> None:
        """Drop every connection in silence, as a firewall does."""
        for peer in self.peers:
            peer.is_open = False


class Peer:
    """The server's end of a connection."""

    def __init__(self, redis: LikeRedis, connection: Connection) -> None:
        self.redis = redis
        self.transport = FakeTransport(connection, self._send)
        self.channels: set[bytes] = set()
        self.is_open = True
        """Whether bytes arrive on it, either way."""
        self._commands = Commands()
        self._coming: deque[bytes] = deque()
        self._going: deque[bytes] = deque()
        self._waiting = 0
        self.answered = 0
        self._loop = asyncio.get_running_loop()

    # Two timers for one moment go off in any order, so each takes what is first in line.

    def _send(self, data: bytes) -> None:
        self._coming.append(data)
        self._loop.call_later(self.redis.latency, self._arrive)

    def go_on(self) -> None:
        """Do what has come while the server was stopped."""
        for _ in range(self._waiting):
            self._loop.call_soon(self._arrive)
        self._waiting = 0

    def _arrive(self) -> None:
        if self.redis.stopped:
            self._waiting += 1
            return
        data = self._coming.popleft()
        if self.is_open and not self.transport.is_closing():
            for command in self._commands.read(data):
                if self.answered == self.redis.most_answers:
                    self._loop.call_later(self.redis.latency, self.cut)
                    return
                self.answered += 1
                self._say(self._run(*command))

    def _say(self, data: bytes) -> None:
        self._going.append(data)
        self._loop.call_later(self.redis.latency, self._tell)

    def _tell(self) -> None:
        data = self._going.popleft()
        if self.is_open:
            self.transport.feed(data)

    def _push(self, *push: Any) -> bytes:
        return encode(Push(push) if self.redis.version == 3 else list(push))

    def _run(self, name: bytes, *arguments: bytes) -> bytes:
        if refusal := self.redis.refusals.get(name):
            return encode(hiredis.ReplyError(refusal))
        match name:
            case b"PING" if self.channels and self.redis.version == 2:
                return encode([b"pong", b""])
            case b"PING":
                return encode("PONG")
            case b"SUBSCRIBE" | b"UNSUBSCRIBE":
                said = b""
                for channel in arguments:
                    (self.channels.add if name == b"SUBSCRIBE" else self.channels.discard)(channel)
                    said += self._push(name.lower(), channel, len(self.channels))
                return said
            case _ if self.channels and self.redis.version == 2:
                return encode(hiredis.ReplyError("ERR only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"))
            case b"MGET":
                return encode([self.redis.values.get(key) for key in arguments])
            case b"LPUSH":
                elements = self.redis.lists.setdefault(arguments[0], [])
                elements += arguments[1:]
                return encode(len(elements))
            case b"UNLINK":
                return encode(sum(self.redis.values.pop(key, None) is not None for key in arguments))
            case b"LLEN" | b"STRLEN":
                stored = self.redis.lists if name == b"LLEN" else self.redis.values
                return encode(len(stored.get(arguments[0], ())))
            case b"AUTH":
                return encode("OK")
        return encode(hiredis.ReplyError(f"ERR unknown command {name!r}"))

    def publish(self, channel: bytes, value: bytes) -> None:
        if self.is_open and channel in self.channels:
            self._say(self._push(b"message", channel, value))

    def cut(self) -> None:
        if self in self.redis.peers:
            self.redis.peers.remove(self)
        if self.is_open:
            self.is_open = False
            self.transport.cut(ConnectionResetError())
