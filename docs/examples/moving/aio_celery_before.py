"""With aio-celery, over RabbitMQ."""

import asyncio
import os

from aio_celery import Celery

app = Celery()
app.conf.update(
    broker_url=os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672//"),
    result_backend=os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
)


async def main() -> None:
    async with app.setup():
        result = await app.send_task("proj.tasks.add", args=(2, 3), queue="proj")
        print(await result.get(timeout=10))
        print(await result.state)


if __name__ == "__main__":
    asyncio.run(main())

# Prints:
# 5
# SUCCESS
