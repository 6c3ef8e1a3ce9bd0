"""Follow a task that tells how far it is."""

import asyncio

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient(queue="proj") as celery:
        result = await celery.send_task("proj.tasks.resize", (5,))
        async for meta in result.updates(timeout=30):
            if meta.state == "PROGRESS":
                print(f"{meta.result['done']} of {meta.result['total']}")
        print(await result.get())


asyncio.run(main())

# Prints:
# ... of 5
# 5 pictures resized
