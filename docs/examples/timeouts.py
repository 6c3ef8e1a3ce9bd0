"""One timeout covers all of a call, from sending to the answer."""

import asyncio

from fibo_client import FiboClient, ResultTimeoutError


async def main():
    async with FiboClient(timeout=10) as client:  # for every call that says nothing
        print(await client.fibonacci(10))
        print(await client.fibonacci(11, timeout=2))

        try:
            await client.fibonacci(12, timeout=0.3, queue="nobody-serves-this")
        except ResultTimeoutError as error:
            print(error.published, error.state)  # it was sent, and nobody has begun it

        # Python's own scopes work as well. They cancel the call, which revokes its task.
        try:
            async with asyncio.timeout(0.3):
                await client.fibonacci(13, queue="nobody-serves-this")
        except TimeoutError:
            print("left by the scope")

        # What was handed out stays yours: a wait that ends changes nothing.
        handle = await client.submit(14)
        try:
            await handle.get(timeout=0)  # one read
        except ResultTimeoutError:
            pass
        print(await handle.get(timeout=5))


asyncio.run(main())

# Prints:
# 55
# 89
# True PENDING
# left by the scope
# 377
