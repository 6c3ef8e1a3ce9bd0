"""With arq. Its worker: ``arq arq_before.WorkerSettings``."""

import asyncio
import os

from arq import create_pool
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))


async def add(_ctx, x, y):
    return x + y


class WorkerSettings:
    functions = (add,)
    redis_settings = REDIS


async def main():
    pool = await create_pool(REDIS)
    job = await pool.enqueue_job("add", 2, 3)
    print(await job.result(timeout=10))
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())

# Prints:
# 5
