"""Stored groups and children that are not what they should be: `ResultDecodeError`, whatever it is."""

from __future__ import annotations

import json

import pytest

from fibo_client import ResultDecodeError
from fibo_client.celery import CeleryClient

MEMBER = [["a", None], None]
NESTED = '[["g", null], [' * 2000 + json.dumps(MEMBER) + "]]" * 2000

GROUPS = {
    "nothing": b"",
    "no JSON": b"{",
    "bytes": b"\x80\x04\xff",
    "a number": b"5",
    "a list": b"[]",
    "no result": b"{}",
    "null": {"result": None},
    "a task": {"result": MEMBER},
    "a short tuple": {"result": [["g"], [MEMBER]]},
    "an id that is a number": {"result": [[5, None], [MEMBER]]},
    "an empty id": {"result": [["", None], [MEMBER]]},
    "an id with a line": {"result": [["g\n", None], [MEMBER]]},
    "a long id": {"result": [["g" * 100_000, None], [MEMBER]]},
    "a member that is a number": {"result": [["g", None], [5]]},
    "a member without an id": {"result": [["g", None], [[["", None], None]]]},
    "a member with a line in its id": {"result": [["g", None], [[["a\n", None], None]]]},
    "a member with half a pair of a character": {"result": [["g", None], [[["\ud800", None], None]]]},
    "a member with a zero in its id": {"result": [["g", None], [[["\0", None], None]]]},
    "groups in groups in groups": f'{{"result": {NESTED}}}'.encode(),
    "lists in lists in lists": b'{"result": ' + b"[" * 100_000,
}


def encoded(stored):
    return stored if isinstance(stored, bytes) else json.dumps(stored).encode()


@pytest.fixture
async def client(server, hand):
    async with CeleryClient(server.url, timeout=10) as client:
        yield client


@pytest.mark.parametrize("name", GROUPS)
async def test_a_stored_group_that_is_none_is_told_as_that(client, hand, name):
    await hand.redis.set("celery-taskset-meta-g", encoded(GROUPS[name]), ex=60)
    with pytest.raises(ResultDecodeError):
        await client.group("g")


@pytest.mark.parametrize("name", [name for name, stored in GROUPS.items() if isinstance(stored, dict)])
async def test_children_that_are_none_are_told_as_that(client, hand, name):
    children = GROUPS[name]["result"]
    if name in ("a task", "null"):
        children = 5
    stored = {"task_id": "t", "status": "SUCCESS", "result": 1, "traceback": None, "children": [children]}
    await hand.redis.set("celery-task-meta-t", json.dumps(stored), ex=60)
    with pytest.raises(ResultDecodeError):
        await client.result("t").children()
