"""Beside workers that store results in something else than a Redis, or nowhere, tasks are sent as ever."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import celery
import pytest
from celery.app.backends import BACKEND_ALIASES
from support.programs import run
from support.servers import stock_worker

from fibo_client import ConfigError, FiboClient
from fibo_client.celery import Cause, CeleryClient, RemoteTask
from fibo_client.celery.backends.unsupported import unsupported_reason

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PATIENCE = 20.0
REDIS = {"redis", "rediss", "sentinel"}
SECRET = "xyzzy"


@pytest.mark.parametrize("name", sorted(BACKEND_ALIASES))
@pytest.mark.parametrize("shape", ["{}", "{}://", "{}://u:xyzzy@h/x"])
def test_every_store_that_celery_knows_is_foreign_but_for_redis(name, shape):
    assert (unsupported_reason(shape.format(name)) is None) is (name in REDIS)


class Shop:
    """A worker whose results lie in files, with the environment that its clients share."""

    def __init__(self, broker_url: str, folder: Path) -> None:
        self.broker_url = broker_url
        self.backend = f"file://{folder}"

    def celery(self) -> celery.Celery:
        """Celery's own client."""
        return celery.Celery("contract", broker=self.broker_url, backend=self.backend, set_as_current=False)

    def fibo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        urls = {"CELERY_BROKER_URL": self.broker_url, "CELERY_RESULT_BACKEND": self.backend}
        return run(Path(sys.executable).with_name("fibo"), *arguments, **urls)


@pytest.fixture(scope="module")
def shop(redis_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(redis_server.fresh_url(), tmp_path_factory.mktemp(SECRET))
    with stock_worker(shop.broker_url, result_backend=shop.backend, name="shop"):
        yield shop


@pytest.fixture
async def client(shop, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", shop.broker_url)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", shop.backend)
    async with CeleryClient() as client:
        yield client


async def test_what_is_sent_runs_and_celerys_own_client_reads_its_result(shop, client):
    one = await client.send_task("stock.add", (2, 3))
    many = await client.send_many([RemoteTask("stock.add")(3, 4), RemoteTask("stock.add")(4, 5)])
    with shop.celery() as app:
        assert [app.AsyncResult(each.id).get(timeout=PATIENCE) for each in (one, *many)] == [5, 7, 9]
    async with FiboClient() as numbers:
        assert (await numbers.submit(5)).id


async def test_the_handle_of_what_was_sent_knows_its_id_and_revokes(shop, client):
    handle = await client.send_task("stock.sleep", (0,), countdown=600)
    with shop.celery() as app:
        assert await handle.revoke() == 1
        with pytest.raises(celery.exceptions.TaskRevokedError):
            app.AsyncResult(handle.id).get(timeout=PATIENCE)
    with pytest.raises(ConfigError, match="results are in file, and this client reads a Redis only"):
        await handle.get()
    assert "last seen PENDING" in repr(handle)


async def test_asking_for_a_result_sends_nothing_and_nothing_is_read_of_the_brokers_redis(redis_server, client):
    with redis_server.client() as direct:

        def calls():
            stats = direct.info("commandstats")
            return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("lpush", "mget", "subscribe")}

        before = calls()
        for asking in (client.call("stock.add", (2, 3)), client.result("id").get(), client.result("id").ready()):
            with pytest.raises(ConfigError):
                await asking
        assert calls() == before


async def test_a_diagnosis_tells_what_the_workers_know_and_that_no_result_can_be_read(shop, client):
    held = await client.send_task("stock.sleep", (0,), countdown=600)
    over = await client.send_task("stock.add", (2, 3))
    with shop.celery() as app:
        app.AsyncResult(over.id).get(timeout=PATIENCE)
    diagnosis = await client.diagnose(held, timeout=PATIENCE)
    assert diagnosis.cause is Cause.SCHEDULED
    assert "Its result may not come here: this client: result_backend" in str(diagnosis)
    diagnosis = await client.diagnose(over, timeout=PATIENCE)
    assert (diagnosis.cause, diagnosis.state) == (Cause.STORED_ELSEWHERE, "PENDING")
    assert "results are in file, and this client reads a Redis only" in str(diagnosis)
    assert SECRET not in str(diagnosis)
    await held.revoke()


def test_the_command_sends_and_says_that_it_can_read_no_result(shop):
    sent = shop.fibo("call", "stock.add", "--args", "[2, 3]", "--no-wait")
    assert (sent.returncode, sent.stderr) == (0, "")
    task_id = sent.stdout.strip()
    with shop.celery() as app:
        assert app.AsyncResult(task_id).get(timeout=PATIENCE) == 5
    for arguments in (["call", "stock.add", "--args", "[2, 3]"], ["result", task_id], ["compute", "5"]):
        done = shop.fibo(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "results are in file, and this client reads a Redis only" in " ".join(done.stderr.split())
        assert SECRET not in done.stderr
    diagnosed = shop.fibo("diagnose", task_id)
    assert diagnosed.returncode == 0
    assert "results are in file" in diagnosed.stdout
