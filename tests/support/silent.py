"""Ports that are no Redis: they never answer, fall silent, or answer nonsense."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Answer = Callable[[bytes], bytes]


def nothing(_: bytes) -> bytes:
    """Answer nothing, as another service or a broken proxy does."""
    return b""


def only_greetings(command: bytes) -> bytes:
    """Answer the handshake only."""
    return b"+OK\r\n" if command.upper() in (b"AUTH", b"CLIENT", b"SELECT") else b""


def garbage(_: bytes) -> bytes:
    """Answer as a web server does."""
    return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def listening(answer: Answer = nothing) -> AsyncIterator[tuple[str, list[asyncio.Task[None]]]]:
    """Listen.

    Args:
        answer: Gives the answer to a command, by its name.

    Yields:
        The URL, and for each connection that came a task that ends when the other side closes it.
    """
    arrived: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(asyncio.current_task())
        try:
            while (command := await _command(reader)) is not None:
                writer.write(answer(command))
        except ConnectionError:
            pass  # Closed all the same.
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", arrived
    finally:
        server.close()
        for task in arrived:
            task.cancel()
        await asyncio.gather(*arrived, return_exceptions=True)


@contextmanager
def turning_away(said: bytes) -> Iterator[int]:
    """Write something on each connection, read nothing, and close, as a Redis does that refuses clients.

    Args:
        said: What to say.

    Yields:
        The port.
    """

    def turn_away() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(said)

    # In a thread: on the same event loop, the client would always have written before.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=turn_away)
        thread.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@asynccontextmanager
async def silent_worker(url: str, name: str) -> AsyncIterator[None]:
    """Listen to questions on database 0 of a Redis, as a worker does, and answer none.

    Args:
        url: The Redis.
        name: What it is called in the list of clients.
    """
    async with redis.asyncio.Redis.from_url(url, client_name=name) as listener, listener.pubsub() as pubsub:
        await pubsub.subscribe("/0.celery.pidbox")
        await pubsub.get_message(timeout=10)
        yield


async def _command(reader: asyncio.StreamReader) -> bytes | None:
    """Read a command, and give its name. None is the end."""
    count = (await reader.readline())[1:]
    arguments = []
    try:
        for _ in range(int(count or b"0")):
            size = int((await reader.readline())[1:])
            arguments.append((await reader.readexactly(size + 2))[:-2])
    except asyncio.IncompleteReadError:
        return None
    return arguments[0] if arguments else None
