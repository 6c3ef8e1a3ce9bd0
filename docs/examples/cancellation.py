"""A caller that is cancelled revokes its task. What was handed out is revoked when you say so."""

import asyncio

from fibo_client import TaskRevokedError
from fibo_client.celery import CeleryClient


async def main():
    async with CeleryClient(queue="proj") as celery:
        # The task is this call's own: nobody else can want it, so it is revoked.
        call = asyncio.create_task(celery.call("proj.tasks.add", (2, 3), queue="nobody-serves-this"))
        while not celery.stats().in_flight:
            await asyncio.sleep(0.01)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            print("cancelled")

        # The task is handed out: it runs until it ends, or until you end it.
        result = await celery.send_task("proj.tasks.resize", (200,))
        async for meta in result.updates(timeout=10):
            if meta.state == "PROGRESS":
                break  # it has begun, and leaving the loop does not stop it
        await result.revoke(terminate=True)
        try:
            await result.get(timeout=10)
        except TaskRevokedError as error:
            print(error.reason)


asyncio.run(main())

# Prints:
# cancelled
# terminated
