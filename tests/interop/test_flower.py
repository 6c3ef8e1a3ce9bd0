"""Flower, started as the how-to page says, on a real worker; both with the Redis users of the security page."""

from __future__ import annotations

import shlex
import signal
import sys

import httpx
import pytest
from support.acl import CLIENT, FLOWER, WORKER, make_users, refusals
from support.programs import FIBO_WORKER, started
from support.servers import TESTS, free_port
from support.waiting import until

from fibo_client import FiboClient

PAGE = TESTS.parent / "docs" / "how-to" / "trace-and-measure.md"
AUTH = ("admin", "change-me")


def on_the_page(beginning):
    """The command that the page gives, by its first words, as a list."""
    (line,) = (line.strip() for line in PAGE.read_text().splitlines() if line.startswith(f"    {beginning}"))
    return shlex.split(line)


@pytest.fixture(scope="module")
def urls(server):
    return make_users(server)


@pytest.fixture(scope="module")
def working(urls):
    """A worker, as the page starts it."""
    _, *arguments = on_the_page("fibo-worker start -- -E")
    with started(*FIBO_WORKER, *arguments, env={"CELERY_BROKER_URL": urls[WORKER]}) as program:
        program.wait_for(" ready.")
        yield program


@pytest.fixture(scope="module")
def flower(urls, working):
    """Flower, as the page starts it but for the port, as a client of its pages."""
    command = [sys.executable, "-m", *on_the_page("celery -A fibo_worker.app flower")]
    command[command.index("--port=5555")] = f"--port={(port := free_port())}"
    with started(*command, env={"CELERY_BROKER_URL": urls[FLOWER]}) as program:
        program.wait_for("Connected to redis://")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=AUTH, timeout=20) as web:
            until(lambda: web.get("/healthcheck").status_code == 200, "Flower is not healthy")
            yield web
        assert program.end(signal.SIGTERM) == 0


def workers(flower):
    """What Flower knows of workers, once it has asked them anew."""
    return flower.get("/api/workers", params={"refresh": 1}).json()


async def test_flower_knows_the_worker_its_queue_and_its_tasks(flower, server, urls):
    ((node, told),) = until(lambda: workers(flower), "Flower knows no worker").items()
    assert node.startswith("celery@")
    tasks = {"fibo.fibonacci", "fibo.fibonacci_chunk", "tasks.fibo_task", "tasks.sqrt_task"}
    until(lambda: tasks <= set(workers(flower)[node].get("registered", ())), "Flower does not know the tasks")
    assert node in flower.get("/workers").text
    assert told

    async with FiboClient(urls[CLIENT]) as client:
        assert await client.sqrt(4) == 2.0
        failed = await client.celery.send_task("tasks.sqrt_task", (-1,))
        with pytest.raises(Exception, match="value must be 0 or more"):
            await failed.get(timeout=20)
        assert await client.fibonacci_many([4, 3, 8]) == [3, 2, 21]
    seen = until(lambda: len(found := flower.get("/api/tasks").json()) == 3 and ended(found), "Flower saw no three end")
    assert sorted((task["name"], task["state"]) for task in seen) == [
        ("fibo.fibonacci_chunk", "SUCCESS"),
        ("tasks.sqrt_task", "FAILURE"),
        ("tasks.sqrt_task", "SUCCESS"),
    ]
    assert {task["worker"] for task in seen} == {node}
    assert {task["sent"] for task in seen} == {None}  # as the page says: the client sends no such events
    assert flower.get(f"/task/{failed.id}").status_code == 200
    assert flower.get("/api/queues/length").json() == {"active_queues": [{"name": "celery", "messages": 0}]}
    assert refusals(server) == []


def ended(tasks):
    return [task for task in tasks.values() if task["state"] in ("SUCCESS", "FAILURE")][2:] and list(tasks.values())


def test_flower_asks_for_the_password(flower):
    assert httpx.get(flower.base_url.join("/api/workers"), timeout=20).status_code == 401
