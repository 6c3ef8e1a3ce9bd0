"""What cannot be run: every defect of a message on a real worker, before and after which a good task runs."""

import base64
import bz2
import json
import os
import re
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis
from support.programs import FIBO_WORKER, run
from support.servers import TESTS, RedisServer

from fibo_worker.child import Child
from fibo_worker.dead_letters import DeadLetters
from fibo_worker.dev import WorkerProcess

CAP = 1024 * 1024


def envelope(
    task_id, *, args=(10,), body=None, task="fibo.fibonacci", headers=None, properties=None, drop=(), **fields
):
    """A sound message, with what is said changed and what is named in `drop` left out."""
    if body is None:
        body = base64.b64encode(json.dumps([list(args), {}, {}]).encode()).decode()
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": task_id, **(headers or {})},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": f"tag-{task_id}",
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            **(properties or {}),
        },
        **fields,
    }
    for path in drop:
        *outer, name = path.split("/")
        place = message
        for each in outer:
            place = place[each]
        del place[name]
    return json.dumps(message).encode()


def packed(value, compress=None):
    plain = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.b64encode(compress(plain) if compress else plain).decode()


def bomb(task_id, compress, name):
    body = packed(b"[[" + b" " * 20 * CAP + b"1],{},{}]", compress)
    return envelope(task_id, body=body, headers={"compression": name})


DEEP = "[" * 5000 + "]" * 5000

TOLD = {
    "no content-type": lambda i: envelope(i, drop=["content-type"]),
    "a body of two": lambda i: envelope(i, body=packed([[1], {}])),
    "no body": lambda i: envelope(i, drop=["body"]),
    "an empty body": lambda i: envelope(i, body=""),
    "a task that cannot be hashed": lambda i: envelope(i, task=["x"]),
    "base64 that cannot be decoded": lambda i: envelope(i, body="@@@"),
    "no properties": lambda i: envelope(i, drop=["properties"]),
    "a body that is not JSON": lambda i: envelope(i, body=packed(b"{nope")),
    "base64 without saying so": lambda i: envelope(i, drop=["properties/body_encoding"]),
    "an unknown body_encoding": lambda i: envelope(i, properties={"body_encoding": "rot13"}),
    "an unknown compression": lambda i: envelope(i, headers={"compression": "application/x-nope"}),
    "a compression that cannot be hashed": lambda i: envelope(i, headers={"compression": ["gzip"]}),
    "broken compressed bytes": lambda i: envelope(i, headers={"compression": "application/x-gzip"}),
    "an integer of 5,000 digits": lambda i: envelope(i, body=packed(b"[[" + b"9" * 5000 + b"],{},{}]")),
    "pickle": lambda i: envelope(i, **{"content-type": "application/x-python-serialize"}),
    "an unknown content-type": lambda i: envelope(i, **{"content-type": "application/nope"}),
    "a bad eta": lambda i: envelope(i, headers={"eta": "soon"}),
    "a bad expires": lambda i: envelope(i, headers={"expires": "late"}),
    "an integer as eta": lambda i: envelope(i, headers={"eta": 5}),
    "null as kwargs": lambda i: envelope(i, body=packed([[1], None, {}])),
    "null as args": lambda i: envelope(i, body=packed([None, {}, {}])),
    "a text as args": lambda i: envelope(i, body=packed(["ab", {}, {}])),
    "a body nested deeply": lambda i: envelope(i, body=packed(f"[[{DEEP}],{{}},{{}}]".encode())),
    "a body nested just below the parser's limit": lambda i: envelope(
        i, body=packed(f"[[{'[' * 700}{']' * 700}],{{}},{{}}]".encode())
    ),
    "a zlib bomb": lambda i: bomb(i, zlib.compress, "application/x-gzip"),
    "a bz2 bomb": lambda i: bomb(i, bz2.compress, "bzip2"),
    "time limits of a wrong shape": lambda i: envelope(i, headers={"timelimit": "ab"}),
    "a shadow that cannot be hashed": lambda i: envelope(i, headers={"shadow": [1]}),
}
UNTOLD = {
    "no id": lambda i: envelope(i, drop=["headers/id"]),
    "an integer as id": lambda i: envelope(5),
    "an id that is half a character": lambda i: envelope("\ud800"),
    "not JSON": lambda i: b"nope",
    "a JSON list": lambda i: b"[1, 2]",
    "not UTF-8": lambda i: b"\xff\xfe\x00",
    "nothing at all": lambda i: b"",
    "null": lambda i: b"null",
    "no headers": lambda i: envelope(i, drop=["headers"]),
    "null as headers": lambda i: json.dumps({**json.loads(envelope(i)), "headers": None}).encode(),
    "protocol 1": lambda i: envelope(
        i, body=packed({"task": "fibo.fibonacci", "id": i, "args": [10]}), drop=["headers/task", "headers/id"]
    ),
    "an envelope nested deeply": lambda i: DEEP.encode(),
    "headers nested deeply": lambda i: envelope(i, headers={"x": json.loads("[" * 700 + "]" * 700)}),
    "a type that is none": lambda i: envelope(i, x={"__type__": "nope", "__value__": 1}),
    "a type that cannot be hashed": lambda i: envelope(i, x={"__type__": [], "__value__": 1}),
    "an element larger than any body": lambda i: b'"' + b"x" * 3 * CAP + b'"',
}
RUNS = {
    "no delivery_tag": lambda i: envelope(i, drop=["properties/delivery_tag"]),
    "no delivery_info": lambda i: envelope(i, drop=["properties/delivery_info"]),
    "an exchange that does not exist": lambda i: envelope(
        i, properties={"delivery_info": {"exchange": "x", "routing_key": "y"}}
    ),
    "the barest message": lambda i: envelope(i, drop=["content-encoding"]),
    "a body that is plain JSON": lambda i: envelope(i, body="[[10],{},{}]", properties={"body_encoding": "utf-8"}),
    "compressed": lambda i: envelope(
        i, body=packed([[10], {}, None], zlib.compress), headers={"compression": "application/x-gzip"}
    ),
    "odd retries and limits": lambda i: envelope(i, headers={"retries": "x", "timelimit": []}),
}


