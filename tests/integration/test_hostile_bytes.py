"""Whatever stands at a result key or arrives on its channel: that call alone fails, and the client works on."""

from __future__ import annotations

import asyncio
import base64
import bz2
import json
import lzma
import pickle
import zlib

import pytest
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.contract import FIBO_TASK, FIBONACCI, FIBONACCI_CHUNK, SQRT_TASK
from fibo_client.errors import (
    FiboError,
    ResultDecodeError,
    ResultInflatesError,
    ResultTooDeepError,
    ResultTooLargeError,
    TaskFailedError,
    TaskRevokedError,
    TooManyPendingError,
)
from fibo_client.testing.results import encode_meta

LIMIT = 256 * 1024
BOMB = bytes(64 * LIMIT)
ID = "bad"


def meta(result, status="SUCCESS", **fields):
    more = {"status": status, **fields}  # Of two members of one name, the last counts.
    return encode_meta(ID, result=result)[:-1] + b", " + json.dumps(more).encode()[1:]


def raised(exc_type, exc_module="builtins", exc_message=(3,), **fields):
    wire = {"exc_type": exc_type, "exc_module": exc_module, "exc_message": exc_message}
    return meta(wire, "FAILURE", **fields)


def compressed(content_type, data):
    return b"\x00celery-compressed\x00" + content_type + b"\x00" + data


def raw(json_text):
    """A result that is spelled by hand, in a meta that is right."""
    return meta("@").replace(b'"@"', json_text)


DECODE, FAILED = ResultDecodeError, TaskFailedError
BAD = {
    "nothing": (b"", DECODE),
    "random bytes": (bytes(range(255, -1, -1)), DECODE),
    "zeros": (bytes(1000), DECODE),
    "not UTF-8": (raw(b'"\xff\xfe"'), DECODE),
    "UTF-16": (meta(1).decode().encode("utf-16"), DECODE),
    "truncated": (meta([1, 2, 3])[:-9], DECODE),
    "twice": (meta(1) * 2, DECODE),
    "one brace": (b"{", DECODE),
    "a list": (b"[]", DECODE),
    "a number": (b"5", DECODE),
    "null": (b"null", DECODE),
    "empty object": (b"{}", DECODE),
    "no result": (json.dumps({"status": "SUCCESS", "task_id": ID}).encode(), DECODE),
    "status is a number": (meta(1, 5), DECODE),
    "status is a list": (meta(1, []), DECODE),
    "status is long": (meta(1, "S" * 101), DECODE),
    "task id is a list": (meta(1, task_id=[ID]), DECODE),
    "another task's result": (encode_meta("other", "SUCCESS", 1), DECODE),
    "huge integer": (raw(b"9" * 5000), DECODE),
    "huge exponent": (raw(b'{"__type__": "decimal", "__value__": "1e9999999999999999999"}'), DECODE),
    "deep lists": (raw(b"[" * 501 + b"]" * 501), ResultTooDeepError),
    "deep dicts": (raw(b'{"a":' * 501 + b"1" + b"}" * 501), ResultTooDeepError),
    "endless lists": (raw(b"[" * 100_000), ResultTooDeepError),
    "unknown type": (raw(b'{"__type__": "os.system", "__value__": "true"}'), DECODE),
    "type is deep": (raw(b'{"__type__": ' + b"[" * 400 + b"]" * 400 + b', "__value__": 1}'), DECODE),
    "broken date": (raw(b'{"__type__": "datetime", "__value__": "yesterday"}'), DECODE),
    "date of a wrong type": (raw(b'{"__type__": "datetime", "__value__": {}}'), DECODE),
    "broken uuid": (raw(b'{"__type__": "uuid", "__value__": {"hex": [1]}}'), DECODE),
    "broken base64": (raw(b'{"__type__": "base64", "__value__": "@"}'), DECODE),
    "surrogate in bytes": (raw(b'{"__type__": "bytes", "__value__": "\\ud800"}'), DECODE),
    "pickle": (pickle.dumps({"status": "SUCCESS", "result": 1, "task_id": ID}), DECODE),
    "pickle of protocol 0": (b"cos\nsystem\n(S'true'\ntR.", DECODE),
    "yaml": (b"!!python/object/apply:os.system ['true']", DECODE),
    "too large": (meta("x" * LIMIT), ResultTooLargeError),
    "bomb of zlib": (compressed(b"application/x-gzip", zlib.compress(BOMB)), ResultInflatesError),
    "bomb of bz2": (compressed(b"application/x-bz2", bz2.compress(BOMB)), ResultInflatesError),
    "bomb of lzma": (compressed(b"application/x-lzma", lzma.compress(BOMB)), ResultInflatesError),
    "unknown compression": (compressed(b"application/x-\xff", b"x"), DECODE),
    "compression without a name": (b"\x00celery-compressed\x00", DECODE),
    "broken compression": (compressed(b"application/x-gzip", b"broken"), DECODE),
    "compressed garbage": (compressed(b"application/x-gzip", zlib.compress(b"\x80\x04N.")), DECODE),
    "SystemExit": (raised("SystemExit"), FAILED),
    "KeyboardInterrupt": (raised("KeyboardInterrupt", exc_message=[]), FAILED),
    "CancelledError": (raised("CancelledError", "asyncio.exceptions"), FAILED),
    "GeneratorExit": (raised("GeneratorExit"), FAILED),
    "os.system": (raised("system", "os", ["touch /tmp/never"]), FAILED),
    "failure that is text": (meta("it broke", "FAILURE"), FAILED),
    "failure that is null": (meta(None, "FAILURE"), FAILED),
    "failure of wrong types": (raised(["E"], {"m": 1}, {"a": [1]}), FAILED),
    "failure with deep arguments": (raw(b"[" * 490 + b"]" * 490).replace(b"SUCCESS", b"FAILURE"), FAILED),
    "failure with a long traceback": (raised("E", traceback="x" * 100_000), FAILED),
    "failure with a surrogate": (raised("E", exc_message=["\ud800"], traceback="\ud800"), FAILED),
    "revoked by nonsense": (meta([[[]]], "REVOKED"), TaskRevokedError),
}


