import os
import re
import socket
import subprocess
import sys
from unittest.mock import Mock

import pytest
from support.fibo import fibo_worker as invoke
from support.servers import free_port

from fibo_worker import __version__
from fibo_worker.app import create_app
from fibo_worker.dev import StartError
from fibo_worker.settings import WorkerSettings


@pytest.fixture
def started(monkeypatch):
    """The calls of `os.execve`, none of which replaces this process."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, env: calls.append((path, arguments, env)))
    return calls


@pytest.mark.parametrize("command", ["start", "dev", "demo", "health", "dead"])
def test_every_command_explains_itself(command):
    result = invoke(command, "--help")

    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command}")


def test_the_version_is_that_of_the_package():
    assert invoke("--version").output == f"fibo-worker {__version__}\n"


def test_help_does_not_wait_for_celery_or_redis():
    heavy = {"celery", "kombu", "redis", "gmpy2", "fibo_client"}
    program = (
        "import sys; from fibo_worker.cli import main; main(['--help'], standalone_mode=False);"
        f"print(*{heavy} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Usage" in done.stdout
    assert done.stderr.strip() == ""


def test_start_runs_celerys_worker_on_our_app(started):
    assert invoke("start").exit_code == 0

    [(path, arguments, _)] = started
    assert path == sys.executable
    assert arguments[1:] == ["-m", "celery", "-A", "fibo_worker.app", "worker", "--loglevel", "INFO"]


def test_start_hands_its_options_and_what_follows_two_dashes_to_celery(started):
    invoke("start", "-c", "3", "--queues", "a,b", "-l", "debug", "-n", "w@%h", "--", "--pool", "threads", "-E")

    [(_, arguments, _)] = started
    assert arguments[6:] == (
        [
            "--loglevel",
            "DEBUG",
            "--concurrency",
            "3",
            "--queues",
            "a,b",
            "--hostname",
            "w@%h",
            "--pool",
            "threads",
            "-E",
        ]
    )


def test_start_hands_the_port_for_metrics_to_the_worker_by_the_environment(started):
    port = str(free_port())
    assert invoke("start", "--metrics-port", port, "--metrics-host", "127.0.0.2", FIBO_METRICS_PORT="1").exit_code == 0

    [(_, arguments, env)] = started
    assert (env["FIBO_METRICS_PORT"], env["FIBO_METRICS_HOST"]) == (port, "127.0.0.2")
    assert port not in arguments


def test_a_port_for_metrics_that_is_in_use_is_said_before_the_worker_starts(started):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = invoke("start", "--metrics-port", str(port))

    assert (done.exit_code, started) == (1, [])
    assert done.stderr == (
        f"Error: the metrics cannot be served on 127.0.0.1:{port}: the port is in use; "
        "each worker needs one of its own (--metrics-port, FIBO_METRICS_PORT)\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "name.invalid"])
def test_an_address_of_another_machine_is_said_before_the_worker_starts(started, monkeypatch, host):
    if host == "name.invalid":  # Asked for no name server.
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    done = invoke("start", "--metrics-port", "9808", "--metrics-host", host)

    assert (done.exit_code, started) == (1, [])
    assert f"cannot be served on {host}:9808: this machine has no such address" in done.stderr


def test_start_names_the_extra_that_metrics_need_and_nothing_else_needs_it(started, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "fibo_worker.guard.prometheus", raising=False)
    done = invoke("start", "--metrics-port", "9808")

    assert (done.exit_code, started) == (1, [])
    assert done.stderr == (
        "Error: FIBO_METRICS_PORT and --metrics-port need prometheus-client; "
        "get it with: pip install 'fibo-worker[metrics]'\n"
    )
    assert invoke("start").exit_code == 0
    assert create_app(WorkerSettings())


def test_start_lets_no_other_variable_win_over_ours(started):
    invoke("start", CELERY_BROKER_URL="redis://ours", BROKER_URL="redis://other", RESULT_BACKEND="redis://other")

    [(_, _, env)] = started
    assert env["CELERY_BROKER_URL"] == "redis://ours"
    assert "redis://other" not in env.values()


@pytest.mark.parametrize("command", ["start", "demo", "health", "dead list"])
def test_a_wrong_variable_is_said_plainly_with_status_2(monkeypatch, command):
    # The app reads the variables when it is imported, which another test may have done. Here it would say so itself.
    for name in ("fibo_worker.app", "fibo_worker.health"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    result = invoke(*command.split(), FIBO_MAX_N="many")

    assert result.exit_code == 2
    assert "Error: FIBO_MAX_N must be a whole number, 1 or more, not 'many'" in result.output


@pytest.mark.parametrize("host", ["127.0.0.1:1", "name.invalid"])
def test_health_is_1_if_there_is_no_redis_and_no_password_is_shown(host):
    result = invoke("health", "--timeout", "2", CELERY_BROKER_URL=f"redis://:sesame@{host}/0")

    assert result.exit_code == 1
    assert re.search(r"^Error: the broker redis://:\*\*@\S+ cannot be reached: ", result.stderr)
    assert "CELERY_BROKER_URL says where Redis is" in result.stderr
    assert "sesame" not in result.output


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("x", "'x' is not a whole number"),
        ("1.5", "'1.5' is not a whole number"),
        ("-4", "n must be 0 or more, not -4"),
        ("10000001", "n must be at most 10000000, not 10000001"),
        ("--unknown", "'--unknown' is not a whole number"),
    ],
)
def test_the_demo_refuses_what_is_no_index_with_status_2(number, message):
    result = invoke("demo", "4", number)

    assert result.exit_code == 2
    assert f"Error: {message}" in result.output


@pytest.mark.parametrize(("url", "queue"), [("", "celery"), ("redis://theirs/0", "fibo.demo")])
def test_the_demo_leaves_the_usual_queue_of_a_redis_that_is_named_alone(monkeypatch, url, queue):
    asked = []

    def running(*arguments, **options):
        asked.append((arguments, options["queue"]))
        raise StartError("it is not to start")

    monkeypatch.setattr("fibo_worker.demo.running", running)

    assert invoke("demo", CELERY_BROKER_URL=url).exit_code == 1
    assert asked == [((url or None,), queue)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "-c", "0"],
        ["dev", "--port", "70000"],
        ["demo", "--batch", "0"],
        ["health", "--timeout", "0"],
        ["stop"],
        ["dead", "show"],
        ["dead", "requeue"],
        ["dead", "requeue", "--all", "1"],
    ],
)
def test_wrong_arguments_are_refused_with_status_2(arguments):
    result = invoke(*arguments)

    assert result.exit_code == 2
    assert "Error: " in result.output


def test_without_a_server_dev_says_how_to_get_one(monkeypatch):
    from fibo_worker import dev

    monkeypatch.setattr(dev, "embedded_redis_server", lambda: None)

    result = invoke("dev", PATH="/nonexistent", FIBO_REDIS_SERVER="")

    assert result.exit_code == 1
    assert "No Redis server was found" in result.output
    assert "Traceback" not in result.output
