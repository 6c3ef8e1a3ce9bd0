"""The double, without any fixture."""

import math

import pytest
from fibo_client import PublishError
from fibo_client.celery import CeleryClient
from fibo_client.testing import FakeCelery

from proj.reports import RENDER, report


async def test_a_report_is_rendered():
    fake = FakeCelery()
    fake.task(RENDER, lambda name, pages: f"{name}-{pages}.pdf")
    async with CeleryClient(transport=fake) as celery:
        assert await report(celery, "sales", 3) == "sales-3.pdf"

    sent = fake.assert_sent_once(RENDER, "sales", 3)
    assert (sent.queue, sent.priority) == ("reports", 0)


async def test_a_report_that_fails_is_explained():
    fake = FakeCelery()
    fake.task(RENDER, raises=MemoryError("too many pages"))
    async with CeleryClient(transport=fake) as celery:
        assert await report(celery, "sales", 3) == "It could not be rendered (MemoryError)."


async def test_nobody_waits_for_ever():
    fake = FakeCelery()
    fake.task(RENDER, delay=math.inf)
    async with CeleryClient(transport=fake) as celery:
        assert await report(celery, "sales", 3, timeout=0.05) == "It takes longer than usual."


async def test_a_queue_without_a_worker_is_no_different():
    fake = FakeCelery(queues=["mail"])
    fake.task(RENDER, returns="sales.pdf")
    async with CeleryClient(transport=fake) as celery:
        assert await report(celery, "sales", 3, timeout=0.05) == "It takes longer than usual."


async def test_without_redis_the_caller_is_told():
    fake = FakeCelery()
    async with CeleryClient(transport=fake) as celery:
        with fake.redis_down(), pytest.raises(PublishError):
            await report(celery, "sales", 3)
    fake.assert_nothing_sent()
