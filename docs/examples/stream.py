"""A source of any length, in bounded memory."""

import asyncio

from fibo_client import FiboClient


async def readings():
    """What a sensor says: it never ends."""
    n = 0
    while True:
        yield n % 90
        n += 1
        await asyncio.sleep(0)


async def main():
    async with FiboClient() as client:
        # As they are answered. No more than 500 have left the source and not yet arrived here.
        total = 0
        async with client.stream(range(10_000), max_in_flight=500) as results:
            async for n, _value in results:
                total += n
        print(total)

        # In the order of the source. Leaving the block stops the source and revokes what is unfinished.
        async with client.stream(readings(), ordered=True) as results:
            async for n, value in results:
                if value > 1000:
                    break
        print(n, value)

        # One that cannot be asked for gives its error in place of an answer.
        async with client.stream([4, -1, 8], ordered=True, return_exceptions=True) as results:
            async for n, value in results:
                print(n, value)


asyncio.run(main())

# Prints:
# 49995000
# 17 1597
# 4 3
# -1 n must be 0 or more, not -1
# 8 21
