"""The command ``fibo`` as a person uses it: on a terminal, in pipes, and when things go wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gmpy2
import pytest
from support.clients import celery_client
from support.programs import resident, run, started
from support.servers import RedisServer, stock_worker
from support.terminal import on_terminal

FIBO = str(Path(sys.executable).with_name("fibo"))
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BAR = r"^Computing [━╸╺-]* *([\d,]+)/([\d,]+) "


def fibo(url, *arguments, stdin=None, **env):
    """Run a command in a pipe."""
    return subprocess.run(
        [FIBO, *arguments],
        env={**os.environ, "CELERY_BROKER_URL": url, **env},
        input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


def on_screen(url, *arguments, **options):
    """Run a command on a terminal."""
    env = {"CELERY_BROKER_URL": url, **options.pop("env", {})}
    return on_terminal(FIBO, *arguments, env=env, **options)


def said(done):
    """The one line of an error, without a traceback in it."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def revoked(worker, before):
    """Wait for the worker to say that it was told to revoke something."""
    deadline = time.monotonic() + 10
    while "revoked" not in worker.process.log.read_text(errors="replace")[before:]:
        assert time.monotonic() < deadline, "no revocation came"
        time.sleep(0.02)


# In a pipe.


def test_numbers_are_answered_in_their_order_with_what_they_answer(worker):
    done = fibo(worker.url, "compute", "4", "3", "8", "6", "10", "3")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "4 3\n3 2\n8 21\n6 8\n10 55\n3 2\n"


def test_bare_answers_are_for_scripts(worker):
    assert fibo(worker.url, "compute", "10", "--bare").stdout == "55\n"
    assert fibo(worker.url, "sqrt", "16", "2", "--bare").stdout == "4.0\n1.4142135623730951\n"


def test_roots_say_what_they_are_of(worker):
    done = fibo(worker.url, "sqrt", "16", "2.25")
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 4.0\n2.25 1.5\n", "")
    assert json.loads(fibo(worker.url, "sqrt", "16", "--json").stdout) == {"of": 16, "value": 4.0}


def test_a_range_is_computed_whole_and_in_order(worker):
    lines = fibo(worker.url, "compute", "--range", "0:3000").stdout.splitlines()

    assert [int(line.split()[0]) for line in lines] == list(range(3000))
    assert all(int(line.split()[1]) == gmpy2.fib(n) for n, line in enumerate(lines))


def test_unordered_answers_are_the_same_ones(worker):
    lines = fibo(worker.url, "compute", "--range", "0:500", "--unordered").stdout.splitlines()
    assert sorted(map(str.split, lines)) == sorted([str(n), str(gmpy2.fib(n))] for n in range(500))


def test_lines_of_json_have_numbers_as_text_because_others_would_round_them(worker):
    done = fibo(worker.url, "compute", "100", "10", "--json")
    assert done.stdout == '{"n": 100, "value": "354224848179261915075"}\n{"n": 10, "value": "55"}\n'
    assert json.loads(fibo(worker.url, "compute", "100", "--json", "--hex").stdout) == {
        "n": 100,
        "hex": f"{gmpy2.fib(100):x}",
    }


def test_a_number_of_two_million_digits_is_written_whole_in_a_pipe(worker):
    done = fibo(worker.url, "compute", "10000000", "--bare")

    assert done.returncode == 0, done.stderr
    assert done.stdout == gmpy2.fib(10_000_000).digits() + "\n"


def test_a_long_number_can_be_shortened_and_hexadecimal(worker):
    value = gmpy2.fib(1000)
    digits = value.digits()
    assert fibo(worker.url, "compute", "1000", "--digits", "short").stdout == (
        f"1000 {digits[:20]}...{digits[-20:]} (209 digits)\n"
    )
    assert fibo(worker.url, "compute", "1000", "--hex").stdout == f"1000 {value:x}\n"


