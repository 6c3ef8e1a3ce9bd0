"""The fixtures in a suite of somebody else's, under each way to run coroutines in pytest."""

from __future__ import annotations

import sys

import pytest
from support.programs import run

# Left unset, pytest-asyncio warns.
ONE_LOOP_A_TEST = ["-o", "asyncio_default_fixture_loop_scope=function"]

CONFTEST = """
pytest_plugins = ["fibo_client.testing.pytest"]
"""

AUTO = """
import pytest
from fibo_client import FiboClient

@pytest.fixture
async def client(fake_fibo):
    async with FiboClient(transport=fake_fibo) as client:
        yield client

async def test_with_a_fixture_of_its_own(client, fake_fibo):
    assert await client.fibonacci(10) == 55
    assert fake_fibo.asked == [10]

async def test_with_another_double(client, fake_fibo):
    assert fake_fibo.asked == []
"""

STRICT = """
import pytest, pytest_asyncio
from fibo_client import FiboClient
from fibo_client.celery import CeleryClient

@pytest_asyncio.fixture
async def client(fake_fibo):
    async with FiboClient(transport=fake_fibo) as client:
        yield client

@pytest.mark.asyncio
async def test_with_a_fixture_of_its_own(client, fake_fibo):
    assert await client.fibonacci(10) == 55

@pytest.mark.asyncio
async def test_with_both(fake_celery, fake_fibo):
    fake_celery.task("proj.add", lambda x, y: x + y)
    async with CeleryClient(transport=fake_celery) as celery, FiboClient(transport=fake_fibo) as client:
        assert await celery.call("proj.add", 2, 3) == 5
        assert await client.fibonacci(10) == 55
    fake_celery.assert_sent_once("proj.add", 2, 3)
"""

ANYIO = f"""{AUTO}
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

PLAIN = """
import asyncio
from fibo_client import FiboClient

def test_that_is_no_coroutine(fake_fibo):
    async def ask():
        async with FiboClient(transport=fake_fibo) as client:
            return await client.fibonacci(10)

    assert asyncio.run(ask()) == 55
    assert asyncio.run(ask()) == 55
    assert fake_fibo.asked == [10, 10]
"""


def ran(tmp_path, suite, *options):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(suite)
    plugins = [part for name in ("no:cacheprovider", "no:cov") for part in ("-p", name)]
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "--rootdir", str(tmp_path), *plugins, *options]
    return run(*command, str(tmp_path))


@pytest.mark.parametrize(
    ("suite", "options", "passed"),
    [
        (AUTO, ["-o", "asyncio_mode=auto", *ONE_LOOP_A_TEST], 2),
        (STRICT, ["-o", "asyncio_mode=strict", *ONE_LOOP_A_TEST], 2),
        (ANYIO, ["-p", "no:asyncio"], 2),
        (PLAIN, ["-p", "no:asyncio", "-p", "no:anyio"], 1),
    ],
    ids=["pytest-asyncio, auto", "pytest-asyncio, strict", "anyio", "neither"],
)
def test_the_fixtures_work_under(tmp_path, suite, options, passed):
    done = ran(tmp_path, suite, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout


def test_a_failed_assertion_shows_what_was_sent_and_no_frames_of_the_double(tmp_path):
    suite = STRICT.replace('assert_sent_once("proj.add", 2, 3)', 'assert_sent_once("proj.add", 2, 4)')
    done = ran(tmp_path, suite, "-o", "asyncio_mode=strict", *ONE_LOOP_A_TEST)
    assert "1 failed, 1 passed" in done.stdout
    assert "proj.add(2, 4) was sent 0 times, not once. What was sent (1):" in done.stdout
    assert "proj.add(2, 3)  queue='celery' expires=" in done.stdout
    assert "raise AssertionError" not in done.stdout


def test_without_the_plugin_there_are_no_such_fixtures(tmp_path):
    done = ran(tmp_path, "def test_it(fake_fibo):\n    pass\n", "-p", "no:asyncio")
    assert done.returncode == 0
    (tmp_path / "conftest.py").write_text("")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    assert "fixture 'fake_fibo' not found" in run(*command, str(tmp_path)).stdout
