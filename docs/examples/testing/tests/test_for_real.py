"""A Redis and a worker of our own tasks."""

from fibo_client.celery import CeleryClient

from proj.reports import report


async def test_a_report_is_rendered(real_url):
    async with CeleryClient(real_url) as celery:
        assert await report(celery, "sales", 3) == "sales.pdf"
        assert await report(celery, "sales", 0) == "It could not be rendered (ValueError)."
