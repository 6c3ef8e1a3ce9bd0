"""What is urgent goes first, and what is slow goes elsewhere."""

import asyncio

from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient(queue="reports") as celery:  # for every call that names none
        print(await celery.call("proj.tasks.resize", (1,), timeout=10))
        print(await celery.call("proj.tasks.add", (2, 3), queue="proj", timeout=10))

        # 0 is served first, 9 last. Without a word it is 0.
        later = await celery.send_task("proj.tasks.add", (1, 1), priority=9)
        sooner = await celery.send_task("proj.tasks.add", (2, 2), priority=0)
        print(await celery.gather([later, sooner], timeout=10))


asyncio.run(main())

# Prints:
# 1 pictures resized
# 5
# [2, 4]
