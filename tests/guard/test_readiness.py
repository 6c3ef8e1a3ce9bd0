"""What tells whether a worker takes tasks: its readiness file, and the command that reads it or asks."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from support.clients import celery_client
from support.programs import FIBO_WORKER, run
from support.proxy import Proxy
from support.servers import TESTS, RedisServer
from support.serving import SERVES_AGAIN, worker_of
from support.waiting import eventually, until

from fibo_worker.dev import WorkerProcess
from fibo_worker.health import _Mailbox

TAKES_TASKS = "the worker takes tasks\n"
SHELL = 'find "$FIBO_READINESS_FILE" -mmin -0.5 | grep -q .'
"""The check of the page on deploying."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ready"


def health(*arguments, **env):
    return run(*FIBO_WORKER, "health", *arguments, **env)


def shell(path) -> bool:
    return run("sh", "-c", SHELL, FIBO_READINESS_FILE=str(path)).returncode == 0


def poisoned(url, path):
    env = {"PYTHONPATH": str(TESTS), "FIBO_READINESS_FILE": str(path)}
    return WorkerProcess(url, app="support.poisoned", env=env, stop_timeout=20)


def everything(direct):
    """All keys without a time to live, and the members of those that are sets."""
    keys = [key for key in direct.scan_iter() if direct.ttl(key) == -1]
    return {key: direct.smembers(key) if direct.type(key) == b"set" else None for key in keys}


def test_a_worker_that_takes_tasks_touches_its_file_and_one_that_ended_has_none(redis_url, path):
    with poisoned(redis_url, path) as worker:
        until(path.exists)
        before = path.stat().st_mtime
        until(lambda: path.stat().st_mtime > before)
        assert path.read_text() == f"{worker.pid}\n"
        assert health("--file", str(path)).stdout == TAKES_TASKS
        assert health("--file", FIBO_READINESS_FILE=str(path)).stdout == TAKES_TASKS
        assert shell(path)

    assert not list(path.parent.iterdir())
    gone = health("--file", str(path))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "there is no worker with the readiness file" in gone.stderr
    assert not shell(path)


def test_a_worker_that_shuts_down_is_told_from_one_that_is_not_there(redis_url, path, tmp_path):
    runs = tmp_path / "runs"
    with poisoned(redis_url, path) as worker, celery_client(redis_url) as app:
        result = app.send_task("poison.count", (str(runs), 15))
        until(runs.exists)
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: not path.exists())
        assert not shell(path)
        for found in (
            health("--file", str(path)),
            health("--timeout", "0.5", CELERY_BROKER_URL=redis_url, FIBO_READINESS_FILE=str(path)),
        ):
            assert (found.returncode, found.stdout) == (1, "")
            assert "the worker is shutting down" in found.stderr
        assert result.get(timeout=30) == "done"


def test_the_file_of_a_worker_that_was_killed_is_too_old_soon(redis_url, path):
    with poisoned(redis_url, path) as worker:
        until(path.exists)
        os.killpg(worker.pid, signal.SIGKILL)
    os.utime(path, (time.time() - 31,) * 2)
    found = health("--file", str(path))
    assert found.returncode == 1
    assert "was touched 3" in found.stderr
    assert health("--file", str(path), "--max-age", "1000").stdout == TAKES_TASKS


async def test_a_worker_without_redis_does_not_touch_its_file_until_it_has_redis_again(redis_server, path):
    url = redis_server.fresh_url()
    async with (
        Proxy(redis_server.port).running() as proxy,
        worker_of(proxy.url(url), FIBO_READINESS_FILE=str(path)),
    ):
        await eventually(path.exists)
        proxy.stalled = True
        proxy.forget()
        # It would be touched every second. Until the first answer is overdue, it still is.
        await eventually(lambda: time.time() - path.stat().st_mtime > 5)
        proxy.stalled = False
        await eventually(lambda: time.time() - path.stat().st_mtime < 3, timeout=SERVES_AGAIN)


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(redis_url, path):
    with poisoned(redis_url, path / "nowhere") as worker, celery_client(redis_url) as app:
        until(lambda: "cannot be written" in worker.log.read_text())
        assert app.send_task("poison.count", (str(path), 2)).get(timeout=20) == "done"
        assert worker.log.read_text().count("cannot be written") == 1


def test_a_health_check_that_is_killed_leaves_nothing_that_stays(path):
    with RedisServer() as server, poisoned(server.url, path), server.client() as direct:
        until(lambda: health(CELERY_BROKER_URL=server.url).returncode == 0)
        before = everything(direct)

        with direct.monitor() as monitor:
            asking = subprocess.Popen(
                [*FIBO_WORKER, "health", "--hostname", "nobody@nowhere", "--timeout", "60"],
                env={**os.environ, "CELERY_BROKER_URL": server.url},
            )
            next(each for each in monitor.listen() if each["command"].startswith("PUBLISH"))
        asking.kill()
        asking.wait()
        assert everything(direct) == before


def test_a_reply_to_somebody_who_was_killed_does_not_stay(path):
    with (
        RedisServer() as server,
        poisoned(server.url, path),
        server.client() as direct,
        celery_client(server.url) as app,
        app.connection_for_write() as connection,
    ):
        mailbox = _Mailbox("celery", type="fanout", connection=connection, accept=["json"])
        mailbox._publish("ping", {}, reply_ticket="of nobody", channel=connection.default_channel)
        until(lambda: direct.llen(mailbox.oid) == 1)
        assert 0 < direct.ttl(mailbox.oid) <= 300
