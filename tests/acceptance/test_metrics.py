"""The worker's metrics, scraped by HTTP from real workers, after tasks that did what tasks do."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.acl import CLIENT, WORKER, make_users, refusals
from support.clients import celery_client
from support.pools import POOLS, without
from support.programs import FIBO_WORKER, run, started, wait_until_gone
from support.servers import TESTS, RedisServer, free_port
from support.waiting import until

from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.prometheus import BUCKETS, REDIS_TIMEOUT

PAGE = TESTS.parent / "docs" / "how-to" / "trace-and-measure.md"
REFERENCE = TESTS.parent / "docs" / "reference" / "telemetry.md"


class Scraped:
    """One answer of a worker: its samples by name and labels."""

    def __init__(self, port: int, path: str = "/metrics") -> None:
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            text = answer.read().decode()
        self.seconds = time.monotonic() - began
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.names = {name for name, _ in self.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"fibo_worker_{name}", frozenset(labels.items())))

    def tasks(self, task: str) -> dict[str, float]:
        """How many tasks of a name ended, by state, without those that are zero."""
        return {
            dict(labels)["state"]: count
            for (name, labels), count in self.samples.items()
            if name == "fibo_worker_tasks_total" and ("task", task) in labels and count
        }


def scraped_when(port, true, timeout=30):
    """Scrape until something is true of it."""
    return until(lambda: true(found := Scraped(port)) and found, lambda: f"it is {Scraped(port).samples}")


@contextmanager
def measured(url, *, app="support.poisoned", env=(), **options):
    port = free_port()
    env = {"PYTHONPATH": str(TESTS), "FIBO_METRICS_PORT": str(port), **dict(env)}
    with WorkerProcess(url, app=app, env=env, stop_timeout=0, **options) as worker:
        yield worker, port


@pytest.fixture(scope="module")
def worker(server):
    """A worker with two processes, which may do what the security page allows."""
    urls = make_users(server, db := server.fresh_db())
    with measured(urls[WORKER], concurrency=2) as (process, port):
        yield process, port, urls[CLIENT], server.database(db)
    assert refusals(server, WORKER) == []  # dead letters included


@pytest.fixture
def port(worker):
    return worker[1]


@pytest.fixture
def celery(worker):
    with celery_client(worker[3]) as app:
        yield app


def test_tasks_are_counted_by_name_and_state_and_measured(celery, port):
    before = Scraped(port)
    for value in (4, 9, -1):
        celery.send_task("tasks.sqrt_task", (value,)).get(timeout=20, propagate=False)
    found = scraped_when(port, lambda found: sum(found.tasks("tasks.sqrt_task").values()) == 3)

    assert before("tasks_total", task="tasks.sqrt_task", state="SUCCESS") == 0
    assert before("task_duration_seconds_count", task="tasks.sqrt_task") == 0
    assert found.tasks("tasks.sqrt_task") == {"SUCCESS": 2, "FAILURE": 1}
    assert found("task_duration_seconds_count", task="tasks.sqrt_task") == 3
    assert 0 < found("task_duration_seconds_sum", task="tasks.sqrt_task") < 3
    counts = [found("task_duration_seconds_bucket", task="tasks.sqrt_task", le=str(float(each))) for each in BUCKETS]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_how_long_a_task_ran_is_what_its_process_measured(celery, port, tmp_path):
    celery.send_task("poison.count", (str(tmp_path / "log"), 0.3)).get(timeout=20)
    found = scraped_when(port, lambda found: found.tasks("poison.count"))
    assert 0.3 <= found("task_duration_seconds_sum", task="poison.count") < 3


def test_a_task_that_was_revoked_is_counted_as_such(celery, port):
    celery.send_task("fibo.fibonacci", (10,), expires=-1)
    found = scraped_when(port, lambda found: found.tasks("fibo.fibonacci").get("REVOKED"))
    assert found.tasks("fibo.fibonacci") == {"REVOKED": 1}


def test_a_task_that_nobody_registered_is_counted_without_its_name(celery, port):
    celery.send_task("made.up.by.somebody", ())
    found = scraped_when(port, lambda found: found.tasks("(not registered)"))
    assert found.tasks("(not registered)") == {"FAILURE": 1}
    assert not found.tasks("made.up.by.somebody")


def test_a_task_that_gives_its_message_back_is_counted_each_time(celery, port, tmp_path):
    assert celery.send_task("poison.give_back", (str(tmp_path / "n"), 2)).get(timeout=20) == 2
    found = scraped_when(port, lambda found: found.tasks("poison.give_back").get("SUCCESS"))
    assert found.tasks("poison.give_back") == {"REJECTED": 2, "SUCCESS": 1}


def test_a_task_that_is_killed_at_its_time_limit_failed_once(celery, port):
    celery.send_task("poison.deaf", soft_time_limit=0.5, time_limit=1).get(timeout=30, propagate=False)
    celery.send_task("fibo.fibonacci_chunk", ([1],)).get(timeout=30)
    found = scraped_when(port, lambda found: found.tasks("fibo.fibonacci_chunk"))
    assert found.tasks("poison.deaf") == {"FAILURE": 1}
    assert 1 <= found("task_duration_seconds_sum", task="poison.deaf") < 10


def test_a_task_that_twice_takes_its_process_with_it_was_lost_twice_and_is_a_dead_letter(celery, port):
    before = Scraped(port)
    celery.send_task("poison.kill").get(timeout=40, propagate=False)
    found = scraped_when(port, lambda found: found.tasks("poison.kill").get("LOST") == 2, timeout=40)
    assert found.tasks("poison.kill") == {"LOST": 2}
    found = scraped_when(port, lambda found: found("dead_letters_total", queue="celery") == 1)
    assert before("dead_letters_total", queue="celery") == 0
    assert found("dead_letters_kept", queue="celery") == 1


def test_a_message_that_cannot_be_run_is_a_dead_letter(server, worker, port):
    before = Scraped(port)
    with server.client(worker[3]) as direct:
        direct.lpush("celery", b"{")
        direct.lpush("celery", b"[]")
    counts = ("dead_letters_total", "dead_letters_kept")
    found = scraped_when(port, lambda found: found(counts[0], queue="celery") == before(counts[0], queue="celery") + 2)
    assert found(counts[1], queue="celery") == before(counts[1], queue="celery") + 2


@pytest.mark.parametrize("pool", POOLS[1:])
def test_pools_without_processes_are_counted_likewise(server, pool):
    url = server.fresh_url()
    with measured(url, app="fibo_worker.app", env=without(pool), pool=pool) as (_, port), celery_client(url) as celery:
        celery.send_task("tasks.sqrt_task", (-1,)).get(timeout=20, propagate=False)
        celery.send_task("tasks.sqrt_task", (4,)).get(timeout=20)
        found = scraped_when(port, lambda found: found.tasks("tasks.sqrt_task").get("SUCCESS"))
        assert found.tasks("tasks.sqrt_task") == {"SUCCESS": 1, "FAILURE": 1}
        assert found("task_duration_seconds_count", task="tasks.sqrt_task") == 2


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A worker that is at a task for longer than the tests take, by a Redis of its own."""
    log = tmp_path_factory.mktemp("busy") / "log"
    with (
        RedisServer(port=free_port()) as server,
        measured(server.url, queues=["one", "two"]) as (_, port),
        celery_client(server.url) as celery,
    ):
        celery.send_task("poison.count", (str(log), 600), queue="one")
        scraped_when(port, lambda found: found("tasks_running") == 1)  # It fetches no other meanwhile.
        yield server, port


