"""Validation raises on nothing, and Celery's own receiving takes what passes it."""

import base64
import bz2
import copy
import json
import lzma
import zlib
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.request import Request
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.transport.virtual import Base64, Message
from kombu.utils.json import dumps
from support.defects import INVALID_WITH_ID, INVALID_WITHOUT_ID, MAX_BODY_BYTES, VALID

from fibo_worker.guard.validation import MAX_DEPTH, validate

LIMIT = 64 * 1024

CHANNEL = SimpleNamespace(
    no_ack_consumers=None,
    decode_body=lambda body, encoding=None: Base64().decode(body) if encoding and encoding.lower() != "utf-8" else body,
)


@pytest.fixture(scope="module", autouse=True)
def app():
    app = Celery("validation", set_as_current=False)
    app.conf.update(accept_content=["json"], enable_utc=True, timezone="UTC")
    app.task(task, name="t", shared=False)
    TASK.append((app, app.tasks["t"]))
    yield app
    TASK.clear()


TASK = []


def task():
    """Never run here."""


def good(**headers):
    return {
        "body": base64.b64encode(b"[[1], {}, {}]").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "t", "id": "i", "eta": None, "expires": None, "timelimit": [None, None], **headers},
        "properties": {"body_encoding": "base64", "delivery_tag": "d"},
    }


def packed(plain, compress=lambda plain: plain):
    return base64.b64encode(compress(plain)).decode()


def validated(message):
    return validate(json.dumps(message).encode(), max_body_bytes=LIMIT)


def receive(payload):
    """What kombu and Celery do with a message until it is in the pool's hands."""
    app, task = TASK[0]
    payload["properties"]["delivery_tag"] = "tag"
    if not isinstance(payload["properties"].get("delivery_info"), dict):
        payload["properties"]["delivery_info"] = {}  # as the transport does
    message = Message(payload, channel=CHANNEL)
    message.accept = {"application/json"}
    assert not message.errors
    dumps([message._raw, "", "celery"])  # the record of what is not yet acknowledged
    request = Request(message, app=app, task=task, hostname="h", headers=message.headers, body=message.body)
    request.revoked()
    request.info()
    hard, soft = request.time_limits
    assert (hard or 0) >= 0
    assert (soft or 0) >= 0
    {request.id: 1, request.name: 1, request.root_id: 1, request.group: 1}  # keys in the worker's tables
    f"celery-task-meta-{request.id}".encode()
    assert isinstance(request._args, list)
    assert isinstance(request._kwargs, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["args", "t"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
HEADERS = [
    *("task", "id", "eta", "expires", "timelimit", "shadow", "root_id", "parent_id", "group", "retries"),
    *("stamped_headers", "stamps", "compression", "argsrepr", "lang", "ignore_result", "replaced_task_nesting"),
]
FIELDS = ["body", "content-type", "content-encoding", "headers", "properties"]
PLACES = [
    *(("headers", name) for name in HEADERS),
    *((name,) for name in FIELDS),
    *(("properties", name) for name in ("body_encoding", "delivery_info", "priority", "correlation_id")),
]
BODIES = st.tuples(JSON, JSON, JSON).map(list) | JSON


@pytest.mark.parametrize("defect", INVALID_WITH_ID)
def test_what_cannot_be_run_is_refused_and_its_id_read(defect):
    validation = validate(INVALID_WITH_ID[defect], max_body_bytes=MAX_BODY_BYTES)

    assert (validation.payload, validation.id) == (None, defect)
    assert validation.reason


@pytest.mark.parametrize("defect", INVALID_WITHOUT_ID)
def test_what_cannot_be_run_is_refused_also_where_no_id_can_be_read(defect):
    validation = validate(INVALID_WITHOUT_ID[defect], max_body_bytes=MAX_BODY_BYTES)

    assert (validation.payload, validation.id) == (None, None)
    assert validation.reason


@pytest.mark.parametrize("oddity", VALID)
def test_what_is_odd_and_can_be_run_passes(oddity):
    validation = validate(VALID[oddity], max_body_bytes=MAX_BODY_BYTES)

    assert (validation.reason, validation.id) == (None, oddity)
    receive(validation.payload)


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"__type__": "decimal", "__value__": "x"}')
@example(b"9" * 5000)
def test_arbitrary_bytes_raise_nothing_and_are_refused(raw):
    validation = validate(raw, max_body_bytes=LIMIT)

    assert validation.payload is None
    assert validation.reason


@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), max_size=3), st.none() | BODIES)
@example([(("headers", "timelimit"), "ab")], None)
@example([(("headers", "eta"), "9999-12-31T23:59:59-12:00")], None)
@example([(("headers", "expires"), "0001-01-01T00:00:00+12:00")], None)
@example([(("headers", "expires"), "2026-01-01")], None)
@example([(("headers", "stamped_headers"), [["x"]])], None)
@example([], ["args", {}, {}])
def test_a_changed_message_is_refused_with_a_reason_or_celery_takes_it(changes, body):
    message = good()
    if body is not None:
        message["body"] = packed(json.dumps(body).encode())
    for place, value in changes:
        inside = message
        for name in place[:-1]:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[place[-1]] = value

    validation = validated(message)

    if validation.payload is None:
        assert validation.reason
    else:
        assert validation.reason is None
        receive(copy.deepcopy(validation.payload))


