"""Celery's protocol as others have written it: npm's celery-node calls our worker, and serves tasks to our client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import run, started

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.errors import ResultTimeoutError, TaskFailedError

PACKAGE = "celery-node@0.5.9"
HERE = Path(__file__).parent
PATIENCE = 20.0

# Installing takes some seconds, and npm tries for long where it reaches nobody.
pytestmark = pytest.mark.timeout(180)

UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Where celery-node is installed, for this session, with our two programs beside it."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here; apt install nodejs npm, or see nodejs.org")
    folder = tmp_path_factory.mktemp("node")
    options = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1")
    try:
        done = run("npm", "install", f"--prefix={folder}", *options, PACKAGE, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not fetch {PACKAGE} within two minutes; the tests need its registry")
    if any(code in done.stderr for code in UNREACHABLE):
        pytest.skip(f"npm cannot reach its registry, from which the tests need {PACKAGE}")
    assert done.returncode == 0, done.stderr
    for name in ("caller.mjs", "worker.mjs"):
        shutil.copy(HERE / name, folder)
    return folder


# celery-node calls our worker.


def test_a_caller_in_javascript_gets_every_digit_and_every_error(node, worker):
    done = run("node", str(node / "caller.mjs"), worker.admin_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (HERE / "caller.txt").read_text()


# Our client calls a worker of celery-node.


@contextlib.contextmanager
def javascript_worker(node, url, queue):
    with started("node", str(node / "worker.mjs"), url, queue) as program:
        program.wait_for("registered task")
        yield program


@pytest.fixture(scope="module")
def served(node, redis_server):
    """The URL on which a worker of celery-node takes tasks, from the queue ``js``."""
    url = redis_server.fresh_url()
    with javascript_worker(node, url, "js"):
        yield url


@pytest.fixture(params=[True, False], ids=["push", "poll"])
async def client(request, served):
    async with CeleryClient(served, queue="js", timeout=PATIENCE, push=request.param) as client:
        yield client


async def test_values_come_back(client):
    add = RemoteTask[[int, int], int]("js.add")
    assert await client.call(add, (2, 3)) == 5
    assert await client.call_many([add(n, n) for n in range(100)]) == [2 * n for n in range(100)]
    result = await client.send_task("js.echo", ["ä", None, [1.5]], {"x": True})
    assert await result.get() == ["ä", None, [1.5], {"x": True}]
    assert await result.state() == "SUCCESS"


def test_the_program_on_the_page_prints_what_it_should(served):
    done = run(sys.executable, str(HERE / "asking.py"), served, "js")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"5\n{math.factorial(30)}\n", "")


async def test_tasks_run_beside_each_other(client):
    assert await asyncio.gather(*(client.call("js.sleep", (0.2,)) for _ in range(50))) == [0.2] * 50


async def test_large_numbers_stay_exact_as_text_and_only_so(client):
    factorial = RemoteTask[[int], int]("js.factorial", decode=lambda text: int(text, 16))
    assert await client.call(factorial, (100,)) == math.factorial(100)
    assert await client.call("js.echo", (2**60 + 1,)) != [2**60 + 1, {}]


async def test_a_failure_is_raised_with_what_celery_node_stores_of_it(client):
    with pytest.raises(TaskFailedError) as caught:
        await client.call("js.fail")
    assert (caught.value.exc_type, caught.value.exc_args, caught.value.traceback) == ("Exception", (), None)
    with pytest.raises(TaskFailedError) as caught:
        await client.call("js.fail_with_text")
    assert caught.value.traceback == "no luck"
    assert caught.value.__notes__ == ["Remote traceback:\nno luck"]


async def test_what_failed_leaves_the_others_alone(client):
    calls = [(("js.fail",), ("js.add", (1, 2)))[n % 2] for n in range(20)]
    outcomes = await asyncio.gather(*itertools.starmap(client.call, calls), return_exceptions=True)
    assert outcomes[1::2] == [3] * 10
    assert all(isinstance(outcome, TaskFailedError) for outcome in outcomes[::2])


async def test_an_unknown_task_is_never_answered_and_ends_the_worker_for_all(node, redis_server):
    url = redis_server.fresh_url()
    with javascript_worker(node, url, "js") as program:
        async with CeleryClient(url, queue="js", timeout=PATIENCE) as client:
            assert await client.call("js.add", (1, 2)) == 3
            with pytest.raises(ResultTimeoutError, match="one without remote control is not seen"):
                await client.call("js.unknown", timeout=1)
            program.wait_for("Missing process handler for task js.unknown")
            with pytest.raises(ResultTimeoutError):
                await client.call("js.add", (1, 2), timeout=1)


async def test_a_priority_of_its_own_is_a_list_that_celery_node_does_not_read(client):
    with pytest.raises(ResultTimeoutError):
        await client.call("js.add", (1, 2), priority=3, timeout=1)
