"""What a sender cannot have: more time than the settings give, polling without end, lines in the worker's log."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support.clients import celery_client
from support.hostile_text import acts
from support.servers import TESTS, stock_worker
from support.waiting import until

from fibo_worker.dev import WorkerProcess

FORGED = "\r\n[2026-01-01 00:00:00,000: INFO/MainProcess] forged\u2028forged\x1b[2J\u202e"
HUGE = [10_000_000] * 70
MAP = {"task": "fibo.fibonacci", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}


@pytest.fixture(scope="module")
def url(redis_server):
    return redis_server.fresh_url()


@pytest.fixture(scope="module")
def worker(url):
    """A worker with short limits, and tasks that ignore them."""
    env = {"PYTHONPATH": str(TESTS), "FIBO_TIME_LIMIT": "3", "FIBO_SOFT_TIME_LIMIT": "1"}
    with WorkerProcess(url, app="support.poisoned", env=env, concurrency=2, stop_timeout=0) as process:
        yield process


@pytest.fixture(scope="module")
def app(url):
    with celery_client(url) as client:
        yield client


@pytest.fixture
def redis(redis_server, url):
    with redis_server.client(url) as client:
        yield client


@pytest.mark.parametrize("limits", [{}, {"time_limit": 1000, "soft_time_limit": 1000}, {"time_limit": 1e8}])
def test_a_sender_has_no_more_time_than_the_settings_give(worker, app, limits):
    with pytest.raises(SoftTimeLimitExceeded):
        app.send_task("poison.spin", **limits).get(timeout=30)
    with pytest.raises(SoftTimeLimitExceeded):
        app.send_task("celery.map", (MAP, HUGE), **limits).get(timeout=30)
    with pytest.raises(SoftTimeLimitExceeded):
        app.send_task("celery.starmap", (MAP, [[n] for n in HUGE]), **limits).get(timeout=30)
    with pytest.raises(TimeLimitExceeded, match="3"):
        app.send_task("poison.deaf", **limits).get(timeout=30)


def test_a_sender_may_have_less(worker, app):
    with pytest.raises(SoftTimeLimitExceeded):
        app.send_task("poison.spin", soft_time_limit=0.2).get(timeout=30)
    until(lambda: "Soft time limit (0.2s) exceeded for poison.spin" in worker.log.read_text())


def test_a_limit_that_remote_control_sets_holds_and_can_be_taken_back(worker, app):
    def limit(soft):
        arguments = {"task_name": "poison.spin", "soft": soft, "hard": 3}
        return app.control.broadcast("time_limit", arguments=arguments, reply=True, limit=1, timeout=10)

    assert limit(0.3) == [{worker.node: {"ok": "time limits set successfully"}}]
    with pytest.raises(SoftTimeLimitExceeded):
        app.send_task("poison.spin", soft_time_limit=100).get(timeout=30)
    until(lambda: "Soft time limit (0.3s) exceeded for poison.spin" in worker.log.read_text())
    assert limit(1) == [{worker.node: {"ok": "time limits set successfully"}}]


@pytest.mark.parametrize("headers", [{}, {"retries": -1_000_000}])
def test_a_chord_that_never_ends_is_looked_at_once_a_second_and_given_up(worker, app, redis, headers):
    id = str(uuid.uuid4())
    callback = app.signature("fibo.fibonacci", (1,))
    arguments = {"interval": 0, "max_retries": 1, "result": [[["never-sent", None], None]]}
    body = base64.b64encode(json.dumps([["a-group", callback], arguments, {}]).encode()).decode()
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "celery.chord_unlock", "id": id, "retries": 0, "lang": "py", **headers},
        "properties": {"body_encoding": "base64", "delivery_tag": "t", "correlation_id": id},
    }
    redis.lpush("celery", json.dumps(message))

    until(lambda: f"celery.chord_unlock[{id}] raised" in worker.log.read_text(), worker.log.read_text)
    received = worker.log.read_text().count(f"celery.chord_unlock[{id}] received")
    assert 2 <= received <= 3
    worker.check()


HOSTILE = {
    "argsrepr": {"argsrepr": FORGED, "kwargsrepr": FORGED},
    "shadow": {"shadow": f"name{FORGED}"},
    "origin": {"origin": FORGED, "root_id": FORGED, "parent_id": FORGED},
}


def forged(process, since=0):
    text = process.log.read_text()[since:]
    lines = text.partition(" ready.\n")[2].splitlines() if since == 0 else text.splitlines()
    return [line for line in lines if "forged" in line and not line.startswith(("[20", "    "))] + acts(text, "\n\t")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_sender_chooses_stays_on_its_line_of_the_log(worker, app, name):
    since = len(worker.log.read_text())
    for task, args in (("fibo.fibonacci", (1,)), ("fibo.fibonacci", (FORGED,)), ("no.such.task", (FORGED,))):
        result = app.send_task(task, args, **HOSTILE[name])
        lines = 1 if task == "no.such.task" else 2
        until(lambda id=result.id, lines=lines: worker.log.read_text().count(id) >= lines, worker.log.read_text)

    assert forged(worker, since) == []


@pytest.mark.parametrize("field", ["task", "id"])
def test_a_name_or_an_id_with_control_characters_is_a_dead_letter(worker, app, redis, field):
    since = len(worker.log.read_text())
    names = {"task": "fibo.fibonacci", "id": str(uuid.uuid4())}
    names[field] += FORGED
    app.send_task(names["task"], (1,), task_id=names["id"])

    until(lambda: f"its header '{field}' has control characters" in worker.log.read_text())
    assert forged(worker, since) == []


def test_an_errors_text_cannot_be_taken_for_a_line_of_the_log(worker, app):
    since = len(worker.log.read_text())
    result = app.send_task("poison.raise", (FORGED,))

    with pytest.raises(Exception, match="forged"):
        result.get(timeout=20)
    until(lambda: f"poison.raise[{result.id}] raised unexpected" in worker.log.read_text())
    until(lambda: "    Traceback (most recent call last)" in worker.log.read_text()[since:])
    assert forged(worker, since) == []


def test_celery_alone_lets_a_sender_write_lines(redis_server):
    url = redis_server.fresh_url()
    with stock_worker(url) as process, celery_client(url) as app:
        app.send_task("stock.add", (1, 2), **HOSTILE["shadow"]).get(timeout=20)
        app.send_task("stock.fail", (FORGED,)).get(timeout=20, propagate=False)
        until(lambda: "raised unexpected" in process.log.read_text())
        lines = process.log.read_text().replace("\r\n", "\n").splitlines()

    assert "[2026-01-01 00:00:00,000: INFO/MainProcess] forged" in lines
