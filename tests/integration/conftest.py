"""A Redis of one's own for each module of this folder, and a hand that plays the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis.asyncio
from support.hand import NAME, Hand
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis that nobody else uses, so that its counters can be read."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def hand(server: RedisServer) -> AsyncIterator[Hand]:
    """The hand, on an empty database 0."""
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as client:
        await client.flushall()
        await client.config_resetstat()
        yield Hand(client)
