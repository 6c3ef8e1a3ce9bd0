"""A private Redis and a worker of somebody's own app, for the time of a block."""

from __future__ import annotations

import pytest
from support.programs import wait_until_gone

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient
from fibo_worker.dev import StartError, running

APP = """
from celery import Celery

app = Celery("mine", broker="redis://nowhere.invalid/0", backend="redis://nowhere.invalid/1")
app.conf.worker_log_format = '{"said": "%(message)s"}'


@app.task(name="mine.double", shared=False)
def double(x):
    return 2 * x
"""


@pytest.fixture
def own_app(tmp_path, monkeypatch):
    (tmp_path / "mine_only_here.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_only_here"


async def test_the_worker_hosts_what_can_be_imported_here_whatever_the_apps_own_settings(own_app):
    with running(app=own_app, queue="mine", concurrency=1) as here:
        async with CeleryClient(here.url, queue=here.queue, timeout=20) as celery:
            assert await celery.call("mine.double", (21,)) == 42
            (worker,) = await celery.ping()
            assert worker.name == here.worker.node
        pids = {here.worker.pid, here.redis.pid}
    wait_until_gone(pids, 10)


async def test_without_an_app_it_is_the_fibonacci_worker(redis_url):
    with running(redis_url, concurrency=1) as here:
        assert here.redis is None
        async with FiboClient(redis_url, timeout=20) as client:
            assert await client.fibonacci(10) == 55


def test_an_app_that_cannot_be_imported_is_named_with_what_the_worker_said(redis_url):
    told = r"(?s)worker ended at once.*The module not_there was not found"
    with pytest.raises(StartError, match=told), running(redis_url, app="not_there"):
        pytest.fail("it started")


def test_without_a_redis_server_the_error_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("FIBO_REDIS_SERVER", "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("fibo_worker.dev.embedded_redis_server", lambda: None)
    with pytest.raises(StartError, match="apt install redis-server"), running():
        pytest.fail("it started")
