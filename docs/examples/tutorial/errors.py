"""See what can go wrong."""

import asyncio

from fibo_client import FiboClient, FiboError, ResultTimeoutError


async def main():
    async with FiboClient() as client:
        try:
            await client.fibonacci(-1)
        except ValueError as error:
            print(error)  # nothing was sent

        try:
            await client.fibonacci(10, timeout=0.2, queue="nobody-serves-this")
        except ResultTimeoutError as error:
            print("no answer;", "sent" if error.published else "not sent")
        except FiboError as error:
            print("something else:", error)  # the root of all of them


asyncio.run(main())

# Prints:
# n must be 0 or more, not -1
# no answer; sent