@pytest.fixture(scope="module", params=["SET", "PUBLISH"])
def way(request):
    return request.param


@pytest.fixture
async def client(server, hand, way):
    # What is published only must be heard by push; what is only stored, be polled.
    options = {"push": True, "poll_max": 30.0} if way == "PUBLISH" else {"push": False}
    async with CeleryClient(server.url, max_result_bytes=LIMIT, max_decompressed_bytes=LIMIT, **options) as client:
        yield client


@pytest.mark.parametrize("name", BAD)
async def test_bad_bytes_fail_their_own_call_and_no_other(client, hand, way, name):
    payload, error = BAD[name]
    bad = asyncio.create_task(client.result(ID).get(timeout=20))
    good = asyncio.create_task(client.result("good").get(timeout=20))
    key = f"celery-task-meta-{ID}"
    if way == "SET":
        await hand.redis.set(key, payload)
    else:

        async def subscribed():
            return len(await hand.channels()) == 2

        await eventually(subscribed)

        async def heard():  # A push may come before the confirmation is read; then it is not lost, but read.
            return bad.done() or await hand.redis.publish(key, payload) == 0 or bad.done()

        await eventually(heard)
    with pytest.raises(FiboError) as caught:
        await bad
    assert type(caught.value) is error
    assert len(str(caught.value)) < 3000
    assert not good.done()
    await hand.put("good", result=55)
    assert await good == 55
    reader, *_ = client._session._reader._tasks
    assert not reader.done()
    assert client.stats().pending == 0


async def test_an_error_of_a_limit_names_the_setting_that_raises_it(server, hand):
    async with CeleryClient(
        server.url, max_result_bytes=4096, max_decompressed_bytes=2048, max_json_depth=10
    ) as client:
        for payload, error, setting in [
            (meta("x" * 5000), ResultTooLargeError, "4096 .max_result_bytes"),
            (
                compressed(b"application/x-gzip", zlib.compress(bytes(3000))),
                ResultInflatesError,
                "2048.*decompressed",
            ),
            (raw(b"[" * 11 + b"]" * 11), ResultTooDeepError, "10 levels .max_json_depth"),
        ]:
            await hand.redis.set(f"celery-task-meta-{ID}", payload)
            with pytest.raises(error, match=setting) as caught:
                await client.result(ID).get(timeout=5)
            assert caught.value.task_id == ID


