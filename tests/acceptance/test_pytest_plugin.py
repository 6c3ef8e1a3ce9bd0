"""The fixtures in a suite of somebody else's, under each way to run coroutines in pytest."""

from __future__ import annotations

import re
import sys

import pytest
from support.programs import run

pytestmark = pytest.mark.timeout(120)  # One program runs six suites.

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
        assert await celery.call("proj.add", (2, 3)) == 5
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


WRONG = STRICT.replace('assert_sent_once("proj.add", 2, 3)', 'assert_sent_once("proj.add", 2, 4)')

WITHOUT = "def test_it(fake_fibo):\n    pass\n"

PYTEST_ASYNCIO = ["-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin", *ONE_LOOP_A_TEST]

SUITES = {
    "pytest-asyncio, auto": (CONFTEST, AUTO, [*PYTEST_ASYNCIO, "-o", "asyncio_mode=auto"]),
    "pytest-asyncio, strict": (CONFTEST, STRICT, [*PYTEST_ASYNCIO, "-o", "asyncio_mode=strict"]),
    "anyio": (CONFTEST, ANYIO, ["-p", "anyio.pytest_plugin"]),
    "neither": (CONFTEST, PLAIN, []),
    "a wrong assertion": (CONFTEST, WRONG, [*PYTEST_ASYNCIO, "-o", "asyncio_mode=strict"]),
    "no plugin": ("", WITHOUT, []),
}
"""A conftest.py, a suite, and pytest's options, by name."""

# Python and pytest are started once. What is under test is imported by each suite's own process.
PROGRAM = """
import os, sys, pytest

for folder in sys.argv[1:]:
    if not os.fork():
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        with open("options") as options:
            status = pytest.main(options.read().split("\\n"))
        sys.stdout.flush()
        os._exit(status)
    os.wait()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What pytest said of each suite."""
    folders = {name: tmp_path_factory.mktemp("suite") for name in SUITES}
    for name, (conftest, suite, options) in SUITES.items():
        (folders[name] / "pytest.ini").write_text("[pytest]\n")
        (folders[name] / "conftest.py").write_text(conftest)
        (folders[name] / "test_it.py").write_text(suite)
        (folders[name] / "options").write_text("\n".join(["-q", "-p", "no:cacheprovider", *options]))
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, folders.values())]
    done = run(*command, timeout=100, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert (done.returncode, done.stderr) == (0, "")
    return {name: (folder / "said").read_text() for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("suite", "passed"),
    [("pytest-asyncio, auto", 2), ("pytest-asyncio, strict", 2), ("anyio", 2), ("neither", 1)],
)
def test_the_fixtures_work_under(said, suite, passed):
    assert re.search(rf"^{passed} passed in ", said[suite], re.MULTILINE), said[suite]


def test_a_failed_assertion_shows_what_was_sent_and_no_frames_of_the_double(said):
    text = said["a wrong assertion"]
    assert "1 failed, 1 passed" in text
    assert "proj.add(2, 4) was sent 0 times, not once. What was sent (1):" in text
    assert "proj.add(2, 3)  queue='celery' expires=" in text
    assert "raise AssertionError" not in text


def test_without_the_plugin_there_are_no_such_fixtures(said):
    assert "fixture 'fake_fibo' not found" in said["no plugin"]
