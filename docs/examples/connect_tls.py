"""Connect by TLS. The server's certificate is checked, its host name included."""

import asyncio
import os

from fibo_client import FiboClient, RedisOptions

URL = os.environ["REDIS_URL"]  # such as rediss://user:password@redis.example:6380/0
CA = os.environ["REDIS_CA"]  # such as /etc/ssl/redis-ca.pem


async def main():
    async with FiboClient(URL, redis=RedisOptions(ssl_ca_certs=CA)) as client:
        print(await client.fibonacci(10, timeout=5))


asyncio.run(main())

# Prints:
# 55
