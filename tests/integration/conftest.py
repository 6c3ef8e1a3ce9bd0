"""A hand that plays the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis.asyncio
from support.hand import NAME, Hand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.servers import RedisServer


@pytest.fixture
async def hand(server: RedisServer) -> AsyncIterator[Hand]:
    """The hand, on an empty database 0."""
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as client:
        await client.flushall()
        await client.config_resetstat()
        yield Hand(client)
