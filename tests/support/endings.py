"""Programs that fork or end while calls are in flight: each in its own process, whose stderr is read in full."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

PATIENCE = 60
"""Seconds after which a program hangs. On an idle machine all end within one."""

HEAD = """
import asyncio, gc, multiprocessing, os, signal, sys, threading
from fibo_client import ClientStateError, FiboClient
from fibo_client.celery import RemoteTask
URL = sys.argv[1]
X = RemoteTask("x", chunkable=True)

async def begun(client, *calls):
    tasks = [asyncio.create_task(call) for call in calls]
    while not (client.stats().pending and not client.stats().unsent):
        await asyncio.sleep(0.005)  # Not `eventually`: these programs import no tests.
    return tasks
"""
"""The head of each program. `begun` starts calls as tasks, and waits until one is sent and awaited."""


def end(url: str, program: str, *, kill: signal.Signals | None = None) -> tuple[int, str, str]:
    """Run a program; send it a signal when it says that it is ready. Give its status, its output and its errors."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if kill is not None:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n", process.communicate(timeout=PATIENCE)
                process.send_signal(kill)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, out, err


CALLS_IN_FLIGHT = """
async def main():
    async with FiboClient(URL) as client:
        numbers = (client.fibonacci(n) for n in range(5))
        chunk = client.celery.call_many([X(n) for n in range(3)], chunk_size=2)
        calls = await begun(client, *numbers, client.celery.result("x").get(), client.celery.call("x"), chunk)
        # Said by the loop: a signal that comes while `main` itself runs would end `main` by an error of its own.
        asyncio.get_running_loop().call_soon(lambda: print("ready", flush=True))
        await asyncio.gather(*calls)
"""

_FORK = """
def in_child(client):
    uses = (
        lambda: client.fibonacci(3), lambda: client.sqrt(4.0), lambda: client.submit(3), client.celery.ping,
        lambda: client.celery.call("x", task_id="1"), lambda: client.celery.result("a").get(),
        lambda: client.celery.result("a").forget(), lambda: client.celery.revoke("a"),
        lambda: client.celery.call_many([X(1), X(2)], chunk_size=2),
    )
    for use in uses:
        try:
            asyncio.run(use())  # on a loop of the child's own
        except ClientStateError as error:
            assert "before this process was forked" in str(error), error
        else:
            raise AssertionError("it was not refused")
        try:
            use().send(None)  # on the copy of the parent's
        except ClientStateError as error:
            assert "before this process was forked" in str(error), error
        else:
            raise AssertionError("it was not refused")
    asyncio.run(client.aclose())
    asyncio.run(client.aclose())

async def main():
    async with FiboClient(URL) as client:
        answer = client.celery.result("b")
        waiting = asyncio.create_task(answer.get(timeout=50))
        await client.ready([client.celery.result("a")])
        while client.celery._session._reader._subscription is None:
            await asyncio.sleep(0.01)  # As in `begun`.
        before = await connections()
        STEP
        assert await client.ready([client.celery.result("a")]) == [False]
        await redis.set("celery-task-meta-b", META)
        await redis.publish("celery-task-meta-b", META)
        assert await waiting == 37
        assert await connections() == before, "a connection of the parent was lost"
        assert client.stats().reconnects == 0

META = '{"status": "SUCCESS", "result": 37, "traceback": null, "task_id": "b"}'

async def connections():
    return {each["id"] for each in await redis.client_list() if each["name"] != "own"}

import redis.asyncio
redis = redis.asyncio.Redis.from_url(URL, client_name="own")

async def all():
    async with redis:
        await redis.flushall()
        await main()

asyncio.run(all())
"""


def forking(step: str) -> str:
    """Give a program whose client is refused in a forked child, and goes on in the parent.

    Args:
        step: Forks, runs `in_child(client)` and checks its end.

    Returns:
        The program. It writes nothing, and needs a Redis of its own.
    """
    return _FORK.replace("        STEP\n", textwrap.indent(textwrap.dedent(step).strip(), " " * 8) + "\n")