def test_messages_that_wait_are_counted_by_queue_and_priority(busy):
    server, port = busy
    with celery_client(server.url) as celery:
        celery.send_task("tasks.sqrt_task", (4,), queue="one")
        for priority, count in ((0, 3), (9, 2)):
            for _ in range(count):
                celery.send_task("tasks.sqrt_task", (4,), queue="two", priority=priority)
    found = scraped_when(port, lambda found: found("queue_messages", queue="two", priority="9") == 2)
    assert found("queue_messages", queue="two", priority="0") == 3
    assert found("queue_messages", queue="two", priority="3") == 0
    assert found("queue_messages", queue="one", priority="0") == 1
    assert found("dead_letters_kept", queue="two") == 0


def test_a_redis_that_hangs_leaves_its_metrics_out_and_holds_up_neither_scrapes_nor_counts(busy):
    server, port = busy
    assert "fibo_worker_queue_messages" in Scraped(port).names
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            found = Scraped(port)
            assert found.seconds < 10 * REDIS_TIMEOUT
            assert "fibo_worker_queue_messages" not in found.names
            assert found("tasks_total", task="tasks.sqrt_task", state="SUCCESS") is not None
    finally:
        os.kill(server.pid, signal.SIGCONT)
    scraped_when(port, lambda found: "fibo_worker_queue_messages" in found.names)


