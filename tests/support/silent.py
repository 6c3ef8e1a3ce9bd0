"""A port that takes connections and never answers, as that of another service or behind a broken proxy."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[asyncio.Task[None]]]]:
    """Listen. It gives the URL, and for each connection that came a task that ends when the other side closes it."""
    arrived: list[asyncio.Task[None]] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(asyncio.current_task())
        try:
            await reader.read()
        except ConnectionError:
            pass  # Closed all the same.
        finally:
            writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", arrived
    finally:
        server.close()
        for task in arrived:
            task.cancel()
        await asyncio.gather(*arrived, return_exceptions=True)
