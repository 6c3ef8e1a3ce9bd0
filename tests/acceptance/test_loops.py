"""Programs that have many event loops, with real workers: Django's views, and Celery tasks that call tasks."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager

import httpx
import pytest
import redis
from support.programs import started
from support.servers import EXAMPLES, free_port, stock_worker
from support.waiting import eventually, until

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess

USER = "loops"
"""The name by which the programs' clients log in, so that their connections are told from all others."""


@pytest.fixture(scope="module")
def url(redis_server):
    """Where a plain worker serves the queue ``celery``."""
    url = redis_server.fresh_url()
    with stock_worker(url, name="roots", concurrency=2):
        yield url


@pytest.fixture(scope="module")
def client_url(url):
    """The same for the programs."""
    with redis.Redis.from_url(url) as admin:
        admin.acl_setuser(USER, enabled=True, passwords=["+secret"], categories=["+@all"], keys=["*"], channels=["*"])
    return url.replace("redis://", f"redis://{USER}:secret@")


@pytest.fixture(scope="module")
def connections(url):
    """Count the connections of the programs' clients."""
    with redis.Redis.from_url(url) as admin:
        yield lambda: sum(each["user"] == USER for each in admin.client_list())


# Django.


@contextmanager
def site(url, *command):
    env = {"CELERY_BROKER_URL": url, "PYTHONPATH": str(EXAMPLES / "loops"), "PYTHONDONTWRITEBYTECODE": "1"}
    port = str(free_port())
    with started(sys.executable, *(each.format(port=port) for each in command), env=env) as program:
        until(lambda: answers(port), lambda: program.text)
        yield f"http://127.0.0.1:{port}"
        program.end(signal.SIGINT)
    assert "Traceback" not in program.text, program.text


def answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/nowhere", timeout=20).status_code == 404
    except httpx.TransportError:
        return False


WSGI = (str(EXAMPLES / "loops" / "django_site.py"), "runserver", "--noreload", "--nothreading", "{port}")
THREADED = (*WSGI[:3], "{port}")
ASGI = ("-m", "uvicorn", "django_site:application", "--port", "{port}", "--lifespan", "off")


@pytest.mark.parametrize("command", [WSGI, THREADED, ASGI], ids=["wsgi", "wsgi with threads", "asgi"])
async def test_views_of_django_call_tasks_whatever_loop_they_run_on(client_url, connections, command):
    with site(client_url, *command) as address:
        async with httpx.AsyncClient(base_url=address, timeout=40) as caller:
            for path in ("plain", "async"):
                answers = await asyncio.gather(*(caller.get(f"/{path}/{x * x}") for x in range(20)))
                assert [answer.json() for answer in answers] == [{"root": float(x)} for x in range(20)]
            if command is ASGI:
                assert connections() <= 3  # All views share the loop of the server, and one client.
            else:
                await eventually(lambda: connections() == 0)  # Each loop had its own, and has ended.
    until(lambda: connections() == 0)


async def test_who_leaves_an_async_view_of_django_has_its_task_revoked(redis_url):
    channel = f"/{redis_url.rpartition('/')[2]}.celery.pidbox"
    with site(redis_url, *ASGI) as address, redis.Redis.from_url(redis_url) as broker, broker.pubsub() as control:
        control.subscribe(channel)
        async with httpx.AsyncClient(base_url=address, timeout=40) as caller:
            leaving = asyncio.create_task(caller.get("/async/4"))
            await eventually(lambda: broker.llen("celery") == 1)
            leaving.cancel()
            await eventually(lambda: (control.get_message() or {"type": ""})["type"] == "message")


# A Celery task that calls tasks.


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_tasks_of_celery_call_tasks_from_loops_of_their_own(url, client_url, connections, pool):
    env = {"PYTHONPATH": str(EXAMPLES), "CELERY_BROKER_WRITE_URL": client_url}
    with WorkerProcess(url, app="loops.tasks", name=pool, pool=pool, concurrency=3, env=env, stop_timeout=0) as process:
        async with CeleryClient(url, queue="loops", timeout=50) as client:
            calls = [client.call("loops.tasks.sum_of_roots", ([1, 4, n * n],)) for n in range(12)]
            assert await asyncio.gather(*calls) == [3 + n for n in range(12)]
            await eventually(lambda: connections() == 0)
        process.check()
