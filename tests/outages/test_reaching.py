"""Redis cannot be reached, or not any more."""

from __future__ import annotations

from support.outages import outage
from support.servers import RedisServer, free_port

from fibo_client import FiboClient


@outage(
    "Redis is not there when the client first calls",
    sees="`PublishError`",
    within="at once",
    submitted="no",
    retry="safe",
)
async def test_a_redis_that_is_not_there_is_said_at_once_and_found_when_it_comes(witness):
    port = free_port()
    async with FiboClient(f"redis://127.0.0.1:{port}/0") as client:
        error = await witness.see(client.fibonacci(10, timeout=5), deadline=1)
        assert "Is Redis running there?" in str(error)
        with RedisServer(port=port) as redis:
            handle = await client.submit(10)
            with redis.client() as direct:
                assert direct.llen("celery") == 1
            assert handle.id