def test_a_file_gets_the_answers_in_full(worker, tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("what was there before, and was longer than what comes now")

    done = fibo(worker.url, "compute", "4", "1000", "-o", str(path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text() == f"4 3\n1000 {gmpy2.fib(1000)}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_is_said(worker):
    done = fibo(worker.url, "compute", "4", "-o", "/dev/full")
    assert (done.returncode, said(done)) == (1, "Error: the output cannot be written: No space left on device\n")


def test_answers_come_while_the_input_is_still_open(worker):
    env = {**os.environ, "CELERY_BROKER_URL": worker.url}
    with subprocess.Popen(
        [FIBO, "compute", "-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        watchdog = threading.Timer(40, it.kill)
        watchdog.start()
        for number, answer in ((10, "10 55\n"), (4, "4 3\n")):
            it.stdin.write(f"{number}\n")
            it.stdin.flush()
            assert it.stdout.readline() == answer
        it.stdin.close()
        assert it.stdout.read() == ""
        assert it.wait(20) == 0
        watchdog.cancel()


def test_a_wrong_line_is_named_and_the_others_are_answered(worker):
    done = fibo(worker.url, "compute", "-", stdin="4\n\nsix\n-1\n8 6\n")

    assert (done.returncode, done.stdout) == (2, "4 3\n8 21\n6 8\n")
    assert done.stderr == "Error: line 3: 'six' is not a whole number\nError: line 4: n must be 0 or more, not -1\n"


def test_an_empty_input_has_no_answers(worker):
    done = fibo(worker.url, "compute", "-", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reader_that_goes_away_ends_it_quietly_and_the_rest_is_revoked(worker):
    before = len(worker.process.log.read_text(errors="replace"))
    shell = f"{FIBO} compute --range 1000000:1000400 --digits short | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", shell, CELERY_BROKER_URL=worker.url)

    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.startswith("1000000 195328")
    revoked(worker, before)


def test_a_number_that_the_worker_refuses_fails_alone(redis_server):
    url = redis_server.fresh_url()
    from fibo_worker.dev import WorkerProcess

    with WorkerProcess(url, env={"FIBO_MAX_N": "100"}, stop_timeout=0):
        done = fibo(url, "compute", "4", "101", "8")
        as_json = fibo(url, "compute", "4", "101", "8", "--json")

    assert (done.returncode, done.stdout) == (1, "4 3\n8 21\n")
    assert re.fullmatch(
        rf"n = 101:\nError: fibo\.fibonacci_chunk\[{UUID}\] raised ValueError\("
        r"\"n must be at most 100, not 101 \(the worker's FIBO_MAX_N\)\"\)\n",
        done.stderr,
    )
    four, failed, eight = map(json.loads, as_json.stdout.splitlines())
    assert (four, eight) == ({"n": 4, "value": "3"}, {"n": 8, "value": "21"})
    assert (failed["n"], failed["error"]) == (101, "TaskFailedError")
    assert (as_json.returncode, as_json.stderr) == (1, "")


def test_the_largest_number_is_a_setting_and_the_worker_has_its_own(redis_server):
    url = redis_server.fresh_url()
    from fibo_worker.dev import WorkerProcess

    with WorkerProcess(url, env={"FIBO_MAX_N": "10000001"}, stop_timeout=0):
        done = fibo(url, "compute", "10000001", "--set", "max_n=20000000", "--digits", "short")
        typed = fibo(url, "compute", "-", "--set", "max_n=4", stdin="5\n4\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("10000001 ")
    assert (typed.returncode, typed.stdout) == (2, "4 3\n")
    assert "line 1: n must be at most 4, not 5" in typed.stderr


def test_the_timeout_is_a_setting_unless_an_option_says_it(worker, stock):
    quick = fibo(stock.url, "compute", "10", "--set", "timeout=0.2", "--queue", "nobodys")
    option = fibo(worker.url, "compute", "10", "--set", "timeout=0", "--timeout", "20")

    assert quick.returncode == 3
    assert (option.returncode, option.stdout) == (0, "10 55\n")


def test_the_urls_are_settings_too(worker):
    done = fibo("redis://127.0.0.1:1/0", "compute", "10", "--set", f"broker_url={worker.url}")

    assert (done.returncode, done.stdout) == (0, "10 55\n")


# Any task.


def test_any_task_can_be_called(stock):
    assert fibo(stock.url, "call", "stock.add", "--args", "[2, 3]").stdout == "5\n"
    done = fibo(stock.url, "call", "stock.echo", "--args", '["é", 1]', "--kwargs", '{"x": [true, null]}')
    assert (done.returncode, done.stdout, done.stderr) == (0, '[["é", 1], {"x": [true, null]}]\n', "")
    # Text as it is, and what JSON has no word for as text.
    assert fibo(stock.url, "call", "stock.big", "--args", "[5]").stdout == "xxxxx\n"
    assert json.loads(fibo(stock.url, "call", "stock.types").stdout)[:5] == [
        "2026-01-02T03:04:05.000678+00:00",
        "2026-01-02",
        "03:04:05",
        "1.50",
        "00000000-0000-0000-0000-000000000005",
    ]


def test_a_call_leaves_nothing_in_redis(stock, redis_server):
    with redis_server.client(stock.admin_url) as client:
        before = set(client.scan_iter("celery-task-meta-*"))
        assert fibo(stock.url, "call", "stock.add", "--args", "[2, 3]").returncode == 0
        assert fibo(stock.url, "call", "stock.fail").returncode == 1
        assert set(client.scan_iter("celery-task-meta-*")) == before


def test_a_task_that_fails_is_a_line_and_its_traceback_can_be_had(stock):
    done = fibo(stock.url, "call", "stock.fail", "--args", '["no"]')
    assert done.returncode == 1
    assert re.fullmatch(
        rf"Error: stock\.fail\[{UUID}\] raised ValueError\('no'\)\n--traceback shows where in the worker\.\n",
        said(done),
    )

    done = fibo(stock.url, "call", "stock.fail", "--args", '["no"]', "--traceback")
    assert "Traceback (most recent call last):" in done.stderr
    assert "raise ValueError(*args)" in done.stderr

    done = fibo(stock.url, "call", "stock.fail", "--args", '["no"]', "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (told["error"], told["exc_type"], told["exc_args"]) == ("TaskFailedError", "ValueError", ["no"])


def test_a_task_that_no_worker_knows_is_said_to_be_so(stock):
    done = fibo(stock.url, "call", "stock.nothing")
    assert done.returncode == 1
    assert said(done).endswith("'fibo workers' shows which tasks each worker knows.\n")


def test_a_task_can_be_sent_now_and_asked_for_later_as_often_as_one_likes(stock):
    task_id = fibo(stock.url, "call", "stock.add", "--args", "[2, 3]", "--no-wait").stdout.strip()
    assert re.fullmatch(UUID, task_id)

    assert fibo(stock.url, "result", task_id, "--wait").stdout == "5\n"
    assert fibo(stock.url, "result", task_id).stdout == "5\n"
    assert json.loads(fibo(stock.url, "result", task_id, "--json").stdout) == {"id": task_id, "value": 5}
    done = fibo(stock.url, "diagnose", task_id)
    assert done.stdout == f"task[{task_id}] is SUCCESS: it is over, and its result is stored\n"


def test_a_result_that_is_not_there_yet_is_status_3(stock):
    task_id = "00000000-0000-4000-8000-000000000000"
    done = fibo(stock.url, "result", task_id)
    assert done.returncode == 3
    assert said(done).startswith("PENDING: nothing is stored under this id.")
    assert f"fibo diagnose {task_id}\n" in done.stderr

    done = fibo(stock.url, "result", task_id, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"id": task_id, "state": "PENDING"})


def test_options_of_a_call_go_out_with_the_message(redis_server, redis_url):
    done = fibo(
        redis_url, "call", "proj.add", "--no-wait", "--json", "--queue", "math", "--priority", "3",
        "--countdown", "60", "--expires", "90",
    )  # fmt: skip
    told = json.loads(done.stdout)
    with redis_server.client(redis_url) as client:
        message = json.loads(client.rpop("math\x06\x163"))
    assert message["headers"]["id"] == told["id"]
    assert message["headers"]["task"] == told["task"] == "proj.add"
    assert message["headers"]["eta"] < message["headers"]["expires"]


def test_a_revoked_task_says_so(redis_server):
    url = redis_server.fresh_url()
    with stock_worker(url) as process:
        running = fibo(url, "call", "stock.sleep", "--args", "[60]", "--no-wait").stdout.strip()
        waiting = fibo(url, "call", "stock.sleep", "--args", "[60]", "--no-wait").stdout.strip()
        while f'"{running}"' not in (told := fibo(url, "diagnose", running, "--json").stdout) or "active" not in told:
            process.check()

        done = fibo(url, "revoke", running, waiting, "--terminate", "--signal", "SIGKILL")
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 worker heard it.\n", "")

        for task_id, reason in ((running, "terminated while it ran"), (waiting, "revoked")):
            done = fibo(url, "result", task_id, "--wait")
            assert done.returncode == 1
            assert said(done) == f"Error: task[{task_id}] will give no answer: it was {reason}\n"


# Workers.


def test_workers_are_listed_with_what_they_say_of_themselves(worker):
    assert fibo(worker.url, "ping", "--timeout", "10").stdout == f"{worker.node}\n"
    assert json.loads(fibo(worker.url, "ping", "--timeout", "10", "--json").stdout) == {"worker": worker.node}

    tasks = ["fibo.fibonacci", "fibo.fibonacci_chunk", "tasks.fibo_task", "tasks.sqrt_task"]
    done = fibo(worker.url, "workers", "--timeout", "10")
    assert done.stdout == f"{worker.node}\tprefork\t2\t0\tcelery\t{','.join(tasks)}\n"
    assert json.loads(fibo(worker.url, "workers", "--timeout", "10", "--json").stdout) == {
        "worker": worker.node, "pool": "prefork", "concurrency": 2, "active": 0, "queues": ["celery"], "tasks": tasks,
    }  # fmt: skip


@pytest.mark.parametrize("command", ["ping", "workers"])
def test_no_worker_is_status_5_and_says_how_to_start_one(redis_url, command):
    done = fibo(redis_url, command, "--timeout", "0.3")
    assert (done.returncode, said(done)) == (
        5, "Error: Redis can be reached, but no worker answered in 0.3 s. Start one, such as: fibo-worker start\n",
    )  # fmt: skip


def test_a_revocation_that_nobody_hears_is_status_5(redis_url):
    done = fibo(redis_url, "revoke", "x")
    assert (done.returncode, said(done)) == (5, "Error: no worker heard it. Start one, such as: fibo-worker start\n")


@pytest.mark.parametrize(
    "command", [("compute", "10"), ("call", "tasks.add"), ("sqrt", "2"), ("result", "x", "--wait")]
)
def test_no_answer_for_want_of_a_worker_is_status_5_and_says_what_to_ask(redis_url, command):
    done = fibo(redis_url, *command, "--timeout", "1")

    assert done.returncode == 5
    lines = said(done).splitlines()
    task_id = re.match(r"Error: no answer within [\d.]+ s from [\w.]+\[([\w-]+)\]$", lines[0])[1]
    assert "is PENDING: " in lines[1]
    assert re.match("Start a worker|No worker listens on redis://.*: start one", lines[2])
    assert lines[3:] == [f"Ask again: fibo diagnose {task_id}"]


def test_no_answer_from_a_queue_that_no_worker_serves_is_status_3(stock):
    done = fibo(stock.url, "compute", "10", "11", "--timeout", "0.3", "--queue", "nobodys")

    assert done.returncode == 3
    assert "no worker takes tasks from 'nobodys'" in said(done)
    # Nothing was left to revoke: both had the same deadline, and expire.
    assert done.stderr.endswith(" --queue nobodys\n0 of 2 answered.\n")
    task_id = re.search(UUID, done.stderr)[0]
    assert "no worker takes tasks from 'nobodys'" in fibo(stock.url, "diagnose", task_id, "--queue", "nobodys").stdout


# No Redis, or the wrong one.


@pytest.mark.parametrize(
    ("command", "host"),
    [
        (("compute", "10"), "127.0.0.1:1"),
        (("compute", "10"), "name.invalid"),
        (("sqrt", "2"), "127.0.0.1:1"),
        (("call", "a.b"), "127.0.0.1:1"),
        (("result", "x"), "127.0.0.1:1"),
        (("revoke", "x"), "127.0.0.1:1"),
        (("ping",), "127.0.0.1:1"),
    ],
)
def test_no_redis_is_status_4_in_one_line_and_no_password_is_shown(command, host):
    done = fibo(f"redis://:sesame@{host}/0", *command)

    assert done.returncode == 4
    assert re.fullmatch(
        r"Error: redis://(127\.0\.0\.1:1|name\.invalid:6379)/0: .+\? "
        r"--broker or CELERY_BROKER_URL says where it is\.\n",
        said(done),
    )
    assert "sesame" not in done.stderr


def test_a_password_that_is_refused_is_status_4_and_is_not_shown(redis_server):
    with RedisServer(password="right") as server:
        done = fibo(server.url.replace("right", "sesame"), "compute", "10")
    assert done.returncode == 4
    assert "sesame" not in said(done)
    assert "--broker" not in done.stderr  # it was found, and said no


def test_debug_shows_the_log_and_the_traceback_but_no_password():
    done = fibo("redis://:sesame@127.0.0.1:1/0", "compute", "10", FIBO_DEBUG="1")
    assert done.returncode == 4
    assert "Redis is gone" in done.stderr
    assert "sesame" not in done.stderr


def test_a_broker_on_the_command_line_wins_over_the_environment(worker):
    done = fibo("redis://127.0.0.1:1/0", "compute", "10", "--broker", worker.url, CELERY_RESULT_BACKEND=worker.url)
    assert (done.returncode, done.stdout) == (0, "10 55\n")


def test_an_outage_is_told_if_the_command_outlives_it():
    server = RedisServer()
    with server, started(FIBO, "compute", "10", "--timeout", "60", env={"CELERY_BROKER_URL": server.url}) as program:
        with server.client() as client:
            while not client.llen("celery"):
                assert program.process.poll() is None
        server.stop()
        program.wait_for("Redis is gone, trying again: redis://127.0.0.1:")
        assert program.end(signal.SIGINT) == 130
    assert re.search(
        r"^Stopped: 0 of 1 answered, the rest could not be revoked and expires within 62 s: "
        r"redis://127\.0\.0\.1:\d+/0: .* Is Redis running there\?\n\Z",
        program.text,
        re.MULTILINE,
    )


# Ctrl-C and other ends.


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
def test_a_signal_revokes_what_is_unfinished_and_says_so(worker, sig):
    before = len(worker.process.log.read_text(errors="replace"))
    command = (FIBO, "compute", "--range", "1000000:1001000", "--digits", "short")
    with started(*command, env={"CELERY_BROKER_URL": worker.url}) as program:
        program.wait_for("1000000 195328")

        assert program.end(sig) == 128 + sig

    assert re.search(r"^Stopped: \d+ of 1000 answered, the rest was revoked\.$", program.text, re.MULTILINE)
    assert "Traceback" not in program.text
    revoked(worker, before)


def test_a_wait_that_is_stopped_changes_nothing_about_the_task(redis_url):
    task_id = fibo(redis_url, "call", "stock.add", "--no-wait").stdout.strip()
    with started(FIBO, "result", task_id, "--wait", env={"CELERY_BROKER_URL": redis_url}) as program:
        wait_until_it_waits(program)
        assert program.end(signal.SIGINT) == 130
    assert program.text == f"Stopped: the task goes on; wait again: fibo result {task_id} --wait\n"
    assert "it waits in 'celery'" in fibo(redis_url, "diagnose", task_id).stdout


def test_a_call_that_is_stopped_is_revoked(stock, redis_server):
    command = (FIBO, "call", "stock.sleep", "--args", "[60]", "--queue", "nobody-but-this")
    with started(*command, env={"CELERY_BROKER_URL": stock.url}) as program:
        with redis_server.client(stock.url) as client:
            while not (stored := client.lindex("nobody-but-this", 0)):
                assert program.process.poll() is None
        wait_until_it_waits(program)
        assert program.end(signal.SIGINT) == 130

    task_id = json.loads(stored)["headers"]["id"]
    assert program.text == f"Stopped: stock.sleep[{task_id}] was revoked.\n"
    deadline = time.monotonic() + 10
    while not re.search(f"revoked.*{task_id}", stock.process.log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("compute", "4", "10"), r"0 of 2 answered, the rest"),
        (("sqrt", "4", "10"), r"what is unfinished"),
        (("call", "tasks.add"), rf"tasks\.add\[{UUID}\]"),
    ],
)
def test_a_stop_whose_revocation_nobody_hears_says_so(redis_server, redis_url, command, what):
    with on_screen(redis_url, *command, columns=200) as terminal:
        wait_until_it_is_sent(redis_server, redis_url, terminal)
        terminal.type("\x03")
        assert terminal.end() == 130
    assert re.search(
        rf"Stopped: {what} could not be revoked and expires within 32 s: no worker heard it\.$", terminal.screen
    )


@pytest.mark.parametrize(
    ("command", "what"),
    [(("compute", "4", "10"), r"0 of 2 answered, the rest"), (("call", "tasks.add"), rf"tasks\.add\[{UUID}\]")],
)
def test_a_stop_without_redis_says_that_the_revocation_did_not_go_out(command, what):
    with RedisServer() as server, on_screen(server.url, *command, "--timeout", "inf", columns=250) as terminal:
        wait_until_it_is_sent(server, server.url, terminal)
        server.stop()
        terminal.type("\x03")
        assert terminal.end() == 130
    assert re.search(
        rf"Stopped: {what} could not be revoked and stays until a worker comes: redis://127\.0\.0\.1:\d+/0: .* "
        r"Is Redis running there\?$",
        terminal.screen,
    )


def wait_until_it_is_sent(server, url, terminal):
    """Wait until a program has sent a task, and sees Ctrl-C as a wish to stop."""
    with server.client(url) as client:
        terminal.wait_for(lambda _: client.llen("celery"))


def wait_until_it_waits(program):
    """Wait until a program has connected to Redis: from then on it handles signals."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if any("socket:" in str(fd.readlink()) for fd in Path(f"/proc/{program.process.pid}/fd").iterdir()):
                return
        except FileNotFoundError:
            pass  # Just closed.
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_ctrl_c_ends_at_once_though_redis_does_not_answer():
    command = ("compute", "--range", "0:1000", "--timeout", "60")
    with RedisServer() as server, on_screen(server.url, *command) as terminal:
        terminal.wait_for(lambda screen: re.search(BAR, screen, re.MULTILINE))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            terminal.type("\x03")
            terminal.wait_for("Stopping; Ctrl-C again ends at once.")
            terminal.type("\x03")
            assert terminal.end(timeout=2) == 130
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")  # the cursor is back


# On a terminal.


def test_a_terminal_shows_answers_for_people(worker):
    with on_screen(worker.url, "compute", "4", "10", "1000000") as terminal:
        assert terminal.end() == 0
    assert terminal.screen == (
        "F(4) = 3\nF(10) = 55\nF(1000000) = 19532821287077577316...68996526838242546875 (208,988 digits)"
    )


def test_a_bar_moves_below_the_answers_and_is_gone_at_the_end(worker):
    with on_screen(worker.url, "compute", "--range", "1000000:1000300", rows=10) as terminal:
        assert terminal.end() == 0

    steps = [int(found[1]) for screen in terminal.seen if (found := re.search(BAR, screen, re.MULTILINE))]
    assert len(set(steps)) > 3
    assert steps == sorted(steps)
    assert any(re.search(r"^F\(1000\d+\) = .*\n" + BAR[1:], screen, re.MULTILINE) for screen in terminal.seen)
    assert b"\x1b[38;5;" in terminal.raw  # in colours
    assert "Computing" not in terminal.screen
    assert len(re.findall(rb"F\(1000\d+\) = \d{20}\.\.\.\d{20} \(\d+,\d+ digits\)\r\n", terminal.raw)) == 300


def test_a_quick_answer_needs_no_bar(worker):
    with on_screen(worker.url, "compute", "4") as terminal:
        assert terminal.end() == 0
    assert terminal.raw == b"F(4) = 3\r\n"


def test_a_bar_is_shown_while_answers_go_to_a_file(worker, tmp_path):
    path = tmp_path / "numbers.txt"
    with on_screen(worker.url, "compute", "--range", "1000000:1000100", "--hex", "-o", str(path)) as terminal:
        assert terminal.end() == 0
    assert any(re.search(BAR, screen, re.MULTILINE) for screen in terminal.seen)
    assert terminal.screen == ""
    assert len(path.read_text().splitlines()) == 100


def test_ctrl_c_typed_stops_and_revokes_also_on_a_narrow_terminal(worker):
    before = len(worker.process.log.read_text(errors="replace"))
    with on_screen(worker.url, "compute", "--range", "1000000:1001000", columns=40) as terminal:
        terminal.wait_for(lambda screen: re.search(BAR, screen, re.MULTILINE))
        assert not re.search("…", terminal.screen)
        terminal.type("\x03")
        assert terminal.end() == 130

    assert re.search(r"Stopped:\d+of1000answered,therestwasrevoked\.$", "".join(terminal.screen.split()))
    assert "Computing" not in terminal.screen
    revoked(worker, before)


def test_no_color_is_respected(worker):
    command = ("compute", "--range", "1000000:1000100")
    with on_screen(worker.url, *command, env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    assert any(re.search(BAR, screen, re.MULTILINE) for screen in terminal.seen)
    assert not re.search(rb"\x1b\[[0-9;]*m", terminal.raw)


@pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_terminal_that_knows_ascii_only_gets_ascii(worker, stock, env):
    with on_screen(worker.url, "compute", "--range", "1000000:1000100", env=env) as terminal:
        assert terminal.end() == 0
    assert any("Computing" in screen for screen in terminal.seen)
    with on_screen(stock.url, "call", "stock.echo", "--args", '["\\u00e9"]', env=env) as terminal:
        assert terminal.end() == 0
    assert terminal.screen in ('[["é"], {}]', '[["\\xe9"], {}]')


def test_a_dumb_terminal_gets_plain_lines(worker):
    with on_screen(worker.url, "compute", "--range", "1000000:1000050", env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw


def test_the_progress_of_a_task_moves_the_bar(stock):
    with on_screen(stock.url, "call", "stock.progress", "--args", "[30]") as terminal:
        assert terminal.end() == 0
    steps = {
        int(found[1]) for screen in terminal.seen if (found := re.search(r"^stock\.progress .* (\d+)/30 ", screen))
    }
    assert len(steps) > 2
    assert terminal.screen == "30"


def test_numbers_can_be_typed(worker):
    with on_screen(worker.url, "compute", "-") as terminal:
        terminal.wait_for("Type numbers; Ctrl-D ends.")
        terminal.type("4 10\n")
        terminal.wait_for("F(4) = 3\nF(10) = 55")
        terminal.type("six\n")
        terminal.wait_for("Error: line 2: 'six' is not a whole number")
        terminal.type("\x04")
        assert terminal.end() == 2


def test_what_a_task_answers_cannot_play_with_the_terminal_but_is_left_as_it_is_elsewhere(redis_server, redis_url):
    meta = {"status": "SUCCESS", "result": "\x1b[2Jgone", "traceback": None, "children": [], "task_id": "x"}
    with redis_server.client(redis_url) as client:
        client.set("celery-task-meta-x", json.dumps(meta))
    with on_screen(redis_url, "result", "x") as terminal:
        assert terminal.end() == 0
    assert terminal.screen == "\\x1b[2Jgone"
    assert fibo(redis_url, "result", "x").stdout == "\x1b[2Jgone\n"


@pytest.mark.parametrize(("columns", "table"), [(100, True), (40, False)])
def test_workers_are_a_table_where_there_is_room_for_one(worker, columns, table):
    with on_screen(worker.url, "workers", "--timeout", "10", columns=columns) as terminal:
        assert terminal.end() == 0
    heading = " worker +pool +concurrency +active +queues +tasks"
    assert bool(re.search(heading, terminal.screen)) == table
    assert bool(re.search("^pool: prefork\nconcurrency: 2$", terminal.screen, re.MULTILINE)) != table
    assert worker.node in terminal.screen


@pytest.mark.parametrize("columns", [52, 80, 200])
def test_help_can_be_read_on_a_terminal(columns):
    with on_screen("redis://127.0.0.1:1/0", "compute", "--help", rows=90, columns=columns) as terminal:
        assert terminal.end() == 0
    assert terminal.screen.startswith("Usage: fibo compute [OPTIONS] [N]...")
    assert "\n    fibo compute --range 0:10000 > numbers.txt\n" in terminal.screen
    lines = terminal.raw.decode().splitlines()
    assert max(map(len, lines)) <= min(columns, 80)


# Bounded memory, and a reader that is slow.


def test_an_endless_input_takes_bounded_memory(worker):
    env = {"CELERY_BROKER_URL": worker.url}
    shell = f"yes 90 | {FIBO} compute - --bare | head -n 200000 | sort -u"
    with started("bash", "-c", f"set -o pipefail; {shell}", env=env) as program:
        peak = 0
        deadline = time.monotonic() + 50
        while program.process.poll() is None:
            assert time.monotonic() < deadline
            peak = max([peak, *map(resident, program.descendants())])
            time.sleep(0.1)
        assert program.process.wait(20) == 141
    assert program.text == f"{gmpy2.fib(90)}\n"
    assert peak < 200 * 1024 * 1024


def test_a_reader_that_pauses_for_longer_than_the_timeout_loses_nothing(worker):
    env = {**os.environ, "CELERY_BROKER_URL": worker.url}
    command = [FIBO, "compute", "--range", "5000:7000", "--timeout", "2"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as it:
        first = it.stdout.read(10)
        time.sleep(4)  # what is tested
        rest, errors = it.communicate(timeout=40)
        assert (it.returncode, errors) == (0, b"")
    assert (first + rest).count(b"\n") == 2000


def test_celerys_own_client_reads_what_fibo_has_sent(stock):
    task_id = fibo(stock.url, "call", "stock.add", "--args", "[2, 3]", "--no-wait").stdout.strip()
    with celery_client(stock.url) as app:
        assert app.AsyncResult(task_id).get(timeout=20) == 5
