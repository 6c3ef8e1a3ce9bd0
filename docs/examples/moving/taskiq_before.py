"""With taskiq. Its worker: ``taskiq worker taskiq_before:broker``."""

import asyncio
import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task
async def add(x: int, y: int) -> int:
    return x + y


async def main():
    await broker.startup()
    task = await add.kiq(2, 3)
    result = await task.wait_result(timeout=10)
    print(result.return_value)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())

# Prints:
# 5
