"""Questions that take long are in nobody's way."""

from __future__ import annotations

import asyncio
import time

import redis.asyncio
from support.hand import NAME
from support.waiting import eventually

from fibo_client.celery import CeleryClient


async def test_long_questions_hold_up_neither_sending_nor_reading(server, hand):
    async with (
        redis.asyncio.Redis.from_url(server.url, client_name=NAME) as listener,
        listener.pubsub() as pubsub,
        CeleryClient(server.url, io_timeout=1.0) as client,
    ):
        await pubsub.subscribe("/0.celery.pidbox")  # Somebody listens and does not answer.
        questions = [asyncio.create_task(client.ping(timeout=30)) for _ in range(10)]

        async def asked() -> bool:
            return len(await hand.redis.keys("*.reply.celery.pidbox")) == len(questions)

        await eventually(asked)
        began = time.monotonic()
        handle = await client.send_task("x", (1,), timeout=5)
        await hand.put(handle.id, result=7)
        assert await handle.get(timeout=5) == 7
        assert time.monotonic() - began < 0.9  # Well before any question was over.
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
