"""Jobs with tasks of any kind, on the double."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from support.clock import virtual

from fibo_client import FiboClient
from fibo_client.cli.desk import Desk
from fibo_client.cli.exits import Exit
from fibo_client.cli.tasks import call
from fibo_client.testing import FakeCelery


@pytest.fixture
def desk(tmp_path):
    return Desk(output=str(tmp_path / "answers"))


@virtual
async def test_one_timeout_is_for_sending_and_for_waiting(desk, capsys, monkeypatch):
    fake = FakeCelery()
    fake.task("tasks.slow", delay=math.inf)
    async with FiboClient(transport=fake) as client:
        publish = client.celery.engine.broker.publish

        async def slowly(route, parcels):
            await asyncio.sleep(20)
            await publish(route, parcels)

        monkeypatch.setattr(client.celery.engine.broker, "publish", slowly)
        began = asyncio.get_running_loop().time()
        status = await call(client, desk, "tasks.slow", [], {}, {}, timeout=30.0, traceback=False)
        assert asyncio.get_running_loop().time() - began < 35  # With the questions to the workers.
    assert status is Exit.NO_ANSWER
    assert re.search(r"no answer within 30(\.\d)? s from tasks\.slow", capsys.readouterr().err)


async def test_that_the_stored_answer_cannot_be_deleted_is_no_failure_of_the_call(desk, tmp_path, monkeypatch):
    fake = FakeCelery()
    fake.task("tasks.add", lambda x, y: x + y)
    async with FiboClient(transport=fake) as client:
        store = client.celery.engine.store
        delete = store.delete

        async def gone(task_ids):
            with fake.redis_down():
                await delete(task_ids)

        monkeypatch.setattr(store, "delete", gone)
        status = await call(client, desk, "tasks.add", [2, 3], {}, {}, timeout=5.0, traceback=False)
    assert status is Exit.OK
    assert (tmp_path / "answers").read_text() == "5\n"
