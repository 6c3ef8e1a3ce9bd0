"""What cannot be run: every defect of a message on real workers, before and after which a good task runs."""

from __future__ import annotations

import base64
import json
import os
import re
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support.defects import DEEP, INVALID_WITH_ID, INVALID_WITHOUT_ID, MAX_BODY_BYTES, VALID, envelope
from support.programs import FIBO_WORKER
from support.servers import TESTS, RedisServer
from support.waiting import eventually, until

from fibo_client.celery import CeleryClient
from fibo_worker.child import Child
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetters

if TYPE_CHECKING:
    import redis

ALL = {**INVALID_WITH_ID, **INVALID_WITHOUT_ID, **VALID}


@dataclass
class Here:
    """A worker, and its Redis."""

    redis: redis.Redis
    url: str
    process: Child | WorkerProcess

    def answer(self, task_id, timeout=20.0):
        """Wait for a task's result."""
        return json.loads(
            until(
                lambda: self.redis.get(f"celery-task-meta-{task_id}"),
                lambda: f"{task_id!r} was not answered: {self.process.log.read_text()[-3000:]}",
                timeout=timeout,
            )
        )

    def run_good(self, task_id):
        self.redis.lpush("celery", envelope(task_id))
        assert self.answer(task_id)["result"] == "37"

    def goes_on(self):
        """See that the worker is there, has not connected anew, and has nothing in its hands."""
        self.process.check()
        log = self.process.log.read_text()
        assert "Unrecoverable error" not in log
        assert "Connection to broker lost" not in log
        assert len(re.findall(r" ready\.$", log, re.MULTILINE)) == 1
        until(lambda: not self.redis.exists("celery", "unacked", "unacked_index"), lambda: str(self.redis.keys()))


