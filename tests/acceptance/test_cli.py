"""``fibo-worker`` as a person uses it."""

import contextlib
import re
import signal
import sys

import pytest
from support.clients import celery_client
from support.fibo import fibo_worker
from support.programs import FIBO_WORKER, alive, run, started, wait_until_gone
from support.waiting import until

pytestmark = pytest.mark.timeout(180)  # Servers start and end, each in a second or two where nothing else happens.

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def fibonacci(url, n):
    """Ask a worker with Celery's own client."""
    with celery_client(url) as app:
        return app.send_task("fibo.fibonacci", (n,)).get(timeout=50)


def test_dev_serves_until_ctrl_c_and_leaves_nothing():
    with started(*FIBO_WORKER, "dev") as program:
        said = program.wait_for("Ctrl-C stops both.")
        url = re.search(r"export CELERY_BROKER_URL=(redis://127\.0\.0\.1:\d+/0)\n", said)[1]
        assert f'FiboClient("{url}")' in said
        assert fibonacci(url, 10) == "37"
        program.wait_for("succeeded in")  # the worker's log is shown
        below = program.descendants()
        assert len(below) >= 6  # Redis, a worker with two processes, and a guard for each of the two

        assert program.end(signal.SIGINT) == 0

    wait_until_gone(below, timeout=10)
    assert "Traceback" not in program.text
    assert program.text.endswith("Stopped.\n")


def test_dev_stops_cleanly_also_while_it_is_still_starting():
    with started(*FIBO_WORKER, "dev") as program:
        below = until(lambda: len(found := program.descendants()) >= 4 and found, lambda: program.text)

        assert program.end(signal.SIGTERM) == 0

    wait_until_gone(below, timeout=20)
    assert "Traceback" not in program.text


def test_no_private_server_survives_a_program_that_is_killed():
    serve = (
        "import signal; from fibo_worker.dev import PrivateRedis\nwith PrivateRedis(): print('ready'); signal.pause()"
    )
    with started(sys.executable, "-c", serve) as program:
        program.wait_for("ready")
        below = program.descendants()
        assert len(alive(below)) == 2  # Redis, and its guard

        assert program.end(signal.SIGKILL) == -signal.SIGKILL

    wait_until_gone(below, timeout=60)


def test_start_and_celerys_own_command_serve_and_end_on_sigterm(redis_server):
    alone = ("--without-mingle", "--without-gossip")  # Else each waits for greetings of others.
    own = (*FIBO_WORKER, "start", "-c", "1", "-n", "own@%h", "--", *alone)
    celerys = (sys.executable, "-m", "celery", "-A", "fibo_worker.app", "worker", "-c", "1", "-l", "INFO", *alone)
    commands = {command: redis_server.fresh_url() for command in (own, celerys)}
    with contextlib.ExitStack() as stack:
        programs = []
        for command, url in commands.items():
            env = {"CELERY_BROKER_URL": url, "FIBO_MAX_N": "10"}
            programs.append(stack.enter_context(started(*command, env=env)))
        below = set()
        for program, (command, url) in zip(programs, commands.items(), strict=True):
            said = program.wait_for(" ready.")
            assert ("own@" in said) == (command is own)
            assert fibonacci(url, 10) == "37"
            with pytest.raises(ValueError, match=r"n must be at most 10, not 11 \(the worker's FIBO_MAX_N\)"):
                fibonacci(url, 11)
            below |= program.descendants()
        for program in programs:
            program.process.send_signal(signal.SIGTERM)
        assert [program.process.wait(60) for program in programs] == [0, 0]
    wait_until_gone(below, timeout=10)


def test_health_is_0_if_a_worker_answers_and_names_it(worker):
    for which in ((), ("-n", worker.node)):
        result = fibo_worker("health", "--timeout", "10", *which, CELERY_BROKER_URL=worker.admin_url)

        assert (result.exit_code, result.stdout) == (0, f"{worker.node} answered\n")


def test_health_is_1_if_the_worker_that_must_answer_does_not(worker):
    result = fibo_worker("health", "--timeout", "0.5", "-n", "other@host", CELERY_BROKER_URL=worker.admin_url)

    assert result.exit_code == 1
    assert "no worker named other@host answered" in result.stderr


def test_health_that_hangs_where_no_timeout_reaches_is_ended_and_says_where():
    program = (
        "import signal; from fibo_worker import cli, health\n"
        "health.check = lambda *_, **__: signal.pause()\n"
        "cli._GRACE = 0.1\n"
        "cli.main(['health', '--timeout', '0.1'])"
    )
    done = run(sys.executable, "-c", program)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Timeout (0:00:00.200000)!")
    assert "in <lambda>" in done.stderr


def test_demo_does_the_whole_job_with_servers_of_its_own():
    done = run(*FIBO_WORKER, "demo", "--batch", "300")

    assert done.returncode == 0, done.stderr
    found = re.findall(
        rf"^Value \[(\d+)\] -> The Fibonacci calculated with task id {UUID} was (\d+)$",
        done.stdout,
        re.MULTILINE,
    )
    assert found == [("4", "3"), ("3", "2"), ("8", "21"), ("6", "8"), ("10", "55")]
    assert "The square root of 4 is 2.0" in done.stdout
    assert "300 of 300 answers right" in done.stdout
