"""What cannot be run stops no worker: the main part. `tests/outages/test_dead_letters.py` has every defect there is."""

from __future__ import annotations

import base64
import json

import pytest
from support.defects import INVALID_WITH_ID, INVALID_WITHOUT_ID, envelope
from support.waiting import eventually

from fibo_client import FiboClient, TaskFailedError
from fibo_worker.guard.dead_letters import DeadLetters

# Of the envelope, of the body, and of what Celery believes in the headers.
DEFECTS = [
    *("not JSON", "no headers", "no properties", "an envelope nested deeply"),
    *("no content-type", "base64 that cannot be decoded", "a body of two"),
    *("a task that cannot be hashed", "an id that is half a character", "a bad eta", "time limits of a wrong shape"),
]


@pytest.fixture
def dead_letters(worker, redis_server):
    """The dead letters of the session's worker, none at first and none left."""
    with redis_server.client(worker.admin_url) as client:
        dead_letters = DeadLetters(client, "celery")
        dead_letters.purge()
        yield dead_letters
        dead_letters.purge()


async def test_messages_that_cannot_be_run_are_kept_while_the_worker_goes_on(worker, redis_server, dead_letters):
    messages = [{**INVALID_WITH_ID, **INVALID_WITHOUT_ID}[name] for name in DEFECTS]
    good = [f"good among the bad {number}" for number in range(len(messages))]
    with redis_server.client(worker.admin_url) as direct, direct.pipeline() as step:
        for task_id, raw in zip(good, messages, strict=True):
            step.lpush("celery", raw, envelope(task_id))
        step.execute()

    async with FiboClient(worker.url) as client:
        for task_id in good:
            assert await client.celery.result(task_id).get(timeout=20) == "37"
        for name in DEFECTS:
            if name in INVALID_WITH_ID:
                with pytest.raises(TaskFailedError, match="InvalidTaskError"):
                    await client.celery.result(name).get(timeout=20)
        await eventually(lambda: client.celery.ping(timeout=20))
    worker.process.check()
    assert "Unrecoverable error" not in worker.process.log.read_text()
    assert [base64.b64decode(json.loads(each)["raw"]) for each in dead_letters.stored()[::-1]] == messages