@contextmanager
def fibo_worker_start(url, env):
    """A worker as a user starts it."""
    env = {**os.environ, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, **env}
    arguments = [*FIBO_WORKER, "start", "-c", "1", "--", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    child = Child(arguments, name="started", env=env)
    try:
        child.wait_until(lambda: re.search(r" ready\.$", child.log.read_text(), re.MULTILINE) is not None, 60)
        yield child
    finally:
        child.stop(timeout=0)


STARTS = {
    "fibo-worker start": fibo_worker_start,
    "celery -A fibo_worker.app worker": lambda url, env: WorkerProcess(url, env=env, stop_timeout=0),
}


@pytest.fixture(scope="module", params=STARTS)
def here(request, redis_server):
    url = redis_server.fresh_url()
    env = {"FIBO_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with STARTS[request.param](url, env) as process, redis_server.client(url) as client:
        here = Here(client, url, process)
        yield here
        here.goes_on()


@dataclass
class Aftermath:
    """What came of all defects.

    Attributes:
        dead_letters: The dead letters, by the bytes of their messages.
        total: How many were counted.
    """

    here: Here
    dead_letters: dict[bytes, list[dict[str, Any]]]
    total: int

    def dead_letter(self, raw):
        """Give the one dead letter that a message became."""
        (found,) = self.dead_letters[raw]
        return found

    def result(self, task_id):
        """Give a task's result, for which nobody needs to wait any more."""
        return self.here.answer(task_id, timeout=0)

    def a_good_task_ran_after(self, name):
        assert self.result(f"after {name}")["result"] == "37"


@pytest.fixture(scope="module")
def after_all(here):
    """What came of all defects, sent at once, with a good task before the first and one after each."""
    with here.redis.pipeline() as step:
        step.lpush("celery", envelope("before all"))
        for name, raw in ALL.items():
            step.lpush("celery", raw, envelope(f"after {name}"))
        step.execute()
    # Where there is no answer to the last one, the tests tell after which defect there was none.
    with suppress(AssertionError):
        here.answer(f"after {name}")
    dead_letters = DeadLetters(here.redis, "celery")
    by_raw = defaultdict(list)
    for each in dead_letters.stored():
        dead_letter = json.loads(each)
        by_raw[base64.b64decode(dead_letter["raw"])].append(dead_letter)
    return Aftermath(here, by_raw, dead_letters.total())


@pytest.mark.parametrize("defect", INVALID_WITH_ID)
def test_a_message_that_cannot_be_run_is_kept_and_its_caller_is_told(after_all, defect):
    dead_letter = after_all.dead_letter(INVALID_WITH_ID[defect])

    assert (dead_letter["queue"], dead_letter["id"]) == ("celery", defect)
    meta = after_all.result(defect)
    assert meta["status"] == "FAILURE"
    assert meta["result"]["exc_type"] == "InvalidTaskError"
    assert dead_letter["reason"] in meta["result"]["exc_message"][0]
    after_all.a_good_task_ran_after(defect)


@pytest.mark.parametrize("defect", INVALID_WITHOUT_ID)
def test_a_message_without_a_readable_id_is_kept(after_all, defect):
    dead_letter = after_all.dead_letter(INVALID_WITHOUT_ID[defect])

    assert (dead_letter["queue"], dead_letter["id"]) == ("celery", None)
    assert dead_letter["reason"]
    after_all.a_good_task_ran_after(defect)


@pytest.mark.parametrize("oddity", VALID)
def test_what_can_be_run_is_run(after_all, oddity):
    assert after_all.result(oddity)["result"] == "37"
    assert after_all.dead_letters[VALID[oddity]] == []
    after_all.a_good_task_ran_after(oddity)


def test_the_worker_is_still_the_one_that_was_sent_them(after_all):
    after_all.here.goes_on()
    assert (
        sum(map(len, after_all.dead_letters.values()))
        == after_all.total
        == len(INVALID_WITH_ID) + len(INVALID_WITHOUT_ID)
    )


def test_a_task_nobody_knows_fails_as_celery_has_it_and_is_no_dead_letter(here):
    kept = DeadLetters(here.redis, "celery").kept()
    here.redis.lpush("celery", envelope("unknown", headers={"task": "nobody.knows"}))

    assert here.answer("unknown")["result"]["exc_type"] == "NotRegistered"
    here.run_good("after unknown")
    assert DeadLetters(here.redis, "celery").kept() == kept


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\x00", b"[1]", b"5", b"{}", b'"x"', DEEP.encode(), b'{"properties":{}}', envelope("x", body="@@@")],
    ids=range(8),
)
async def test_garbage_for_remote_control_is_ignored(here, garbage):
    database = here.url.rpartition("/")[2]

    assert here.redis.publish(f"/{database}.celery.pidbox", garbage) == 1

    async with CeleryClient(here.url) as client:
        # After some of it Celery subscribes anew, and hears nothing for a moment.
        await eventually(lambda: client.ping(timeout=20))
    here.process.check()


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A worker with a task on which Celery itself fails, by a Unix socket."""
    socket = tmp_path_factory.mktemp("redis") / "s"
    with RedisServer(options={"unixsocket": str(socket)}) as server:
        url = f"redis+socket://{socket}"
        worker = WorkerProcess(url, app="support.gaps", env={"PYTHONPATH": str(TESTS)}, stop_timeout=0)
        with worker as process, server.client() as client:
            yield Here(client, url, process)


def test_a_defect_that_passes_validation_stops_no_worker_either(gaps):
    raw = envelope("gap", headers={"task": "broken"})
    gaps.run_good("before gap")
    gaps.redis.lpush("celery", raw)
    gaps.run_good("after gap")

    (stored,) = DeadLetters(gaps.redis, "celery").stored()
    dead_letter = json.loads(stored)
    assert base64.b64decode(dead_letter["raw"]) == raw
    assert "TypeError" in dead_letter["reason"]
    assert gaps.answer("gap")["status"] == "FAILURE"
    gaps.goes_on()


def test_a_dead_letter_that_redis_does_not_take_is_kept_until_it_does(gaps):
    gaps.redis.delete("celery.dead")
    gaps.redis.set("celery.dead", "not a list")
    gaps.redis.lpush("celery", b"held")
    gaps.run_good("while held")
    assert gaps.redis.type("celery.dead") == b"string"

    gaps.redis.delete("celery.dead")

    dead_letters = DeadLetters(gaps.redis, "celery")
    until(dead_letters.kept)
    assert base64.b64decode(json.loads(dead_letters.stored()[0])["raw"]) == b"held"
