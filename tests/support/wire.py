"""A Redis connection without a network: what Redis writes as bytes, a transport, and a small Redis behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.celery.redis.connection import Connection


class Push(list):
    """What Redis says unasked, in RESP3."""


def encode(reply: Any) -> bytes:
    """Write a reply, an error or a push as Redis does."""
    match reply:
        case None:
            return b"_\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case str():
            return f"+{reply}\r\n".encode()
        case hiredis.ReplyError():
            return f"-{reply}\r\n".encode()
        case Push():
            return b">%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
    raise TypeError(type(reply))


def read(reply: Any) -> Any:
    """Say what a client makes of a reply that was written by `encode`."""
    if isinstance(reply, str):
        return reply.encode()
    return [read(each) for each in reply] if isinstance(reply, list) else reply


def same(given: Any, wanted: Any) -> bool:
    """Compare replies. Two errors with the same text are the same."""
    if isinstance(wanted, hiredis.ReplyError):
        return isinstance(given, hiredis.ReplyError) and str(given) == str(wanted)
    if isinstance(wanted, list):
        return isinstance(given, list) and len(given) == len(wanted) and all(map(same, given, wanted))
    return type(given) is type(wanted) and given == wanted


class FakeTransport(asyncio.Transport):
    """A transport that goes nowhere: it keeps what is written, and is closed as asyncio's are.

    Args:
        protocol: The protocol whose transport it is.
        sent: Is called with what is written.

    Attributes:
        written: What was written so far.
        held: What was fed, and is not read yet, as reading is paused.
        pauses: How often reading was paused.
    """

    def __init__(self, protocol: Connection, sent: Callable[[bytes], None] | None = None) -> None:
        super().__init__()
        self._protocol = protocol
        self._sent = sent
        self._closing = False
        self._paused = False
        self.held = b""
        self.written = b""
        self.pauses = 0
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        if self._closing:
            return
        self.written += data
        if self._sent is not None:
            self._sent(data)

    def feed(self, data: bytes) -> None:
        """Have the protocol read what the server wrote, as asyncio does."""
        self.held += data
        while self.held and not self._paused and not self._closing:
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(self.held))
            buffer[:size] = self.held[:size]
            self.held = self.held[size:]
            self._protocol.buffer_updated(size)

    def cut(self, error: Exception | None = None) -> None:
        """Lose the connection."""
        if not self._closing:
            self._closing = True
            self._protocol.connection_lost(error)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        assert not self._paused
        self._paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        assert self._paused
        self._paused = False
        asyncio.get_running_loop().call_soon(self.feed, b"")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Pushes:
    """Notes what is pushed."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.losses = 0

    def pushed(self, push: Sequence[Any]) -> None:
        self.taken.append(list(push))

    def lost(self, fault: Any) -> None:
        self.losses += 1


class Listener:
    """Notes what a connection says."""

    def __init__(self) -> None:
        self.suspicions = 0
        self.faults: list[Any] = []
        self.answers = 0

    def suspected(self, connection: Connection) -> None:
        self.suspicions += 1

    def lost(self, connection: Connection, fault: Any) -> None:
        self.faults.append(fault)

    def answered(self, connection: Connection) -> None:
        self.answers += 1


class Commands:
    """Takes commands off the bytes that a client writes."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()

    def read(self, data: bytes) -> Iterator[list[bytes]]:
        """Give the commands that are complete with this."""
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            yield command
