"""Sentinels as people list them, with the database in one of the later addresses: client and worker meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import celery
import pytest
from support.sentinels import MASTER, SentinelSet
from support.servers import stock_worker

from fibo_client.celery import CeleryClient, RedisOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
OPTIONS = {"master_name": MASTER}
CONF = {"broker_transport_options": OPTIONS, "result_backend_transport_options": OPTIONS}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """Three Sentinels, and what they watch."""
    with SentinelSet.running(tmp_path_factory.mktemp("sentinels")) as guarded:
        yield guarded


@pytest.fixture(scope="module")
def url(guarded: SentinelSet) -> Iterator[str]:
    """What a widely used chart makes of three Sentinels and a database: it stands behind the last one only.

    A plain Celery worker runs by it.
    """
    url = ";".join(f"sentinel://127.0.0.1:{each.port}" for each in guarded.sentinels) + "/1"
    with stock_worker(url, result_backend=url, conf=CONF):
        yield url


@pytest.mark.parametrize("end", ["", ";"])
async def test_client_and_worker_meet_in_the_database_that_the_first_address_says(guarded, url, end):
    async with CeleryClient(
        f"{url}{end}", f"{url}{end}", redis=RedisOptions(master_name=MASTER), timeout=PATIENCE
    ) as client:
        assert await client.call("stock.add", (2, 3)) == 5
        assert len(await client.ping()) == 1
        handle = await client.send_task("stock.add", (2, 3))
        assert await handle.get() == 5
    with celery.Celery("contract", broker=url, backend=url, set_as_current=False) as app:
        app.conf.update(CONF)
        assert app.AsyncResult(handle.id).get(timeout=PATIENCE) == 5
        assert app.send_task("stock.add", (3, 4)).get(timeout=PATIENCE) == 7
        app.backend.result_consumer.stop()
    with guarded.master.client() as direct:
        assert set(direct.info("keyspace")) == {"db0"}