@dataclass
class Here:
    redis: redis.Redis
    url: str
    process: object

    def answer(self, task_id, seconds=20):
        deadline = time.monotonic() + seconds
        while (stored := self.redis.get(f"celery-task-meta-{task_id}")) is None:
            assert time.monotonic() < deadline, f"{task_id} was not answered: {self.process.log.read_text()[-3000:]}"
            time.sleep(0.01)
        return json.loads(stored)

    def run_good(self, task_id):
        self.redis.lpush("celery", envelope(task_id))
        assert self.answer(task_id)["result"] == "37"

    def nothing_is_left(self):
        deadline = time.monotonic() + 10
        while self.redis.exists("celery", "unacked", "unacked_index"):
            assert time.monotonic() < deadline, self.redis.keys()
            time.sleep(0.01)


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


@pytest.fixture(scope="module", params=["fibo-worker start", "celery -A fibo_worker.app worker"])
def here(request, redis_server):
    url = redis_server.fresh_url()
    env = {"FIBO_MAX_BODY_BYTES": str(CAP)}
    start = fibo_worker_start if request.param == "fibo-worker start" else lambda url, env: WorkerProcess(url, env=env)
    with start(url, env) as process, redis_server.client(url) as client:
        here = Here(client, url, process)
        yield here
        here.nothing_is_left()


@pytest.fixture
def unique(request):
    return f"id-{abs(hash(request.node.name))}"


def buried(here, raw):
    """Send a message between two good ones to a worker that goes on; give the letter that it became."""
    letters = DeadLetters(here.redis, "celery")
    letters.purge()
    count, pid, log = letters.total(), here.process.pid, here.process.log
    token = f"good-{count}"
    here.run_good(f"{token}-before")
    here.redis.lpush("celery", raw)
    here.run_good(f"{token}-after")
    here.process.check()
    assert here.process.pid == pid
    assert "Unrecoverable error" not in log.read_text()
    assert "Connection to broker lost" not in log.read_text()
    here.nothing_is_left()
    [stored] = letters.stored()
    assert letters.total() == count + 1
    return stored


