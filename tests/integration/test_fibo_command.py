"""The command ``fibo`` on a Redis to which no worker listens."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import time

import pytest
from support.fibo import fibo, fibo_on_screen, signalled
from support.servers import RedisServer

from fibo_client.cli import runner

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def said(done):
    """What an error says, without a traceback in it."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


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


@pytest.mark.parametrize("command", ["ping", "workers"])
def test_no_worker_is_status_5_and_says_how_to_start_one(redis_url, command):
    done = fibo(redis_url, command, "--timeout", "0.1")
    assert (done.returncode, said(done)) == (
        5, "Error: Redis can be reached, but no worker answered in 0.1 s. Start one, such as: fibo-worker start\n",
    )  # fmt: skip


def test_a_revocation_that_nobody_hears_is_status_5(redis_url):
    done = fibo(redis_url, "revoke", "x")
    assert (done.returncode, said(done)) == (5, "Error: no worker heard it. Start one, such as: fibo-worker start\n")


@pytest.mark.parametrize(
    "command", [("compute", "10"), ("call", "tasks.add"), ("sqrt", "2"), ("result", "x", "--wait")]
)
def test_no_answer_for_want_of_a_worker_is_status_5_and_says_what_to_ask(redis_url, command):
    done = fibo(redis_url, *command, "--timeout", "0.5")

    assert done.returncode == 5
    lines = said(done).splitlines()
    task_id = re.match(r"Error: no answer within [\d.]+ s from [\w.]+\[([\w-]+)\]$", lines[0])[1]
    assert "is PENDING: " in lines[1]
    assert re.match("Start a worker|No worker listens on redis://.*: start one", lines[2])
    assert lines[3:] == [f"Ask again: fibo diagnose {task_id}"]


def test_a_result_that_is_not_there_yet_is_status_3(redis_url):
    task_id = "00000000-0000-4000-8000-000000000000"
    done = fibo(redis_url, "result", task_id)
    assert done.returncode == 3
    assert said(done).startswith("PENDING: nothing is stored under this id.")
    assert f"fibo diagnose {task_id}\n" in done.stderr

    done = fibo(redis_url, "result", task_id, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"id": task_id, "state": "PENDING"})


def test_what_a_task_answers_cannot_play_with_the_terminal_but_is_left_as_it_is_elsewhere(redis_server, redis_url):
    evil = "\x1b[2Jgo\u202ene"
    meta = {"status": "SUCCESS", "result": evil, "traceback": None, "children": [], "task_id": "x"}
    failed = {"exc_type": f"{evil}\n" * 100_000, "exc_module": evil, "exc_message": [evil]}
    failure = meta | {"status": "FAILURE", "result": failed, "traceback": evil, "task_id": "y"}
    with redis_server.client(redis_url) as client:
        client.mset({"celery-task-meta-x": json.dumps(meta), "celery-task-meta-y": json.dumps(failure)})
    status, screen = fibo_on_screen(redis_url, "result", "x")
    assert (status, screen.screen) == (0, "\\x1b[2Jgo\\u202ene")
    assert fibo(redis_url, "result", "x").stdout == f"{evil}\n"
    status, screen = fibo_on_screen(redis_url, "result", "y", "--traceback")
    assert status == 1
    assert b"\x1b[2J" not in screen.raw
    assert "\u202e" not in screen.raw.decode()
    assert len(screen.raw) < 2000


# A Redis that says no, or goes away.


def test_a_password_that_is_refused_is_status_4_and_is_not_shown():
    with RedisServer(password="right") as server:
        done = fibo(server.url.replace("right", "sesame"), "compute", "10")
    assert done.returncode == 4
    assert "sesame" not in said(done)
    assert "--broker" not in done.stderr  # it was found, and said no


def test_an_outage_is_told_if_the_command_outlives_it(monkeypatch, tmp_path):
    told = tmp_path / "told"
    say = runner.Console.info

    def noted(console, text):
        say(console, text)
        told.write_text(text)

    monkeypatch.setattr(runner.Console, "info", noted)
    with RedisServer() as server, server.client() as client:
        gone = []

        def outlived() -> bool:
            if not gone and client.llen("celery"):
                server.stop()
                gone.append(True)
            return told.exists()

        with signalled(signal.SIGINT, outlived):
            done = fibo(server.url, "compute", "10", "--timeout", "60")
    assert done.returncode == 130
    outage, stopped = said(done).splitlines()
    assert re.match(r"redis://127\.0\.0\.1:\d+/0 is gone, trying again: (?!redis://)", outage)
    assert re.fullmatch(
        r"Stopped: 0 of 1 answered, the rest could not be revoked: "
        r"redis://127\.0\.0\.1:\d+/0: .* Is Redis running there\? "
        r"What no worker has begun expires within ([1-5]?\d|6[0-2]) s; what one has begun goes on\.",
        stopped,
    )


# Ctrl-C.


def test_a_wait_that_is_stopped_changes_nothing_about_the_task(redis_server, redis_url):
    task_id = fibo(redis_url, "call", "stock.add", "--no-wait").stdout.strip()

    def waits() -> int:
        return direct.pubsub_numsub(f"celery-task-meta-{task_id}")[0][1]

    with redis_server.client(redis_url) as direct, signalled(signal.SIGINT, waits):
        done = fibo(redis_url, "result", task_id, "--wait")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"Stopped: the task goes on; wait again: fibo result {task_id} --wait\n"
    assert "it waits in 'celery'" in fibo(redis_url, "diagnose", task_id, "--timeout", "0.1").stdout


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("compute", "4", "10"), r"0 of 2 answered, the rest"),
        (("sqrt", "4", "10"), r"what is unfinished"),
        (("call", "tasks.add"), rf"tasks\.add\[{UUID}\]"),
    ],
)
def test_a_stop_whose_revocation_nobody_hears_says_so_and_when_the_tasks_expire(redis_server, redis_url, command, what):
    began = time.time()
    with redis_server.client(redis_url) as direct, signalled(signal.SIGINT, lambda: direct.llen("celery")):
        done = fibo(redis_url, *command)
    assert done.returncode == 130
    found = re.fullmatch(
        rf"Stopped: {what} could not be revoked: no worker heard it\. "
        r"What no worker has begun expires within (?P<seconds>\d+) s; what one has begun goes on\.\n",
        said(done),
    )
    with redis_server.client(redis_url) as direct:
        messages = [json.loads(message) for message in direct.lrange("celery", 0, -1)]
    moments = [dt.datetime.fromisoformat(each["headers"]["expires"]).timestamp() for each in messages]
    seconds = int(found["seconds"])
    # It was said in between. A second is what it may be rounded by.
    assert began + seconds - 1.1 < max(moments) < time.time() + seconds


@pytest.mark.parametrize(
    ("command", "what"),
    [(("compute", "4", "10"), r"0 of 2 answered, the rest"), (("call", "tasks.add"), rf"tasks\.add\[{UUID}\]")],
)
def test_a_stop_without_redis_says_that_the_revocation_did_not_go_out(command, what):
    with RedisServer() as server, server.client() as direct:

        def gone() -> bool:
            if not direct.llen("celery"):
                return False
            server.stop()
            return True

        with signalled(signal.SIGINT, gone):
            done = fibo(server.url, *command, "--timeout", "inf")
    assert done.returncode == 130
    assert re.search(
        rf"^Stopped: {what} could not be revoked: redis://127\.0\.0\.1:\d+/0: .* Is Redis running there\? "
        r"What no worker has begun waits for a worker; what one has begun goes on\.\n\Z",
        said(done),
        re.MULTILINE,
    )
