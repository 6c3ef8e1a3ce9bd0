"""A test's hand on a real Redis: it stores results as a worker does, and inspects the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fibo_client.testing.results import encode_meta

if TYPE_CHECKING:
    import redis.asyncio


NAME = "hand"


class Hand:
    """Stores results as a worker does, and inspects the server."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.redis = client

    async def put(self, task_id: str, status: str = "SUCCESS", result: object = None, *, publish: bool = True) -> None:
        """Store a result and publish it, in one transaction."""
        await self.put_bytes(task_id, encode_meta(task_id, status, result), publish=publish)

    async def put_bytes(self, task_id: str, payload: bytes, *, publish: bool = True) -> None:
        key = f"celery-task-meta-{task_id}"
        async with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.set(key, payload, ex=60)
            if publish:
                pipeline.publish(key, payload)
            await pipeline.execute()

    async def connections(self) -> set[str]:
        """The ids of all connections but the hand's own, which have a name."""
        return {each["id"] for each in await self.redis.client_list() if each["name"] != NAME}

    async def is_alone(self) -> bool:
        """Whether no other client is connected."""
        return not await self.connections()

    async def commands(self) -> dict[str, int]:
        """The calls of each command so far."""
        stats = await self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()}

    async def channels(self) -> list[bytes]:
        """The channels with subscribers."""
        return await self.redis.pubsub_channels()
