"""A Redis of one's own for each module of this folder, and a hand that plays the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis.asyncio
from support.memory import meta_bytes
from support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis that nobody else uses, so that its counters can be read."""
    with RedisServer() as server:
        yield server


class Hand:
    """Stores results by hand, as a worker does, and asks Redis what it has seen."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.redis = client

    async def put(self, task_id: str, status: str = "SUCCESS", result: object = None, *, publish: bool = True) -> None:
        """Store a result and publish it, in one transaction."""
        await self.put_bytes(task_id, meta_bytes(task_id, status, result), publish=publish)

    async def put_bytes(self, task_id: str, payload: bytes, *, publish: bool = True) -> None:
        key = f"celery-task-meta-{task_id}"
        async with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.set(key, payload, ex=60)
            if publish:
                pipeline.publish(key, payload)
            await pipeline.execute()

    async def connections(self) -> set[str]:
        """The ids of the connections of clients of fibo_client."""
        return {each["id"] for each in await self.redis.client_list() if "fibo_client" in each.get("lib-name", "")}

    async def connected(self) -> int:
        """How many connections there are, but for the hand's own."""
        return (await self.redis.info("clients"))["connected_clients"] - 1

    async def commands(self) -> dict[str, int]:
        """How often each command was called so far."""
        stats = await self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()}

    async def channels(self) -> list[bytes]:
        """What is subscribed to."""
        return await self.redis.pubsub_channels()


@pytest.fixture
async def hand(server: RedisServer) -> AsyncIterator[Hand]:
    """The hand, on an empty database 0."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.flushall()
        await client.config_resetstat()
        yield Hand(client)
