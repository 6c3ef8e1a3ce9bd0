"""A proxy on loopback that stands between a client and Redis, and does to the bytes what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_AT_ONCE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: discard what is unsent and reset the connection, instead of closing it."""


class Proxy:
    """Relays bytes between its port and another, with faults on request.

    Args:
        target: The other port.
        source: The address that it connects from.

    Attributes:
        port: The port that it listens on.
        delay: Seconds that bytes take on the way, each way.
        pace: Bytes a second that go towards the client. None is no bound.
        stalled: Whether it accepts bytes and connections, and holds them back until this is false.
        refusing: Whether it resets every new connection.
        idle: Seconds of silence in both directions after which it forgets a connection (see `forget`). None is never.
        truncate: Bytes of the next reply after which the connection is cut. None is no cut.
        accepted: How many connections it has accepted.
    """

    def __init__(self, target: int, source: str = "127.0.0.1") -> None:
        self.port = 0
        self.delay = 0.0
        self.pace: float | None = None
        self.refusing = False
        self.idle: float | None = None
        self.truncate: int | None = None
        self.accepted = 0
        self._target = target
        self._source = source
        self._moving = asyncio.Event()
        self._moving.set()
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listen, until the block ends."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await server.wait_closed()

    def url(self, url: str) -> str:
        """Give the URL of the same database by way of this proxy."""
        return url.replace(f":{self._target}/", f":{self.port}/")

    @property
    def stalled(self) -> bool:
        return not self._moving.is_set()

    @stalled.setter
    def stalled(self, stalled: bool) -> None:
        if stalled:
            self._moving.clear()
        else:
            self._moving.set()

    def cut(self) -> None:
        """Reset every connection that there is."""
        for writer in self._writers:
            _reset(writer)

    def forget(self, *, subscribers: bool = False) -> int:
        """Drop every connection that there is in silence, as a firewall or a load balancer does.

        What either side writes on it is taken, and goes nowhere; no side learns that the other one has closed.

        Args:
            subscribers: Whether to drop those alone that have subscribed to something.

        Returns:
            How many it dropped.
        """
        links = [link for link in self._links if not link.forgotten and (link.subscribes or not subscribers)]
        for link in links:
            link.forgotten = True
        return len(links)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio of 3.11 logs an error when it runs the handler and that is cancelled.
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            if self.refusing:
                return
            redis_reader, redis_writer = await asyncio.open_connection(
                "127.0.0.1", self._target, local_addr=(self._source, 0)
            )
            self._writers.add(redis_writer)
            self._links.add(link := _Link())
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(link, reader, redis_writer))
                    both.create_task(self._pass_on(link, redis_reader, writer, replies=True))
            finally:
                self._links.discard(link)
                self._writers.discard(redis_writer)
                _reset(redis_writer)
        except* (OSError, _OverError):
            pass  # One side is gone or was cut: the other one is reset.
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _pass_on(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def collect() -> None:
            while True:
                try:
                    data = await source.read(_AT_ONCE)
                except OSError:
                    if not link.forgotten:
                        raise
                    data = b""
                await on_the_way.put((time.monotonic() + self.delay, data))
                if not data:
                    return

        async with asyncio.TaskGroup() as both:
            both.create_task(collect())
            while True:
                due, data = await on_the_way.get()
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)  # Latency.
                await self._moving.wait()
                if link.has_forgotten(self.idle):
                    continue
                link.subscribes |= not replies and b"SUBSCRIBE" in data
                if not data:
                    raise _OverError
                if replies and self.truncate is not None:
                    data, self.truncate = data[: self.truncate], None
                    sink.write(data)
                    await sink.drain()
                    raise _OverError
                if replies and self.pace is not None:
                    await self._drip(sink, data)
                else:
                    sink.write(data)
                    await sink.drain()

    async def _drip(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        piece = max(1, int(self.pace * 0.01))
        for start in range(0, len(data), piece):
            sink.write(data[start : start + piece])
            await sink.drain()
            await asyncio.sleep(0.01)  # A hundred pieces a second.


class _Link:
    """A connection through the proxy."""

    def __init__(self) -> None:
        self.forgotten = False
        self.subscribes = False
        self._last = time.monotonic()

    def has_forgotten(self, idle: float | None) -> bool:
        """Tell whether what comes now goes nowhere, and note that something came."""
        now = time.monotonic()
        if idle is not None and now - self._last > idle:
            self.forgotten = True
        self._last = now
        return self.forgotten


class _OverError(Exception):
    """A connection through the proxy has ended."""


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():
        return
    peer = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
