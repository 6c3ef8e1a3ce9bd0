"""A program of somebody who has the client beside Celery, in one environment: it uses the client in every way.

It runs in the environment of each worker, where redis-py is the one that Celery's kombu wants. Its arguments are the
names and values of `main`; it prints what it saw, as JSON.
"""

import asyncio
import json
import sys
from importlib.metadata import version

from redis.credentials import CredentialProvider

from fibo_client import FiboClient, TaskRevokedError
from fibo_client.celery import CeleryClient, RedisOptions, RemoteTask

ADD = RemoteTask("stock.add")
PATIENCE = 20.0


class Cloud(CredentialProvider):
    """As redis-py has it in all versions. A Redis without passwords takes any from its default user."""

    def get_credentials(self):
        return ("default", "any")


class AsyncCloud(CredentialProvider):
    """As redis-py has it from 5.3 on; the client takes it before, too."""

    def get_credentials(self):
        raise NotImplementedError

    async def get_credentials_async(self):
        return ("default", "any")


def client(url, *, push=True, **options):
    return CeleryClient(url, timeout=PATIENCE, push=push, redis=RedisOptions(**options))


async def use(celery):
    """Call, send and gather."""
    handles = await celery.send_many([ADD(n, 1) for n in range(20)])
    return [await celery.call("stock.add", (2, 3)), await celery.gather(handles)]


async def eventually(condition):
    while not await condition():  # noqa: ASYNC110 - what it waits for is in another process
        await asyncio.sleep(0.01)


async def ask(celery):
    """Ask the workers, and tell one not to run a task."""
    inspect = celery.inspect(timeout=PATIENCE)
    handle = await celery.send_task("stock.add", (1, 2), countdown=600)

    async def cause(handle):
        return (await celery.diagnose(handle, timeout=PATIENCE)).cause.name

    async def scheduled():
        return await cause(handle) == "SCHEDULED"

    async def active():
        return any((await inspect.active()).values())

    await eventually(scheduled)
    seen = {
        "ping": [each.name for each in await celery.ping(timeout=PATIENCE)],
        "active": await inspect.active(),
        "registered": "stock.add" in str(await inspect.registered()),
        "revoked by": await handle.revoke(),
    }
    over = await celery.send_task("stock.add", (1, 2))
    await over
    seen["diagnosis"] = await cause(over)
    running = await celery.send_task("stock.sleep", (60,))
    await eventually(active)
    await running.revoke(terminate=True)
    try:
        await running
    except TaskRevokedError:
        seen["terminated"] = True
    return seen


async def main(url, sentinel, master, tls, ca):
    """Use the client by each way to the same database.

    Args:
        url: That of a Redis.
        sentinel: That of a Sentinel.
        master: Its name for that Redis.
        tls: The Redis, by TLS.
        ca: The file of the authority that signed its certificate.
    """
    ways = {
        "push": client(url),
        "poll": client(url, push=False),
        "resp2": client(f"{url}?protocol=2"),
        "sentinel": client(sentinel, master_name=master),
        "tls": client(tls, ssl_ca_certs=ca, ssl_min_version=771, ssl_ciphers="DEFAULT"),
        "provider": client(url, credential_provider=Cloud()),
        "async provider": client(url, credential_provider=AsyncCloud()),
    }
    seen = {"versions": {name: version(name) for name in ("celery", "redis")}, "use": {}}
    for name, celery in ways.items():
        async with celery:
            seen["use"][name] = await use(celery)
            if name == "push":
                seen["ask"] = await ask(celery)
    async with FiboClient(url, timeout=PATIENCE) as fibo:
        seen["fibo"] = await fibo.fibonacci_many([4, 3, 8, 6, 10])
    return seen


print(json.dumps(asyncio.run(main(**dict(each.split("=", 1) for each in sys.argv[1:])))))
