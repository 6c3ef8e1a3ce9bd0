import math
import os
import signal
from pathlib import Path

import gmpy2
import pytest
import redis
from support.ca import Authority, tls_server
from support.clients import celery_client
from support.programs import wait_until_gone
from support.servers import TESTS, RedisServer, redis_binaries
from support.waiting import until

from fibo_client import contract
from fibo_worker import health
from fibo_worker.app import create_app
from fibo_worker.dev import StartError, WorkerProcess
from fibo_worker.health import UnhealthyError
from fibo_worker.settings import WorkerSettings


@pytest.fixture(scope="module")
def celery(worker):
    """Celery's own client of the worker."""
    with celery_client(worker.admin_url) as app:
        yield app


def call(celery, name, *args, **options):
    return celery.send_task(name, args=args, **options).get(timeout=20)


def test_fibo_task_answers_with_the_value_and_the_sentence(celery):
    result = celery.send_task("tasks.fibo_task", (10,))

    assert result.get(timeout=20) == [10, f"The Fibonacci calculated with task id {result.id} was 55"]


def test_fibo_task_is_exact_where_python_would_write_no_decimal_digits(celery):
    result = celery.send_task("tasks.fibo_task", (100_000,))

    n, message = result.get(timeout=20)

    assert n == 100_000
    assert message == contract.fibo_message(result.id, gmpy2.fib(100_000).digits(10))


def test_the_square_root_is_a_float(celery):
    assert call(celery, "tasks.sqrt_task", 4) == 2.0
    assert call(celery, "tasks.sqrt_task", 2) == math.sqrt(2)


@pytest.mark.parametrize("n", [0, 1, 2, 10, 93, 1_000_000])
def test_fibonacci_is_exact(celery, n):
    assert call(celery, "fibo.fibonacci", n) == gmpy2.fib(n).digits(16)


def test_the_largest_number_that_is_allowed_comes_back(celery):
    answer = call(celery, "fibo.fibonacci", contract.DEFAULT_MAX_N)

    assert gmpy2.mpz(answer, 16) == gmpy2.fib(contract.DEFAULT_MAX_N)


def test_a_chunk_answers_for_each_number(celery):
    answer = call(celery, "fibo.fibonacci_chunk", [10, -1, 1000, "x", 10])

    assert contract.decode_chunk(answer)[0] == 55
    assert answer == [
        "37",
        {"error": ["ValueError", "n must be 0 or more, not -1"]},
        gmpy2.fib(1000).digits(16),
        {"error": ["TypeError", "n must be an integer, not str"]},
        "37",
    ]


@pytest.mark.parametrize("name", ["fibo.fibonacci", "tasks.fibo_task"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "n must be 0 or more, not -1"),
        (True, TypeError, "n must be an integer, not bool"),
        (4.0, TypeError, "n must be an integer, not float"),
        ("4", TypeError, "n must be an integer, not str"),
        (10_000_001, ValueError, "n must be at most 10000000, not 10000001 (the worker's FIBO_MAX_N)"),
    ],
)
def test_a_wrong_number_fails_with_an_error_that_celerys_client_raises(celery, name, value, error, message):
    with pytest.raises(error) as caught:
        call(celery, name, value)

    assert str(caught.value) == message


def test_a_wrong_root_fails_with_an_error_that_celerys_client_raises(celery):
    with pytest.raises(ValueError, match="value must be 0 or more, not -1"):
        call(celery, "tasks.sqrt_task", -1)


def test_a_result_is_kept_as_long_as_the_settings_say(celery):
    result = celery.send_task("fibo.fibonacci", (1,))
    result.get(timeout=20)

    assert 3500 < celery.backend.client.ttl(f"celery-task-meta-{result.id}") <= 3600


def test_small_tasks_do_not_wait_in_the_hands_of_a_busy_worker(celery, worker):
    [stats] = celery.control.inspect([worker.node], timeout=5).stats().values()

    assert stats["prefetch_count"] == 2  # one for each of its processes


def test_a_worker_that_is_stopped_ends_the_task_that_runs_and_leaves_no_process_and_no_file(redis_server):
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(TESTS), "STOCK_CONF": '{"task_track_started": true}'}
    with celery_client(url) as app:
        with WorkerProcess(url, app="support.stock", env=env, concurrency=2, stop_timeout=20) as process:
            group, log = process.pid, process.log
            assert process.node.startswith("fibo@")
            assert log.exists()
            result = app.send_task("stock.sleep", (1,))
            until(lambda: result.state == "STARTED", lambda: f"it is {result.state}")

        assert result.get(timeout=0.1) == 1
    wait_until_gone({group}, timeout=1)
    assert not log.parent.exists()


