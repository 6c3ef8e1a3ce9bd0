"""Many numbers at once, in three ways."""

import asyncio

from fibo_client import FiboClient


async def main():
    async with FiboClient() as client:
        # A list: in order, duplicates kept. Up to 1,000 numbers share one task.
        print(await client.fibonacci_many([4, 3, 8, 6, 10], timeout=5))

        # Calls that run at the same time share tasks too.
        values = await asyncio.gather(*(client.fibonacci(n, timeout=5) for n in range(1000)))
        print(len(values), values[50])

        # Handles: send now, look now and then, collect later. One task a number.
        handles = await client.submit_many([4, 3, 8])
        while not all(await client.ready(handles)):  # one read for all of them
            await asyncio.sleep(0.05)
        print([await handle.get(timeout=5) for handle in handles])


asyncio.run(main())

# Prints:
# [3, 2, 21, 8, 55]
# 1000 12586269025
# [3, 2, 21]
