"""Ask a worker for one number, and for several."""

import asyncio

from fibo_client import FiboClient


async def main():
    async with FiboClient() as client:
        print(await client.fibonacci(10, timeout=5))
        print(await client.fibonacci_many([4, 3, 8, 6, 10], timeout=5))


asyncio.run(main())

# Prints:
# 55
# [3, 2, 21, 8, 55]