@given(st.data())
def test_a_good_message_with_bytes_changed_is_refused_or_celery_takes_it(data):
    raw = bytearray(json.dumps(good()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))

    validation = validate(bytes(raw), max_body_bytes=LIMIT)

    if validation.payload is not None:
        receive(validation.payload)


@pytest.mark.parametrize(
    ("name", "compress"), [("application/x-gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_bodies_pass_up_to_the_limit_and_no_further(name, compress):
    small, large = good(compression=name), good(compression=name)
    small["body"] = packed(b"[[1],{},{}]".ljust(LIMIT), compress)
    large["body"] = packed(b"[[1],{},{}]".ljust(LIMIT + 1), compress)

    receive(validated(small).payload)
    assert validated(large).reason == f"its body has more than {LIMIT} bytes when decompressed"


@pytest.mark.parametrize(("name", "compress"), [("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_a_second_compressed_stream_does_not_get_round_the_limit(name, compress):
    message = good(compression=name)
    message["body"] = base64.b64encode(compress(b"[[1],{},{}]") + compress(b" " * 100 * LIMIT)).decode()

    assert validated(message).reason == "its compressed body is cut short, or goes on after its end"


@pytest.mark.parametrize(("depth", "passes"), [(MAX_DEPTH - 1, True), (MAX_DEPTH + 1, False), (900, False)])
def test_nesting_is_limited(depth, passes):
    message = good()
    message["body"] = packed(b"[[" + b"[" * (depth - 2) + b"]" * (depth - 2) + b"],{},{}]")

    assert (validated(message).payload is not None) is passes


def test_a_reason_holds_no_value_of_the_message():
    secret = "hunter2"
    values = [{"__type__": secret, "__value__": secret}, {"__type__": "decimal", "__value__": secret}]
    messages = [good(eta=secret), good(compression=secret), good(timelimit=secret)]
    messages += [good() | {"body": packed(json.dumps([[value], {}, {}]).encode())} for value in values]

    for message in messages:
        validation = validated(message)
        assert validation.payload is None
        assert secret not in validation.reason


def test_what_can_be_read_of_a_refused_message_is_said():
    validation = validated(good(eta=5))

    assert (validation.task, validation.id) == ("t", "i")


def test_a_valid_message_comes_with_its_body_as_kombu_decodes_it():
    body = [[{"__type__": "decimal", "__value__": "1.5"}, 2], {"key": None}, None]
    raw = {**json.loads(VALID["the barest message"]), "body": base64.b64encode(json.dumps(body).encode()).decode()}
    raw["properties"]["body_encoding"] = "base64"
    for encoding in ("utf-8", "UTF-8", None):
        raw["content-encoding"] = encoding
        found = validate(json.dumps(raw).encode(), max_body_bytes=LIMIT)
        assert found.body == Message(found.payload, channel=CHANNEL).payload
        assert found.body[0][0] != body[0][0]


def test_a_body_in_another_encoding_is_left_to_kombu():
    raw = {**json.loads(VALID["the barest message"]), "content-encoding": "latin-1"}
    assert validate(json.dumps(raw).encode(), max_body_bytes=LIMIT).body is None