@pytest.mark.parametrize("defect", TOLD)
def test_a_message_that_cannot_be_run_is_kept_and_its_caller_is_told_at_once(here, unique, defect):
    raw = TOLD[defect](unique)

    letter = json.loads(buried(here, raw))

    assert base64.b64decode(letter["raw"]) == raw
    assert (letter["queue"], letter["id"]) == ("celery", unique)
    meta = here.answer(unique)
    assert meta["status"] == "FAILURE"
    assert meta["result"]["exc_type"] == "InvalidTaskError"
    assert letter["reason"] in meta["result"]["exc_message"][0]


@pytest.mark.parametrize("defect", UNTOLD)
def test_a_message_without_a_readable_id_is_kept(here, unique, defect):
    raw = UNTOLD[defect](unique)

    letter = json.loads(buried(here, raw))

    assert base64.b64decode(letter["raw"]) == raw
    assert letter["id"] is None
    assert letter["reason"]


@pytest.mark.parametrize("oddity", RUNS)
def test_what_can_be_run_is_run(here, unique, oddity):
    here.redis.lpush("celery", RUNS[oddity](unique))

    assert here.answer(unique)["result"] == "37"
    here.nothing_is_left()


def test_two_messages_with_one_delivery_tag_are_both_run(here):
    both = [envelope(each, properties={"delivery_tag": "same"}) for each in ("twin-1", "twin-2")]
    here.redis.lpush("celery", *both)

    assert [here.answer(each)["result"] for each in ("twin-1", "twin-2")] == ["37", "37"]
    here.nothing_is_left()


def test_a_task_nobody_knows_fails_as_celery_has_it_and_is_no_dead_letter(here):
    letters = DeadLetters(here.redis, "celery")
    letters.purge()
    here.redis.lpush("celery", envelope("unknown-task", task="nobody.knows"))

    assert here.answer("unknown-task")["result"]["exc_type"] == "NotRegistered"
    here.run_good("after-unknown-task")
    assert letters.stored() == []


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\x00", b"[1]", b"5", b"{}", b'"x"', DEEP.encode(), b'{"properties":{}}', envelope("x", body="@@@")],
    ids=range(8),
)
def test_garbage_for_remote_control_is_ignored(here, unique, garbage):
    pid = here.process.pid
    database = here.url.rpartition("/")[2]

    assert here.redis.publish(f"/{database}.celery.pidbox", garbage) == 1

    here.run_good(unique)
    here.process.check()
    assert here.process.pid == pid
    done = run(*FIBO_WORKER, "health", CELERY_BROKER_URL=here.url)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A worker with a task on which Celery itself fails, by a Unix socket."""
    socket = tmp_path_factory.mktemp("redis") / "s"
    with RedisServer(options={"unixsocket": str(socket)}) as server:
        url = f"redis+socket://{socket}"
        env = {"PYTHONPATH": str(TESTS)}
        worker = WorkerProcess(url, app="support.gaps", env=env)
        with worker as process, server.client() as client:
            yield Here(client, url, process)


def test_a_defect_that_no_screening_knows_stops_no_worker_either(gaps):
    raw = envelope("gap", task="broken")

    letter = json.loads(buried(gaps, raw))

    assert base64.b64decode(letter["raw"]) == raw
    assert "TypeError" in letter["reason"]
    assert gaps.answer("gap")["status"] == "FAILURE"


def test_a_letter_that_redis_does_not_take_is_kept_until_it_does(gaps):
    gaps.redis.delete("celery.dead")
    gaps.redis.set("celery.dead", "not a list")
    gaps.redis.lpush("celery", b"held")
    gaps.run_good("while-held")
    assert gaps.redis.type("celery.dead") == b"string"

    gaps.redis.delete("celery.dead")

    letters = DeadLetters(gaps.redis, "celery")
    deadline = time.monotonic() + 10
    while not letters.kept():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert base64.b64decode(json.loads(letters.stored()[0])["raw"]) == b"held"
