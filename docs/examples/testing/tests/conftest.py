import pytest
from fibo_client.celery import CeleryClient
from fibo_worker.dev import running

pytest_plugins = ["fibo_client.testing.pytest"]


@pytest.fixture
async def celery(fake_celery):
    """A client, open, of the double."""
    async with CeleryClient(transport=fake_celery) as client:
        yield client


@pytest.fixture(scope="session")
def real_url():
    """The URL of a Redis with a worker of our own tasks. Both are there for the whole session."""
    with running(app="proj.tasks", queue="reports") as here:
        yield here.url
