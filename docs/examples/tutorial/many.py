"""Ask for very many numbers, while something else goes on."""

import asyncio

from fibo_client import FiboClient


async def something_else(ticks):
    while True:
        ticks.append(1)
        await asyncio.sleep(0.001)


async def main():
    ticks = []
    other = asyncio.create_task(something_else(ticks))
    async with FiboClient() as client:
        values = await client.fibonacci_many(range(10_000), timeout=20)
    other.cancel()
    print(len(values), "numbers; the last has", values[-1].bit_length(), "bits")
    print("the event loop went on:", len(ticks) > 10)


asyncio.run(main())

# Prints:
# 10000 numbers; the last has 6941 bits
# the event loop went on: True
