"""With threads around Celery's client: each wait holds a thread of the pool."""

import asyncio

from proj.tasks import add


def call(x, y):
    return add.delay(x, y).get(timeout=10)


async def main():
    print(await asyncio.to_thread(call, 2, 3))

    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, call, n, n) for n in range(5)]
    print(await asyncio.gather(*calls))


asyncio.run(main())

# Prints:
# 5
# [0, 2, 4, 6, 8]
