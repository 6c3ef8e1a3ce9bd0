"""Connections that Redis itself kills, again and again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import redis


PREY = "prey"
"""The name of the user whose connections are killed."""


class Killer:
    """Has Redis itself kill every connection of the user `PREY`, again and again.

    Attributes:
        killed: How many it has killed.
    """

    def __init__(self, direct: redis.Redis) -> None:
        self._direct = direct
        self.killed = 0

    @contextlib.asynccontextmanager
    async def every(self, seconds: float) -> AsyncIterator[Killer]:
        """Kill them at this interval, until the block ends."""
        task = asyncio.create_task(self._kill_forever(seconds))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _kill_forever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self.killed += await asyncio.to_thread(self._direct.execute_command, "CLIENT", "KILL", "USER", PREY)


@contextlib.contextmanager
def prey(direct: redis.Redis, url: str) -> Iterator[str]:
    """Give the URL of a user with all permissions, whose connections alone are killed."""
    direct.execute_command("ACL", "SETUSER", PREY, "on", "nopass", "~*", "&*", "+@all")
    try:
        yield url.replace("redis://", f"redis://{PREY}:any@")
    finally:
        direct.execute_command("ACL", "DELUSER", PREY)
