"""One time limit for all that a command waits for, and long questions that leave connections to the others."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
import redis.asyncio
from support.hand import NAME
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.celery.redis.errors import RedisFaultError


async def test_waiting_for_a_connection_and_for_the_answer_share_one_time_limit(server, hand):
    async with CeleryClient(server.url, redis=RedisOptions(max_connections=3), io_timeout=1.0, push=False) as client:
        connections = client._session.backend._connections
        async with AsyncExitStack() as lent:
            for _ in range(3):
                await lent.enter_async_context(connections.connection())
            began = time.monotonic()
            asking = asyncio.ensure_future(connections.execute(("PING",)))
            await asyncio.sleep(0.7)  # For this long it waits for a connection: a part of its second.
            await hand.redis.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        with pytest.raises(RedisFaultError, match="no answer within 1 s"):
            await asking
        # It was to be 1 s; a limit for each part would make it 1.7 s. The rest is for a busy machine.
        assert time.monotonic() - began < 1.5
    await hand.redis.ping()


async def test_long_questions_leave_connections_for_sending_and_reading(server, hand):
    async with (
        redis.asyncio.Redis.from_url(server.url, client_name=NAME) as listener,
        listener.pubsub() as pubsub,
        CeleryClient(server.url, redis=RedisOptions(max_connections=4), io_timeout=1.0) as client,
    ):
        await pubsub.subscribe("/0.celery.pidbox")  # Somebody listens and does not answer.
        connections = client._session.broker._connections
        questions = [asyncio.create_task(client.ping(timeout=30)) for _ in range(10)]

        async def asked() -> bool:
            return connections._long.value == 0

        await eventually(asked)
        began = time.monotonic()
        handle = await client.send_task("x", (1,), timeout=5)
        await hand.put(handle.id, result=7)
        assert await handle.get(timeout=5) == 7
        assert time.monotonic() - began < 0.9  # Well before any question could have given up its connection.
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        assert connections._long.value == 2
