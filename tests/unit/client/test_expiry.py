"""When the task of a call expires, and that with ``expires=None`` it never does and is owned all the same."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from support.clock import virtual

from fibo_client import ResultTimeoutError
from fibo_client.celery import CeleryClient, CeleryConfig, RemoteTask
from fibo_client.celery.config import EXPIRY_MARGIN
from fibo_client.testing import FakeCelery

ADD = RemoteTask[[int, int], int]("proj.add")

CALLS = {
    "by its name": lambda celery, **options: celery.call("proj.add", (2, 3), **options),
    "by a reference": lambda celery, **options: celery.call(ADD, (2, 3), **options),
    "by a signature": lambda celery, **options: celery.call(ADD(2, y=3), **options),
    "of many": lambda celery, **options: celery.call_many([ADD(2, 3), ADD(2, y=3)], **options),
}


@pytest.fixture
def fake():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y)
    return fake


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_task_that_is_called_expires_after_the_deadline_unless_it_says_otherwise(fake, call):
    async with CeleryClient(transport=fake, timeout=30) as celery:
        began = datetime.now(UTC)
        await call(celery)
        deadline = timedelta(seconds=30 + EXPIRY_MARGIN)
        assert all(began + deadline <= sent.expires < began + 2 * deadline for sent in fake.sent)
        fake.sent.clear()
        await call(celery, expires=None)
        await call(celery, timeout=None)
        assert {sent.expires for sent in fake.sent} == {None}


@virtual
async def test_a_task_that_never_expires_is_cleaned_up_and_revoked_as_any_other(fake):
    fake.task("proj.slow", lambda: asyncio.sleep(100))
    async with CeleryClient(transport=fake, timeout=30) as celery:
        assert await celery.call(ADD, (2, 3), expires=None) == 5
        cancelled = asyncio.create_task(celery.call("proj.slow", expires=None))
        await asyncio.sleep(1)
        cancelled.cancel()
        with pytest.raises(ResultTimeoutError):
            await celery.call("proj.slow", expires=None, timeout=2)
        answered, given_up, late = fake.sent
    assert fake.revoked == [given_up.task_id]
    _, backend = fake.connect(CeleryConfig())
    assert await backend.get_many([answered.task_id]) == [None]
    assert late.task_id not in fake.revoked
