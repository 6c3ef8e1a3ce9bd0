"""What the connections of clients cost while nothing happens."""

import asyncio
from contextlib import AsyncExitStack

from support.servers import RedisServer
from support.waiting import eventually

from fibo_client.celery import CeleryClient

CLIENTS = 5
SECONDS = 12
"""Longer than a connection is taken to be alive without a word."""


def commands(direct) -> dict[str, int]:
    """How often each command was called, but for those of this test."""
    stats = direct.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return {name: count for name, count in calls.items() if name != "info" and "config" not in name}


async def clients_of(stack, server, direct):
    """Open clients, each of which has used its connections."""
    clients = [await stack.enter_async_context(CeleryClient(server.url)) for _ in range(CLIENTS)]
    for client in clients:
        waiting = asyncio.create_task(client.result("nothing-of-anybody").get(timeout=0.1))
        await client.send_task("nobody.knows")
        assert await client.ping() == []
        await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: not direct.pubsub_channels())
    return clients


async def test_clients_that_wait_for_nothing_send_not_one_command_and_those_that_wait_ask_seldom_for_a_sign_of_life():
    with RedisServer() as idle, RedisServer() as waiting, idle.client() as of_idle, waiting.client() as of_waiting:
        async with AsyncExitStack() as stack:
            await clients_of(stack, idle, of_idle)
            waiters = [
                asyncio.create_task(client.result(f"late {n}").get(timeout=50))
                for n, client in enumerate(await clients_of(stack, waiting, of_waiting))
            ]
            await eventually(lambda: len(of_waiting.pubsub_channels()) == CLIENTS)
            before = commands(of_idle)
            of_waiting.config_resetstat()
            await asyncio.sleep(SECONDS)  # That nothing happens in a while is what is tested.
            after, while_waiting = commands(of_idle), commands(of_waiting)
            for each in waiters:
                each.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
    assert after == before
    assert while_waiting.get("ping", 0) <= SECONDS * CLIENTS, while_waiting
    assert sum(while_waiting.values()) <= 2 * SECONDS * CLIENTS, while_waiting
