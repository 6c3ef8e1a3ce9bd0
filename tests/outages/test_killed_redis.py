"""Redis is killed under a worker, again and again."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from support.outages import outage
from support.servers import TESTS, RedisServer
from support.serving import ended, sooner_or_later, worker_of
from support.waiting import eventually

from fibo_client.celery import CeleryClient, Signature
from fibo_worker.dev import WorkerProcess

KILLS = 5
TASKS = 200


@outage(
    "Redis is killed while tasks end, and comes back without its data",
    sees="the answer",
    within="30 s after it is back, for a task that is sent then",
    submitted="yes",
    retry="safe",
    lost="what Redis had",
)
async def test_a_worker_stays_whenever_redis_is_killed_while_tasks_end(witness):
    chance = random.Random(7)
    with RedisServer() as first:
        port, url = first.port, first.url
        async with worker_of(url, concurrency=2) as worker:
            for kill in range(KILLS):
                # The port stays. The first one is the one that runs.
                server = first if kill == 0 else RedisServer(port=port)
                if kill:
                    server.start()
                try:
                    async with CeleryClient(url) as client:
                        await sooner_or_later(worker, lambda: client.call("fibo.fibonacci", (10,), timeout=1))
                        await witness.see(client.call("fibo.fibonacci", (11,), timeout=20), deadline=20)
                        await client.send_many([Signature("fibo.fibonacci", (20,)) for _ in range(TASKS)])
                        await asyncio.sleep(chance.uniform(0, 0.1))  # Some have ended, some run, some wait.
                        os.kill(server.pid, signal.SIGKILL)
                finally:
                    server.stop()
                assert worker.running, worker.log.read_text()
            with RedisServer(port=port):
                async with CeleryClient(url) as client:
                    await sooner_or_later(worker, lambda: client.call("fibo.fibonacci", (10,), timeout=1))
                await ended(worker)


@outage(
    "Redis is killed while a task runs, and comes back with its data",
    sees="the answer",
    within="the visibility timeout after it is back, and the task's own time",
    submitted="yes",
    retry="not needed",
    lost="nothing with `appendfsync always`; else what was not yet on disk",
)
async def test_a_task_whose_worker_lost_redis_runs_again_and_is_not_told_as_revoked(witness, tmp_path):
    disk = {"dir": str(tmp_path), "appendonly": "yes", "appendfsync": "always"}
    began = tmp_path / "began"
    env = {"PYTHONPATH": str(TESTS), "SOAKING_BEGAN": str(began)}
    with RedisServer(options=disk) as first:
        port, url = first.port, first.url
        with WorkerProcess(url, app="support.soaking", env=env, stop_timeout=20) as worker:
            async with CeleryClient(url) as client:
                call = client.call("soaking.add", (1, 2), {"seconds": 3.0}, timeout=60)
                calling = asyncio.create_task(witness.see(call, deadline=60))
                await eventually(began.exists)
                first.stop()
                # It ends what runs at the first try to connect that fails.
                await eventually(lambda: "Cannot connect" in worker.log.read_text())
                with RedisServer(port=port, options=disk):
                    assert await calling == 3
                    assert len(began.read_text().split()) == 2
