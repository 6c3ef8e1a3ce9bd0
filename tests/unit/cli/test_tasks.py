"""Jobs with tasks of any kind, on the double."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from support.clock import virtual

from fibo_client import FiboClient, TransportError
from fibo_client.celery import Inspect, RemoteTask
from fibo_client.cli.console import Console
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.tasks import call
from fibo_client.testing import FakeCelery


@pytest.fixture
def console(tmp_path):
    return Console(output=str(tmp_path / "answers"))


@virtual
async def test_one_timeout_is_for_sending_and_for_waiting(console, capsys, monkeypatch):
    fake = FakeCelery()
    fake.task("tasks.slow", delay=math.inf)
    async with FiboClient(transport=fake) as client:
        broker, loop = client.celery._session.broker, asyncio.get_running_loop()
        publish = broker.publish

        def slowly(messages, sender):
            loop.call_later(20, publish, messages, sender)

        monkeypatch.setattr(broker, "publish", slowly)
        began = asyncio.get_running_loop().time()
        status = await call(client, console, RemoteTask("tasks.slow")(), {}, timeout=30.0, traceback=False)
        assert asyncio.get_running_loop().time() - began < 35  # With the questions to the workers.
    assert status is ExitCode.NO_ANSWER
    assert re.search(r"no answer within 30(\.\d)? s from tasks\.slow", capsys.readouterr().err)


async def test_that_the_stored_answer_cannot_be_deleted_is_no_failure_of_the_call(console, tmp_path, monkeypatch):
    fake = FakeCelery()
    fake.task("tasks.add", lambda x, y: x + y)
    async with FiboClient(transport=fake) as client:
        store = client.celery._session.backend
        delete = store.delete_many

        async def gone(task_ids):
            with fake.redis_down():
                await delete(task_ids)

        monkeypatch.setattr(store, "delete_many", gone)
        status = await call(client, console, RemoteTask("tasks.add")(2, 3), {}, timeout=5.0, traceback=False)
    assert status is ExitCode.OK
    assert (tmp_path / "answers").read_text() == "5\n"


EVIL = "w\x1b[2J\u202e\r\nError:forged@h"


@pytest.fixture
def no_threads(monkeypatch):
    """Answers are written at once: for a thread, virtual time does not wait."""

    async def at_once(function, *args):
        return function(*args)

    monkeypatch.setattr("fibo_client.cli.console.to_daemon_thread", at_once)


async def waited(fake, console, task, timeout=10.0):
    async with FiboClient(transport=fake) as client:
        return await call(client, console, RemoteTask(task)(), {"queue": "mth"}, timeout=timeout, traceback=False)


@virtual
async def test_the_queue_that_it_should_be_is_told_on_one_line_whatever_workers_call_themselves(console, capsys):
    fake = FakeCelery(nodes=[EVIL], queues=[EVIL])
    fake.task("tasks.add")
    assert await waited(fake, console, "tasks.add") is ExitCode.NO_ANSWER
    first, second, *_ = capsys.readouterr().err.splitlines()
    safe = r"w\x1b[2J\u202e\r\nError:forged@h"
    assert first == f"Still waiting: no worker takes tasks from 'mth'; {safe} knows the task: --queue {safe}"
    assert second.startswith("Error: no answer within 10")


@virtual
async def test_that_no_worker_is_there_is_told_while_it_waits(console, capsys):
    fake = FakeCelery()
    with fake.no_worker():
        assert await waited(fake, console, "tasks.add") is ExitCode.NO_WORKER
    assert capsys.readouterr().err.startswith("Still waiting: no worker answers on this broker")


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("trouble", ["endless", "raises", "breaks"])
@virtual
async def test_an_answer_comes_whatever_becomes_of_the_question_beside_it(
    console, tmp_path, capsys, monkeypatch, trouble
):
    asked = []

    async def active_queues(*_):
        asked.append(True)
        if trouble == "endless":
            await asyncio.Event().wait()
        raise TransportError("Redis is gone") if trouble == "raises" else ZeroDivisionError

    monkeypatch.setattr(Inspect, "active_queues", active_queues)
    fake = FakeCelery(queues=["mth"], concurrency=1)
    fake.task("tasks.slow", lambda: 5, delay=4.0)
    async with FiboClient(transport=fake) as other:
        await other.celery.send_task("tasks.slow", queue="mth")  # Meanwhile, the one of the call waits in the queue.
        assert await waited(fake, console, "tasks.slow") is ExitCode.OK
    assert (asked, capsys.readouterr().err, (tmp_path / "answers").read_text()) == ([True], "", "5\n")


@pytest.mark.usefixtures("no_threads")
@virtual
async def test_a_quick_answer_asks_nothing(console, capsys, monkeypatch):
    monkeypatch.setattr(Inspect, "active_queues", None)  # It would break.
    fake = FakeCelery(queues=["mth"])
    fake.task("tasks.quick", lambda: 5, delay=1.0)
    assert await waited(fake, console, "tasks.quick") is ExitCode.OK
    assert capsys.readouterr().err == ""
