"""Connect by Sentinel: whoever is master at the moment is asked."""

import asyncio
import os

from fibo_client import FiboClient, RedisOptions

# Such as sentinel://one:26379/0;sentinel://two:26379/0;sentinel://three:26379/0
URL = os.environ["SENTINELS_URL"]
MASTER = os.environ["MASTER_NAME"]  # what the Sentinels call the master, such as mymaster


async def main():
    async with FiboClient(URL, redis=RedisOptions(master_name=MASTER)) as client:
        print(await client.fibonacci(10, timeout=5))


asyncio.run(main())

# Prints:
# 55