def test_a_worker_with_a_limit_leaves_tasks_that_are_due_later_to_others(redis_server):
    url, env = redis_server.fresh_url(), {"CELERY_WORKER_ETA_TASK_LIMIT": "4"}
    with celery_client(url) as app, redis_server.client(url) as direct:
        for _ in range(12):
            app.send_task("fibo.fibonacci", (10,), countdown=600)
        with WorkerProcess(url, env=env, stop_timeout=0):
            until(lambda: direct.hlen("unacked") == 4)
            with WorkerProcess(url, env=env, name="other", stop_timeout=0):
                until(lambda: direct.hlen("unacked") == 8)
                assert direct.llen("celery") == 4


def test_a_worker_that_fails_to_start_shows_the_end_of_its_log(redis_server):
    with pytest.raises(StartError) as caught:
        WorkerProcess(redis_server.fresh_url(), env={"FIBO_MAX_N": "many"}).start()

    assert "worker ended at once, with status" in str(caught.value)
    assert "FIBO_MAX_N must be a whole number, 1 or more, not 'many'" in str(caught.value)


def test_a_worker_runs_on_the_interpreter_that_is_named():
    with pytest.raises(StartError, match="/nowhere/python cannot be run"):
        WorkerProcess("redis://localhost", python=Path("/nowhere/python")).start()


@pytest.mark.parametrize("path", redis_binaries().values(), ids=redis_binaries().keys())
class TestPrivateRedis:
    def test_it_answers_on_this_machine_and_keeps_nothing(self, path):
        with RedisServer(path) as server, server.client(decode_responses=True) as client:
            pid, directory = server.pid, Path(client.config_get("dir")["dir"])
            assert directory.is_dir()
            assert client.ping()
            assert client.config_get("bind")["bind"] == "127.0.0.1"
            assert client.config_get("save")["save"] == ""
            assert client.config_get("appendonly")["appendonly"] == "no"
            client.set("key", "value")

        wait_until_gone({pid}, timeout=1)
        assert not directory.exists()

    def test_a_setting_is_written_as_in_a_configuration_file(self, path, tmp_path):
        socket = tmp_path / "a socket"
        options = {"client-output-buffer-limit": "pubsub 1048576 0 0", "unixsocket": f'"{socket}"'}
        with RedisServer(path, options=options) as server, server.client(decode_responses=True) as client:
            assert "pubsub 1048576 0 0" in client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
            assert socket.is_socket()

    def test_a_password_is_wanted_where_one_is_set(self, path):
        with RedisServer(path, password="sesame") as server, server.client() as client:
            assert ":sesame@" in server.url
            assert client.ping()
            with (
                server.client(server.url.replace(":sesame@", "")) as stranger,
                pytest.raises(redis.AuthenticationError),
            ):
                stranger.ping()

    def test_a_port_that_is_taken_is_an_error_with_the_servers_own_words(self, path):
        with RedisServer(path) as first, pytest.raises(StartError, match=r"(?i)address already in use"):
            RedisServer(path, port=first.port).start()

    def test_one_that_dies_is_noticed(self, path):
        with RedisServer(path) as server:
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(StartError, match="redis has ended by itself, by signal 9"):
                server.check()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Who signed the certificate of the Redis that speaks TLS."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_port(authority):
    """The port of a Redis that speaks TLS."""
    with tls_server(authority.sign("server", "127.0.0.1"), authority.cert) as (_, port):
        yield port


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_port):
    with pytest.raises(UnhealthyError, match="certificate verify failed"):
        health.check(WorkerSettings(broker_url=f"rediss://127.0.0.1:{tls_port}/0"))


def test_a_worker_serves_over_tls_that_it_has_verified(tls_port, authority):
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={authority.cert}"
    with WorkerProcess(url, stop_timeout=0) as process, create_app(WorkerSettings(broker_url=url)) as app:
        result = app.send_task("fibo.fibonacci", (10,))
        assert result.get(timeout=20) == "37"
        result.forget()
        assert "insecure" not in process.log.read_text()
