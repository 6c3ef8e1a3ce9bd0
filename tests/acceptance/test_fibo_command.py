"""The command ``fibo`` with real workers: in pipes, in files and on terminals, in the test's own process.

`test_fibo_program` has what only a program of its own can show.
"""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import gmpy2
import pytest
from support.clients import celery_client
from support.fibo import fibo, fibo_on_screen, revocation, run, signalled
from support.servers import stock_worker
from support.waiting import until

from fibo_client.cli import bar, compute, queue_hint, tasks
from fibo_client.cli.revocation_summary import GOES_ON
from fibo_client.testing.results import encode_meta

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BAR = r"^Computing [━╸╺-]* *([\d,]+)/([\d,]+) "


def said(done):
    """What an error says, without a traceback in it."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def bar_at_once(monkeypatch):
    """A bar is shown from the beginning, so that little work is enough for one."""
    monkeypatch.setattr(bar, "DELAY", 0.0)


# In a pipe or a file.


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


def test_a_number_of_very_many_digits_is_written_whole(worker):
    done = fibo(worker.url, "compute", "1000000", "--bare")

    assert done.returncode == 0, done.stderr
    assert done.stdout == gmpy2.fib(1_000_000).digits() + "\n"


def test_a_long_number_can_be_shortened_and_hexadecimal(worker):
    value = gmpy2.fib(1000)
    digits = value.digits()
    assert fibo(worker.url, "compute", "1000", "--digits", "short").stdout == (
        f"1000 {digits[:20]}...{digits[-20:]} (209 digits)\n"
    )
    assert fibo(worker.url, "compute", "1000", "--hex").stdout == f"1000 {value:x}\n"


def test_a_file_gets_the_answers_in_full_and_is_closed(worker, tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("what was there before, and was longer than what comes now")

    done = fibo(worker.url, "compute", "4", "1000", "-o", str(path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text() == f"4 3\n1000 {gmpy2.fib(1000)}\n"
    assert path not in map(Path.resolve, Path("/proc/self/fd").glob("*"))  # Where there is one.


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_is_said(worker):
    done = fibo(worker.url, "compute", "4", "-o", "/dev/full")
    assert (done.returncode, said(done)) == (1, "Error: the output cannot be written: No space left on device\n")


def test_a_wrong_line_is_named_and_the_others_are_answered(worker):
    done = fibo(worker.url, "compute", "-", stdin="4\n\nsix\n-1\n8 6\n")

    assert (done.returncode, done.stdout) == (2, "4 3\n8 21\n6 8\n")
    assert done.stderr == "Error: line 3: 'six' is not a whole number\nError: line 4: n must be 0 or more, not -1\n"


def test_an_empty_input_has_no_answers(worker):
    done = fibo(worker.url, "compute", "-", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_number_that_the_worker_refuses_fails_alone(worker):
    more = ("compute", "4", "10000001", "8", "--set", "max_n=20000000")
    done = fibo(worker.url, *more)
    as_json = fibo(worker.url, *more, "--json")

    assert (done.returncode, done.stdout) == (1, "4 3\n8 21\n")
    assert re.fullmatch(
        rf"n = 10000001:\nError: fibo\.fibonacci\[{UUID}\] raised ValueError\("
        r"\"n must be at most 10000000, not 10000001 \(the worker's FIBO_MAX_N\)\"\)\n",
        done.stderr,
    )
    four, failed, eight = map(json.loads, as_json.stdout.splitlines())
    assert (four, eight) == ({"n": 4, "value": "3"}, {"n": 8, "value": "21"})
    assert (failed["n"], failed["error"]) == (10000001, "TaskFailedError")
    assert (as_json.returncode, as_json.stderr) == (1, "")


def test_the_largest_number_is_a_setting_for_what_is_typed_too(worker):
    done = fibo(worker.url, "compute", "-", "--set", "max_n=4", stdin="5\n4\n")

    assert (done.returncode, done.stdout) == (2, "4 3\n")
    assert "line 1: n must be at most 4, not 5" in done.stderr


def test_the_timeout_is_a_setting_unless_an_option_says_it(worker):
    quick = fibo(worker.admin_url, "compute", "10", "--set", "timeout=0.2", "--queue", "nobodys")
    option = fibo(worker.url, "compute", "10", "--set", "timeout=0", "--timeout", "20")

    assert quick.returncode == 3
    assert (option.returncode, option.stdout) == (0, "10 55\n")


def test_the_urls_are_settings_too_and_options_and_both_win_over_the_environment(worker):
    nowhere = "redis://127.0.0.1:1/0"
    setting = fibo(nowhere, "compute", "10", "--set", f"broker_url={worker.url}")
    option = fibo(nowhere, "compute", "10", "--broker", worker.url, CELERY_RESULT_BACKEND=worker.url)

    assert (setting.returncode, setting.stdout) == (0, "10 55\n")
    assert (option.returncode, option.stdout) == (0, "10 55\n")


def test_a_reader_that_pauses_for_longer_than_the_timeout_loses_nothing(worker):
    ours, its = os.pipe()
    text = bytearray()

    def read_slowly() -> None:
        text.extend(os.read(ours, 10))
        time.sleep(3)  # That it takes long is what is tested.
        while data := os.read(ours, 65536):
            text.extend(data)

    reading = threading.Thread(target=read_slowly, daemon=True)
    reading.start()
    nothing = os.open(os.devnull, os.O_RDWR)
    arguments = ("compute", "--range", "5000:7000", "--timeout", "2")
    status = run(arguments, [nothing, its, nothing], {"CELERY_BROKER_URL": worker.url})
    os.close(nothing)
    os.close(its)
    reading.join()
    os.close(ours)
    assert (status, text.count(b"\n")) == (0, 2000)


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


def test_tasks_can_be_called_one_after_the_other_and_beside_each_other(stock, redis_server, tmp_path):
    with redis_server.client(stock.admin_url) as client:
        before = set(client.scan_iter("celery-task*-meta-*"))
        done = fibo(stock.url, "call", "stock.add", "--args", "[2, 3]", "--then", "stock.add [4]")
        assert (done.returncode, done.stdout, done.stderr) == (0, "9\n", "")
        (tmp_path / "flow.json").write_text(
            json.dumps({"chain": [{"group": [{"task": "stock.add", "args": [n, n]} for n in range(3)]}, "stock.total"]})
        )
        assert fibo(stock.url, "call", "--flow", str(tmp_path / "flow.json")).stdout == "6\n"
        until(lambda: not {key for key in client.scan_iter("celery-task*-meta-*") if not key.endswith(b".c")} - before)


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
    with celery_client(stock.url) as app:
        assert app.AsyncResult(task_id).get(timeout=20) == 5


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
            assert said(done) == f"Error: task[{task_id}] has no answer: it was {reason}\n"


def test_a_revocation_says_which_tasks_run_all_the_same_and_which_were_over(stock):
    def sent(*args):
        return fibo(stock.url, "call", *args, "--no-wait").stdout.strip()

    over, running = sent("stock.add", "--args", "[2, 3]"), sent("stock.progress", "--args", "[600]")
    assert fibo(stock.url, "result", over, "--wait").stdout == "5\n"
    until(lambda: fibo(stock.url, "result", running).stderr.startswith("PROGRESS"))
    goes_on = f"{running} runs on {stock.node}, and goes on. To end it: fibo revoke --terminate {running}\n"
    try:
        done = fibo(stock.url, "revoke", over, running)
        assert (done.returncode, done.stdout) == (0, "1 worker heard it.\n")
        assert done.stderr == f"{goes_on}{over} is over (SUCCESS): there was nothing to revoke.\n"
        told = json.loads(fibo(stock.url, "revoke", over, running, "--json").stdout)
        assert told == {
            "ids": [over, running], "workers": 1, "running": {running: stock.node}, "finished": {over: "SUCCESS"},
        }  # fmt: skip
        # A foreign store cannot be asked. Workers can.
        done = fibo(stock.url, "revoke", over, running, CELERY_RESULT_BACKEND="db+sqlite:///x")
        assert (done.returncode, done.stderr) == (0, goes_on)
    finally:
        assert fibo(stock.url, "revoke", running, "--terminate").returncode == 0
    assert "terminated while it ran" in fibo(stock.url, "result", running, "--wait").stderr


def test_a_script_learns_of_each_task_that_was_over_and_a_reader_of_the_first_ten(stock, redis_server):
    over = [f"over-{number}" for number in range(12)]
    with redis_server.client(stock.url) as client:
        client.mset({f"celery-task-meta-{each}": encode_meta(each, result=5) for each in over})
    assert json.loads(fibo(stock.url, "revoke", *over, "--json").stdout)["finished"] == dict.fromkeys(over, "SUCCESS")
    assert fibo(stock.url, "revoke", *over).stderr.count("is over (SUCCESS)") == 10


def test_a_call_has_its_result_also_of_a_task_that_is_declared_to_have_none(stock):
    assert fibo(stock.url, "call", "stock.forgetful", "--args", "[5]").stdout == "5\n"


def test_a_task_that_is_called_revoked_while_it_runs_is_said_to_run(stock, redis_server):
    running = fibo(stock.url, "call", "stock.sleep", "--args", "[60]", "--no-wait").stdout.strip()
    until(lambda: "it is running" in fibo(stock.url, "diagnose", running).stdout)
    # As a worker of Celery 5.6 does as soon as it is told.
    meta = {"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"],
            "exc_module": "celery.exceptions"}, "traceback": None, "children": [], "task_id": running}  # fmt: skip
    try:
        with redis_server.client(stock.url) as client:
            client.set(f"celery-task-meta-{running}", json.dumps(meta))
        done = fibo(stock.url, "result", running)
        assert done.returncode == 1
        assert f"is REVOKED, and still runs on {stock.node}, which goes on with it" in said(done)
        assert json.loads(fibo(stock.url, "result", running, "--json").stdout)["running"] == stock.node
    finally:
        fibo(stock.url, "revoke", running, "--terminate")


# A queue that nobody serves.


@pytest.mark.parametrize("command", [("compute", "10", "11"), ("compute", "-"), ("sqrt", "2")], ids=" ".join)
def test_numbers_that_wait_for_a_queue_that_nobody_serves_are_told_which_queue_it_should_be(
    worker, monkeypatch, command
):
    monkeypatch.setattr(queue_hint, "DELAY", 0.5)  # By then they are in the queue.
    done = fibo(worker.admin_url, *command, "--queue", "nobodys-at-all", "--timeout", "3", stdin="10\n")
    assert done.returncode == 3
    first, second, *more = said(done).splitlines()
    assert first == (
        f"Still waiting: no worker takes tasks from 'nobodys-at-all'; {worker.node} knows the task: --queue celery"
    )
    assert re.match(r"Error: no answer within [\d.]+ s from ", second)
    assert any(re.fullmatch(f"Ask again: fibo diagnose {UUID} --queue nobodys-at-all", line) for line in more)


def test_a_call_that_waits_for_a_queue_that_nobody_serves_says_which_queue_it_should_be(stock, monkeypatch):
    monkeypatch.setattr(queue_hint, "DELAY", 0.5)  # By then the message is in its queue.
    call = ("--queue", "nobodys-at-all", "--args", "[2, 3]", "--timeout", "3")
    done = fibo(stock.url, "call", "stock.add", *call)
    assert done.returncode == 3
    assert re.match(
        f"Still waiting: no worker takes tasks from 'nobodys-at-all'; {stock.node} knows the task: --queue celery\n"
        r"Error: no answer within [\d.]+ s from stock\.add",
        said(done),
    )
    done = fibo(stock.url, "call", "stock.ad", *call, "--json")
    assert done.returncode == 3
    assert said(done).startswith(
        "Still waiting: no worker takes tasks from 'nobodys-at-all'; no worker that answered knows the task\nError: "
    )


def test_an_answer_is_held_up_by_no_question_and_comes_with_no_word_of_it(stock, worker, monkeypatch):
    monkeypatch.setattr(queue_hint, "DELAY", 0.0)
    done = fibo(stock.url, "call", "stock.progress", "--args", "[20]")
    assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")
    for command in (("compute", "--range", "1000000:1000030", "--digits", "short"), ("sqrt", "2")):
        done = fibo(worker.url, *command)
        assert (done.returncode, done.stderr) == (0, "")


# A store that is not Redis.


def test_what_is_stored_elsewhere_cannot_be_read_and_says_what_to_do_and_tasks_are_sent_all_the_same(stock):
    elsewhere = {"CELERY_RESULT_BACKEND": "db+sqlite:///x"}
    done = fibo(stock.url, "call", "stock.add", "--args", "[2, 3]", "--no-wait", **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert fibo(stock.url, "result", done.stdout.strip(), "--wait").stdout == "5\n"
    for command in (("call", "stock.add", "--args", "[2, 3]"), ("result", done.stdout.strip(), "--wait")):
        refused = fibo(stock.url, *command, **elsewhere)
        assert refused.returncode == 2
        assert "give the URL of that as result_backend=" in said(refused)


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


def test_no_answer_from_a_queue_that_no_worker_serves_is_status_3(stock):
    done = fibo(stock.url, "compute", "10", "11", "--timeout", "0.3", "--queue", "nobodys")

    assert done.returncode == 3
    assert "no worker takes tasks from 'nobodys'" in said(done)
    # Nothing was left to revoke: both had the same deadline, and expire.
    assert done.stderr.endswith(" --queue nobodys\n0 of 2 answered.\n")
    task_id = re.search(UUID, done.stderr)[0]
    assert "no worker takes tasks from 'nobodys'" in fibo(stock.url, "diagnose", task_id, "--queue", "nobodys").stdout


# Signals.


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGHUP], ids=lambda sig: sig.name)
def test_a_signal_revokes_what_is_unfinished_and_says_so(worker, tmp_path, sig):
    path = tmp_path / "numbers"
    command = ("compute", "--range", "1000000:1001000", "--digits", "short", "-o", str(path))
    with revocation(worker.process.log), signalled(sig, lambda: path.exists() and path.stat().st_size):
        done = fibo(worker.url, *command)

    assert (done.returncode, done.stdout) == (128 + sig, "")
    assert re.fullmatch(r"Stopped: \d+ of 1000 answered, workers were told to revoke the rest\. What .*\n", done.stderr)
    assert path.read_text().startswith("1000000 195328")


def test_a_call_that_is_stopped_is_revoked(stock, redis_server):
    with redis_server.client(stock.url) as client, revocation(stock.process.log) as task_ids:

        def waits() -> bool:
            sent = client.lrange("nobody-but-this", 0, 0)
            task_ids.extend(json.loads(message)["headers"]["id"] for message in sent)
            return bool(sent)

        with signalled(signal.SIGINT, waits):
            done = fibo(stock.url, "call", "stock.sleep", "--args", "[60]", "--queue", "nobody-but-this")

    assert done.returncode == 130
    assert said(done) == (
        f"Stopped: workers were told to revoke stock.sleep[{task_ids[0]}]. {GOES_ON} "
        f"To end it: fibo revoke --terminate {task_ids[0]}\n"
    )


def test_a_call_that_is_stopped_while_a_worker_runs_it_says_that_it_goes_on(stock, monkeypatch):
    seen = []
    read = tasks.progress
    monkeypatch.setattr(tasks, "progress", lambda meta: seen.append(meta) or read(meta))
    with signalled(signal.SIGINT, lambda: seen):
        done = fibo(stock.url, "call", "stock.progress", "--args", "[600]")
    task_id = re.search(UUID, done.stderr)[0]
    try:
        assert done.returncode == 130
        assert said(done) == (
            f"Stopped: a worker runs stock.progress[{task_id}] (PROGRESS), and goes on with it. "
            f"To end it: fibo revoke --terminate {task_id}\n"
        )
        assert f"{stock.node} holds it (active): it is running" in fibo(stock.url, "diagnose", task_id).stdout
    finally:
        fibo(stock.url, "revoke", task_id, "--terminate")


# On a terminal.


def test_a_terminal_shows_answers_for_people(worker):
    assert fibo_on_screen(worker.url, "compute", "4", "10", "1000000")[1].screen == (
        "F(4) = 3\nF(10) = 55\nF(1000000) = 19532821287077577316...68996526838242546875 (208,988 digits)"
    )


def test_a_quick_answer_needs_no_bar(worker, monkeypatch):
    monkeypatch.setattr(bar, "DELAY", 60.0)  # On a busy machine, nothing may be quick.
    status, screen = fibo_on_screen(worker.url, "compute", "4")
    assert (status, screen.raw) == (0, b"F(4) = 3\r\n")


def test_a_bar_moves_below_the_answers_and_is_gone_at_the_end(worker, bar_at_once, monkeypatch):
    monkeypatch.setattr(compute, "_BATCH", 10)  # All answers may come at once, and be written at once.
    status, screen = fibo_on_screen(worker.url, "compute", "--range", "1000000:1000100", rows=10)

    # As it was sent: a screen may be looked at while a line is half drawn.
    sent = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.raw.decode())
    steps = [int(done) for done, _ in re.findall(BAR[1:], sent)]
    assert status == 0
    assert len(set(steps)) > 3
    assert steps == sorted(steps)
    assert any(re.search(r"^F\(1000\d+\) = .*\n" + BAR[1:], each, re.MULTILINE) for each in screen.seen)
    assert b"\x1b[38;5;" in screen.raw  # in colours
    assert "Computing" not in screen.screen
    assert len(re.findall(rb"F\(1000\d+\) = \d{20}\.\.\.\d{20} \(\d+,\d+ digits\)\r\n", screen.raw)) == 100


def test_a_bar_is_shown_while_answers_go_to_a_file(worker, tmp_path, bar_at_once):
    path = tmp_path / "numbers.txt"
    status, screen = fibo_on_screen(worker.url, "compute", "--range", "1000000:1000060", "--hex", "-o", str(path))
    assert status == 0
    assert any(re.search(BAR, each, re.MULTILINE) for each in screen.seen)
    assert screen.screen == ""
    assert len(path.read_text().splitlines()) == 60


def test_no_color_is_respected(worker, bar_at_once):
    status, screen = fibo_on_screen(worker.url, "compute", "--range", "1000000:1000060", NO_COLOR="1")
    assert status == 0
    assert any(re.search(BAR, each, re.MULTILINE) for each in screen.seen)
    assert not re.search(rb"\x1b\[[0-9;]*m", screen.raw)


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("ascii", "\\xe9")])
def test_a_terminal_that_knows_ascii_only_gets_ascii(worker, stock, bar_at_once, encoding, shown):
    status, screen = fibo_on_screen(worker.url, "compute", "--range", "1000000:1000060", encoding=encoding)
    assert status == 0
    assert any("Computing" in each for each in screen.seen)
    assert screen.raw.isascii() == (encoding == "ascii")
    status, screen = fibo_on_screen(stock.url, "call", "stock.echo", "--args", '["\\u00e9"]', encoding=encoding)
    assert (status, screen.screen) == (0, f'[["{shown}"], {{}}]')


def test_a_dumb_terminal_gets_plain_lines(worker, bar_at_once):
    status, screen = fibo_on_screen(worker.url, "compute", "--range", "1000000:1000030", TERM="dumb")
    assert status == 0
    assert b"\x1b" not in screen.raw


@pytest.mark.parametrize("name", ["current", "done", "completed", "progress"])
def test_the_progress_of_a_task_moves_the_bar(stock, bar_at_once, name):
    status, screen = fibo_on_screen(stock.url, "call", "stock.progress", "--args", f'[30, "{name}"]')
    steps = {int(found[1]) for each in screen.seen if (found := re.search(r"^stock\.progress .* (\d+)/30 ", each))}
    assert (status, screen.screen) == (0, "30")
    assert len(steps) > 2


def test_of_progress_that_means_nothing_to_the_bar_the_state_is_shown(stock, bar_at_once):
    status, screen = fibo_on_screen(stock.url, "call", "stock.progress", "--args", '[30, "page"]')
    assert (status, screen.screen) == (0, "30")
    assert any(re.search(r"^stock\.progress: PROGRESS ", each) for each in screen.seen)


def test_the_bar_of_several_tasks_counts_them_and_shows_the_progress_of_one(stock, bar_at_once):
    step = ("--args", '[30, "current"]', "--then", "stock.add [4]")
    status, screen = fibo_on_screen(stock.url, "call", "stock.progress", *step)
    assert (status, screen.screen) == (0, "34")
    assert any(re.search(r"^stock\.progress: \d+/30 .* 0/2 ", each) for each in screen.seen)


@pytest.mark.parametrize(("columns", "table"), [(100, True), (40, False)])
def test_workers_are_a_table_where_there_is_room_for_one(worker, columns, table):
    status, screen = fibo_on_screen(worker.url, "workers", "--timeout", "10", columns=columns)
    assert status == 0
    heading = " worker +pool +concurrency +active +queues +tasks"
    assert bool(re.search(heading, screen.screen)) == table
    assert bool(re.search("^pool: prefork\nconcurrency: 2$", screen.screen, re.MULTILINE)) != table
    assert worker.node in screen.screen
    sent = re.sub(r"\x1b\[[\d;]*m", "", screen.raw.decode())
    assert all(len(line) <= columns for line in sent.splitlines())


def test_a_diagnosis_is_broken_at_words_on_a_terminal_and_one_line_elsewhere(stock):
    diagnose = ("diagnose", "00000000-0000-4000-8000-000000000000", "--timeout", "10")
    status, screen = fibo_on_screen(stock.url, *diagnose)
    lines = screen.raw.decode().splitlines()
    assert (status, len(lines) > 1, max(map(len, lines)) <= 80) == (0, True, True)
    done = fibo(stock.url, *diagnose)
    assert (done.stdout.count("\n"), len(done.stderr.splitlines())) == (1, 2)  # Another queue? A group?
    assert f"{done.stdout}{done.stderr}".split() == " ".join(lines).split()
    assert done.stderr.splitlines()[0].endswith("--queue QUEUE")