def test_metrics_come_back_after_redis_went_away(busy):
    server, port = busy
    server.stop()
    scraped_when(port, lambda found: "fibo_worker_queue_messages" not in found.names)
    server.start()
    scraped_when(port, lambda found: "fibo_worker_queue_messages" in found.names)


def test_what_is_served_is_about_the_main_process_and_only_on_this_machine(worker, port):
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= Scraped(port).names
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5)


def test_the_reference_has_every_metric_with_its_labels(port):
    served = {}
    for name, labels in Scraped(port).samples:
        if name.startswith("fibo_worker_") and not name.endswith(("_created", "_bucket", "_sum")):
            served[name.removesuffix("_count")] = {label for label, _ in labels}
    table = re.findall(r"^\| `(fibo_worker_\w+)(?:\{([\w,]+)\})?` ", REFERENCE.read_text(), re.MULTILINE)
    assert {name: set(labels.split(",")) if labels else set() for name, labels in table} == served


def test_the_how_to_page_scrapes_the_port_that_it_starts_and_names_metrics_that_there_are(port):
    text = PAGE.read_text()
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (job,) = yaml.safe_load(config)["scrape_configs"]
    (started_on,) = re.findall(r"fibo-worker start --metrics-port (\d+)", text)
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{started_on}"]}]
    assert set(re.findall(r"fibo_worker_\w+", text)) <= Scraped(port).names


def test_start_serves_metrics_until_it_ends_and_says_where(redis_url):
    port = free_port()
    command = (*FIBO_WORKER, "start", "-c", "1", "--metrics-port", str(port), "--", "--without-mingle")
    with started(*command, env={"CELERY_BROKER_URL": redis_url}) as program:
        program.wait_for(" ready.")
        assert f"metrics are served on http://127.0.0.1:{port}/metrics" in program.text
        assert "fibo_worker_queue_messages" in Scraped(port).names
        below = program.descendants()
        assert program.end(signal.SIGTERM) == 0
    with pytest.raises(urllib.error.URLError):
        Scraped(port)
    wait_until_gone(below, timeout=5)


def test_the_processes_of_the_pool_do_not_listen(worker):
    """Else a scrape could end up, and hang, in one that is left over while the worker stops."""
    process, port, *_ = worker
    assert listeners(process.pid, port) == 1
    first = set(children(process.pid))
    for pid in first:
        os.kill(pid, signal.SIGKILL)  # Those that replace them are forked while it is served.

    def are_replaced_and_do_not_listen():
        now = children(process.pid)
        return not first & set(now) and [listeners(pid, port) for pid in now] == [0, 0]

    until(are_replaced_and_do_not_listen)


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listeners(pid, port):
    """How many sockets a process has that listen on a port."""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"}
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # It was closed meanwhile.
            count += str(link.readlink()) in sockets
    return count


def test_celerys_own_command_ends_with_a_reason_if_the_port_is_in_use(redis_url, port):
    command = (sys.executable, "-m", "celery", "-A", "fibo_worker.app", "worker", "-c", "1", "-l", "INFO")
    done = run(*command, CELERY_BROKER_URL=redis_url, FIBO_METRICS_PORT=str(port))
    assert done.returncode == 1
    assert f"the metrics cannot be served on 127.0.0.1:{port}: the port is in use" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_a_client_that_says_nothing_is_hung_up_on(worker):
    _, port, *_ = worker
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        assert silent.recv(1) == b""
