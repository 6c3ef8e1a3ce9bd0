"""What a worker of Celery 5.2 does not do, and why 5.3 is the oldest version that is supported."""

import datetime as dt
import uuid

import pytest
from versions.conftest import PATIENCE

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

pytestmark = pytest.mark.timeout(300)

RETRY = RemoteTask[[int], int]("hosted.retry")


@pytest.fixture
async def celery(worker_of_5_2):
    async with CeleryClient(worker_of_5_2.url, timeout=PATIENCE) as client:
        yield client


async def test_a_task_that_expires_is_lost_when_it_retries(celery, worker_of_5_2):
    handle = await celery.send_task("hosted.retry", (1,), expires=600)
    assert await celery.call("stock.add", (2, 3)) == 5  # The worker has one process: the first try is over.
    inspect = celery.inspect(timeout=PATIENCE)
    held = [(await ask())[worker_of_5_2.node] for ask in (inspect.scheduled, inspect.reserved, inspect.active)]
    assert handle.id not in str(held)
    assert await handle.state() == "PENDING"
    assert (
        "TypeError(\"'<' not supported between instances of 'str' and 'int'\")" in worker_of_5_2.process.log.read_text()
    )


async def test_a_call_that_never_expires_gets_the_answer_of_a_task_that_retries(celery):
    assert await celery.call("hosted.retry", (2,), expires=None) == 2
    assert await celery.call_many([RETRY(1), RETRY(2)], expires=None) == [1, 2]


async def test_celerys_json_types_are_not_known(celery):
    assert await celery.call("hosted.kinds", (dt.date(2026, 1, 2), b"abc")) == ["dict", "dict"]
    assert await celery.call("hosted.typed") == ["2026-01-02T00:00:00", "1.50", str(uuid.UUID(int=5))]
    with pytest.raises(TaskFailedError, match="EncodeError"):
        await celery.call("stock.types")


async def test_it_answers_what_it_is_asked(celery, worker_of_5_2):
    node, inspect = worker_of_5_2.node, celery.inspect(timeout=PATIENCE)
    assert [each.name for each in await celery.ping(timeout=PATIENCE)] == [node]
    assert await inspect.active() == {node: []}
    assert "stock.add" in (await inspect.registered())[node]
