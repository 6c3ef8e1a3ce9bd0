import re
import signal
import sys

import pytest
from support.clients import celery_client
from support.programs import FIBO_WORKER, alive, gone, run, started

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def fibonacci(url, n):
    """Ask a worker with Celery's own client."""
    with celery_client(url) as app:
        return app.send_task("fibo.fibonacci", (n,)).get(timeout=20)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
def test_dev_serves_until_a_signal_and_leaves_nothing(sig):
    with started(*FIBO_WORKER, "dev") as program:
        said = program.wait_for("Ctrl-C stops both.")
        url = re.search(r"export CELERY_BROKER_URL=(redis://127\.0\.0\.1:\d+/0)\n", said)[1]
        assert f'FiboClient("{url}")' in said
        assert fibonacci(url, 10) == "37"
        program.wait_for("succeeded in")  # the worker's log is shown
        below = program.descendants()
        assert len(below) >= 6  # Redis, a worker with two processes, and a guard for each of the two

        assert program.end(sig) == 0

    assert gone(below, timeout=1)
    assert "Traceback" not in program.text
    assert program.text.endswith("Stopped.\n")


def test_dev_stops_cleanly_also_while_it_is_still_starting():
    with started(*FIBO_WORKER, "dev") as program:
        while len(below := program.descendants()) < 4:
            assert program.process.poll() is None

        assert program.end(signal.SIGTERM) == 0

    assert gone(below, timeout=2)
    assert "Traceback" not in program.text


def test_nothing_survives_dev_even_if_it_is_killed():
    with started(*FIBO_WORKER, "dev") as program:
        program.wait_for("Ctrl-C stops both.")
        below = program.descendants()
        assert alive(below) == below

        assert program.end(signal.SIGKILL) == -signal.SIGKILL

    assert gone(below, timeout=15)


def test_dev_says_which_port_is_taken(redis_server):
    done = run(*FIBO_WORKER, "dev", "--port", str(redis_server.port))

    assert done.returncode == 1
    assert "ddress already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_start_and_celerys_own_command_serve_and_end_on_sigterm(redis_server):
    own = (*FIBO_WORKER, "start", "-c", "1", "-n", "own@%h", "--", "--without-mingle", "--without-gossip")
    celerys = (sys.executable, "-m", "celery", "-A", "fibo_worker.app", "worker", "-c", "1", "-l", "INFO")
    for command in (own, celerys):
        url = redis_server.fresh_url()
        with started(*command, env={"CELERY_BROKER_URL": url}) as program:
            said = program.wait_for(" ready.")
            assert ("own@" in said) == (command is own)
            assert fibonacci(url, 10) == "37"
            below = program.descendants()

            assert program.end(signal.SIGTERM) == 0

        assert gone(below, timeout=1)


def test_health_is_0_if_a_worker_answers_and_names_it(worker):
    done = run(*FIBO_WORKER, "health", "--timeout", "10", CELERY_BROKER_URL=worker.admin_url)

    assert (done.returncode, done.stdout) == (0, f"{worker.node} answered\n")
    done = run(*FIBO_WORKER, "health", "--timeout", "10", "-n", worker.node, CELERY_BROKER_URL=worker.admin_url)
    assert (done.returncode, done.stdout) == (0, f"{worker.node} answered\n")


def test_health_is_1_if_the_worker_that_must_answer_does_not(worker):
    done = run(*FIBO_WORKER, "health", "--timeout", "0.5", "-n", "other@host", CELERY_BROKER_URL=worker.admin_url)

    assert done.returncode == 1
    assert "no worker named other@host answered" in done.stderr


def test_health_that_hangs_where_no_timeout_reaches_is_ended_and_says_where():
    program = (
        "import time; from fibo_worker import cli, health\n"
        "health.check = lambda *_, **__: time.sleep(300)\n"
        "cli._GRACE = 0.1\n"
        "cli.main(['health', '--timeout', '0.1'])"
    )
    done = run(sys.executable, "-c", program)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Timeout (0:00:00.200000)!")
    assert "in <lambda>" in done.stderr


def test_health_is_1_if_there_is_a_redis_but_no_worker(redis_url):
    done = run(*FIBO_WORKER, "health", "--timeout", "0.5", CELERY_BROKER_URL=redis_url)

    assert done.returncode == 1
    assert "can be reached, but no worker answered in 0.5 seconds" in done.stderr
    assert "fibo-worker start" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1:1", "name.invalid"])
def test_health_is_1_if_there_is_no_redis_and_no_password_is_shown(host):
    done = run(*FIBO_WORKER, "health", "--timeout", "2", CELERY_BROKER_URL=f"redis://:sesame@{host}/0")

    assert done.returncode == 1
    assert re.search(r"^Error: the broker redis://:\*\*@\S+ cannot be reached: ", done.stderr)
    assert "CELERY_BROKER_URL says where Redis is" in done.stderr
    assert "sesame" not in done.stderr
    assert "Traceback" not in done.stderr


def check_demo(done):
    assert done.returncode == 0, done.stderr
    found = re.findall(
        rf"^Value \[(\d+)\] -> The Fibonacci calculated with task id {UUID} was (\d+)$",
        done.stdout,
        re.MULTILINE,
    )
    assert found == [("4", "3"), ("3", "2"), ("8", "21"), ("6", "8"), ("10", "55")]
    assert "The square root of 4 is 2.0" in done.stdout
    assert "300 of 300 answers right" in done.stdout


def test_demo_does_the_whole_job_with_servers_of_its_own():
    check_demo(run(*FIBO_WORKER, "demo", "--batch", "300"))


def test_demo_uses_the_redis_that_is_named_and_takes_no_task_from_its_usual_queue(redis_server, redis_url):
    with redis_server.client(redis_url) as client:
        client.lpush("celery", "somebody else's task")

        check_demo(run(*FIBO_WORKER, "demo", "--batch", "300", CELERY_BROKER_URL=redis_url))

        assert client.lrange("celery", 0, -1) == [b"somebody else's task"]


def test_demo_stops_cleanly_at_ctrl_c():
    with started(*FIBO_WORKER, "demo", "--batch", "10000000") as program:
        program.wait_for("The square root of 4")
        below = program.descendants()

        assert program.end(signal.SIGINT) == 130

    assert gone(below, timeout=1)
    assert "Traceback" not in program.text