async def test_a_call_beyond_the_limit_of_pending_results_sends_nothing(server, hand):
    add = RemoteTask[[int], int]("t.add")
    async with CeleryClient(server.url, max_pending=3) as client:
        calls = [asyncio.create_task(client.call(add, (n,), timeout=30)) for n in range(3)]

        async def sent():
            return await hand.redis.llen("celery") == 3

        await eventually(sent)
        with pytest.raises(TooManyPendingError, match="max_pending") as caught:
            await client.call(add, (4,), timeout=30)
        assert (caught.value.limit, caught.value.pending, caught.value.wanted) == (3, 3, 1)
        with pytest.raises(TooManyPendingError):
            await client.result("x").get(timeout=5)
        assert await client.ready([client.result(str(n)) for n in range(10)]) == [False] * 10
        handed_out = await client.send_many([add(n) for n in range(10)])  # Nobody waits for them.
        assert len(handed_out) == 10
        assert await hand.redis.llen("celery") == 13
        calls[0].cancel()
        await asyncio.gather(calls[0], return_exceptions=True)
        again = asyncio.create_task(client.call(add, (5,), timeout=30))

        async def sent_again():
            return await hand.redis.llen("celery") == 14

        await eventually(sent_again)
        for call in (*calls, again):
            call.cancel()
        await asyncio.gather(*calls, again, return_exceptions=True)


ANSWERS = [
    None, True, -1, 1.5, 10**400, "", "x", "-5", "0x5", " 5", "\u0665", "g" * 100, [], [[]], {}, {"error": 1},
    {"error": ["E"]}, [{"error": ["E", 5]}], [True, "x"], ["5", "m"], [1, 2, 3], [[1], "m"],
]  # fmt: skip


@pytest.mark.parametrize("task", [FIBONACCI, FIBONACCI_CHUNK, FIBO_TASK, SQRT_TASK], ids=lambda task: task.name)
async def test_an_answer_of_another_shape_is_a_decode_error(server, hand, task):
    fine = {FIBONACCI.name: [], FIBONACCI_CHUNK.name: [[]], FIBO_TASK.name: [], SQRT_TASK.name: [-1, 1.5]}
    async with CeleryClient(server.url) as client:
        for number, answer in enumerate(answer for answer in ANSWERS if answer not in fine[task.name]):
            await hand.put(f"{task.name}-{number}", result=answer)
            with pytest.raises(ResultDecodeError):
                await client.result(f"{task.name}-{number}", task=task).get(timeout=5)


async def test_garbage_in_the_list_of_replies_is_no_answer_of_a_worker(server, hand):
    """A false worker listens, and writes garbage into the list that the asker reads."""

    def envelope(said, **fields):
        return json.dumps(
            {
                "body": base64.b64encode(said).decode(),
                "headers": {"ticket": "?"},
                "properties": {"body_encoding": "base64"},
                **fields,
            }
        ).encode()

    async with CeleryClient(server.url) as client, hand.redis.pubsub() as listening:
        await listening.subscribe("/0.celery.pidbox")
        asked = asyncio.create_task(client.ping(timeout=1.0))
        request = None

        async def came():
            nonlocal request
            message = await listening.get_message(ignore_subscribe_messages=True, timeout=0.1)
            request = message or request
            return request

        await eventually(came)
        body = json.loads(base64.b64decode(json.loads(request["data"])["body"]))
        queue, ticket = body["reply_to"]["routing_key"], {"ticket": body["ticket"]}
        await hand.redis.lpush(
            queue, b"", b"\xff", b"[]", b"{}", b"[" * 10_000, pickle.dumps(1), envelope(b"{}"),
            envelope(b"\xff", headers=ticket), envelope(b"[1]", headers=ticket), envelope(b"[" * 9999, headers=ticket),
            envelope(b"{}", headers=ticket, body="@"), envelope(b"{}", headers=ticket, properties=[]),
            envelope(b'{"celery@real": {"ok": "pong"}}', headers=ticket),
        )  # fmt: skip
        assert [each.name for each in await asked] == ["celery@real"]
