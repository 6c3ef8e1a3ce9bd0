"""What a process of the pool is given, and when: a protected worker writes each task to it at once, and as a whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.clients import celery_client
from support.servers import TESTS
from support.waiting import until
from versions.conftest import python_of

from fibo_worker.dev import WorkerProcess

# The first test of a version may have to make the environment first.
pytestmark = pytest.mark.timeout(300)

PIPE = 4096
"""What the kernel writes to a pipe as a whole, or not at all."""


@pytest.fixture(scope="module")
def url(redis_server):
    return redis_server.fresh_url()


@pytest.fixture(scope="module", params=["5.5", "5.6", "5.7"])
def worker(request, url):
    env = {"PYTHONPATH": str(TESTS), "COMPARED_IS": "protected"}
    options = {"app": "support.compared", "concurrency": 2, "env": env, "python": python_of(request.param)}
    with WorkerProcess(url, **options, stop_timeout=0) as process:
        yield process


@pytest.fixture(scope="module")
def app(worker, url):
    with celery_client(url) as client:
        yield client


@pytest.mark.parametrize("size", [0, PIPE // 2, PIPE, 20 * PIPE, 1024 * 1024])
def test_a_task_of_any_size_arrives_whole(app, size):
    assert app.send_task("compared.echo", ("x" * size,), {"more": [size]}).get(timeout=20) == [
        ["x" * size],
        {"more": [size]},
    ]


def test_many_tasks_of_all_sizes_reach_few_processes_whole(app):
    texts = [str(n) * (n % 7) * 1000 for n in range(200)]
    sent = [app.send_task("compared.echo", (text,)) for text in texts]
    assert [each.get(timeout=30) for each in sent] == [[[text], {}] for text in texts]


def test_arguments_of_types_that_json_has_not_arrive_as_such(app):
    value = {"__type__": "decimal", "__value__": "1.50"}
    stored = app.send_task("compared.echo", (value, [{"deep": value}])).get(timeout=20)
    assert stored[0][0] == stored[0][1][0]["deep"]
    assert str(stored[0][0]) == "1.50"


def test_a_task_that_was_given_to_a_process_which_had_just_ended_runs_in_another_one(app, worker):
    for _ in range(5):
        had = processes(worker)
        os.kill(worker.pid, signal.SIGSTOP)  # So it learns of both at the same time.
        try:
            for pid in had:
                os.kill(pid, signal.SIGKILL)
            sent = [app.send_task("compared.echo", (n,)) for n in range(4)]
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        assert [each.get(timeout=30) for each in sent] == [[[n], {}] for n in range(4)]
        until(lambda had=had: len(processes(worker)) == 2 and not set(had) & set(processes(worker)))


def processes(worker):
    return [int(each) for each in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
