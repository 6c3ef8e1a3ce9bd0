"""Large numbers wait in a list of their own, which is served last."""

import asyncio

from fibo_client import FiboClient


async def main():
    async with FiboClient() as client:
        large = asyncio.create_task(client.fibonacci(1_000_000, timeout=20))  # from 500,000 on: the last priority
        print(await client.fibonacci(10, timeout=5))  # does not wait behind it
        print((await large).bit_length())

        value = await client.fibonacci(1_000_001, timeout=20, priority=0)  # among the small ones
        print(value.bit_length())


asyncio.run(main())

# Prints:
# 55
# 694241
# 694242
