"""Messages near Redis's limits: what is kept of them is bounded, and none stops the worker."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.defects import envelope
from support.servers import RedisServer
from support.waiting import until

from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter

if TYPE_CHECKING:
    import redis

MIB = 1024 * 1024


def run_good(direct: redis.Redis, worker: WorkerProcess, task_id: str) -> None:
    """Have the worker run a good task."""
    direct.lpush("celery", envelope(task_id))
    until(lambda: direct.get(f"celery-task-meta-{task_id}"), lambda: worker.log.read_text()[-3000:])


def dead_letters(direct: redis.Redis) -> list[DeadLetter]:
    return [DeadLetter.decode(each) for each in direct.lrange("celery.dead", 0, -1)]


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


@pytest.fixture(scope="module")
def small():
    """A worker on a Redis that takes values of at most 8 MiB, and a connection to that."""
    with (
        RedisServer(options={"proto-max-bulk-len": "8mb"}) as server,
        server.client() as direct,
        WorkerProcess(server.url, stop_timeout=0) as worker,
    ):
        yield worker, direct


def went_on(direct: redis.Redis, worker: WorkerProcess) -> None:
    """See that the worker has not connected anew, and has nothing in its hands."""
    worker.check()
    assert len(re.findall(r" ready\.$", worker.log.read_text(), re.MULTILINE)) == 1
    until(lambda: not direct.keys("celery") + direct.keys("unacked*"), lambda: str(direct.keys()))


def test_a_message_whose_dead_letter_redis_does_not_take_is_cut_and_the_worker_goes_on(small):
    worker, direct = small
    raw = b"\xff" * (7 * MIB)
    direct.lpush("celery", raw)
    run_good(direct, worker, "after large junk")

    dead_letter = dead_letters(direct)[0]
    assert (dead_letter.size, dead_letter.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert raw.startswith(dead_letter.raw)
    assert 0 < len(dead_letter.raw) <= 4096
    went_on(direct, worker)
    assert peak_memory(worker.pid) < 400 * MIB


def test_a_message_that_redis_cannot_record_as_taken_is_put_aside_and_its_caller_is_told(small):
    worker, direct = small
    body = base64.b64encode(json.dumps([["x" * (6 * MIB)], {}, {}]).encode()).decode()
    raw = envelope("large", body="")
    raw = envelope("large", body=body[: (8 * MIB - len(raw) - 8) // 4 * 4])
    # It fits; what the worker records of it is a little longer.
    assert 8 * MIB - 16 < len(raw) <= 8 * MIB
    direct.lpush("celery", raw)
    run_good(direct, worker, "after large task")

    assert dead_letters(direct)[0].id == "large"
    went_on(direct, worker)


def test_a_worker_that_has_put_a_large_message_aside_ends_when_it_is_told_to(small):
    worker, direct = small
    direct.lpush("celery", b"\xff" * (7 * MIB))
    run_good(direct, worker, "before the end")
    os.kill(worker.pid, signal.SIGTERM)
    until(lambda: _is_gone(worker), lambda: worker.log.read_text()[-3000:])


def _is_gone(worker: WorkerProcess) -> bool:
    try:
        worker.check()
    except RuntimeError:
        return True
    return False


def test_twenty_pieces_of_junk_of_ten_megabytes_stay_within_the_bound(redis_server):
    url = redis_server.fresh_url()
    with redis_server.client(url) as direct, WorkerProcess(url, stop_timeout=0) as worker:
        for number in range(20):
            direct.lpush("celery", b"%d" % number + b"\xff" * 10_000_000)
        run_good(direct, worker, "after all")
        kept = direct.lrange("celery.dead", 0, -1)
        assert [DeadLetter.decode(each).raw[:2] for each in kept] == [b"19", b"18", b"17", b"16", b"15"]
        assert sum(map(len, kept)) <= 64 * MIB
        assert int(direct.get("celery.dead.count")) == 20
        assert all(0 < direct.ttl(key) <= 30 * 24 * 3600 for key in direct.keys("celery.dead*"))
