"""Fixtures for pytest: ``pytest_plugins = ["fibo_client.testing.pytest"]`` in the topmost ``conftest.py``.

They are plain functions, bound to no event loop: a test, or a fixture of your own, opens a client on the double in its
own loop. They work with pytest-asyncio in both of its modes, with anyio's plugin, and in tests that are no coroutines,
such as those with Starlette's ``TestClient``.
"""

from __future__ import annotations

import pytest

from fibo_client.testing.fake import FakeCelery, FakeFibo

__all__ = ["fake_celery", "fake_fibo"]


@pytest.fixture
def fake_celery() -> FakeCelery:
    """Give a Redis and a Celery worker in memory: ``CeleryClient(transport=fake_celery)``."""
    return FakeCelery()


@pytest.fixture
def fake_fibo() -> FakeFibo:
    """Give a Redis and a Fibonacci worker in memory: ``FiboClient(transport=fake_fibo)``."""
    return FakeFibo()
