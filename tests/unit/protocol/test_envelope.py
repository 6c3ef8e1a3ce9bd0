"""Kombu's envelope around tasks, commands and answers."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.messages import build_task

from fibo_client.celery.redis import envelope
from fibo_client.errors import MessageError, ResultDecodeError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def message(**options):
    return build_task("proj.add", [1], queue="q", **options)


def encode(sent, delivery_tag="tag"):
    return json.loads(envelope.encode_task(sent, delivery_tag))


def test_a_task_has_everything_that_a_worker_needs_to_take_it():
    sent = message(priority=5)
    assert encode(sent) == {
        "body": base64.b64encode(sent.body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": sent.headers,
        "properties": {
            "correlation_id": "id-1",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "priority": 5,
            "body_encoding": "base64",
            "delivery_tag": "tag",
        },
    }


def test_an_expiry_is_among_the_properties_where_one_was_given():
    assert encode(message(expires=2))["properties"]["expiration"] == "2000"
    assert "expiration" not in encode(message())["properties"]


@pytest.mark.parametrize("option", ["headers", "stamps"])
def test_dates_and_bytes_in_headers_can_be_sent(option):
    headers = encode(message(**{option: {"when": NOW, "raw": b"\xff"}}))["headers"]
    found = headers if option == "headers" else headers["stamps"]
    assert found["when"] == {"__type__": "datetime", "__value__": "2026-01-02T00:00:00+00:00"}


def test_what_redis_would_not_take_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(envelope, "MAX_BYTES", 2000)
    encode(message())
    large = build_task(args=["x" * 1500])
    with pytest.raises(MessageError, match="more than the 2000 that Redis takes; store the data elsewhere"):
        envelope.encode_task(large, "tag")


def test_a_command_says_when_it_is_too_old():
    sent = json.loads(envelope.encode_control(b"{}", exchange="celery.pidbox", expires=5.5, delivery_tag="tag"))
    assert sent["headers"] == {"clock": 1, "expires": 5.5}
    assert base64.b64decode(sent["body"]) == b"{}"
    assert sent["properties"]["delivery_info"] == {"exchange": "celery.pidbox", "routing_key": ""}
    assert sent["properties"]["delivery_tag"] == "tag"
    ageless = json.loads(envelope.encode_control(b"{}", exchange="celery.pidbox", expires=None, delivery_tag="tag"))
    assert ageless["headers"] == {"clock": 1}


def answer(**changes):
    parts = {
        "body": base64.b64encode(b'{"w": {"ok": "pong"}}').decode(),
        "headers": {"ticket": "t", "clock": 3},
        "properties": {"body_encoding": "base64", "delivery_tag": "x"},
        "content-type": "application/json",
    }
    return json.dumps({name: value for name, value in {**parts, **changes}.items() if value is not ...}).encode()


def test_an_answer_gives_its_ticket_and_its_body():
    assert envelope.decode_reply(answer()) == ("t", b'{"w": {"ok": "pong"}}')


@pytest.mark.parametrize(
    "changes",
    [
        {"body": ...},
        {"body": None},
        {"body": {"ok": 1}},
        {"body": "@@@"},
        {"body": "abc"},
        {"body": "\u00e9"},
        {"body": "\ud800"},
        {"headers": ...},
        {"headers": {}},
        {"headers": []},
        {"headers": {"ticket": None}},
        {"headers": {"ticket": 5}},
        {"properties": ...},
        {"properties": {}},
        {"properties": {"body_encoding": "utf-8"}},
    ],
)
def test_an_answer_with_a_broken_part_is_a_decode_error(changes):
    with pytest.raises(ResultDecodeError):
        envelope.decode_reply(answer(**changes))


@pytest.mark.parametrize("element", [b"", b"null", b"[]", b"5", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_envelope_is_a_decode_error(element):
    with pytest.raises(ResultDecodeError):
        envelope.decode_reply(element)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["base64", "t"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["ticket", "body_encoding"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def outcome(element):
    try:
        ticket, body = envelope.decode_reply(element)
    except ResultDecodeError:
        return
    assert isinstance(ticket, str)
    assert isinstance(body, bytes)


@given(st.binary())
def test_any_bytes_are_an_answer_or_a_decode_error(element):
    outcome(element)


@given(st.dictionaries(st.sampled_from(["body", "headers", "properties", "more"]), JSON))
@example({"body": "é"})
def test_an_answer_with_any_part_replaced_is_an_answer_or_a_decode_error(changes):
    outcome(answer(**changes))


@given(st.integers(0, len(answer()) - 1), st.binary(max_size=3), st.integers(0, 5))
def test_an_answer_with_any_bytes_replaced_is_an_answer_or_a_decode_error(position, put, removed):
    outcome(answer()[:position] + put + answer()[position + removed :])


def test_a_message_of_a_task_is_found_whatever_types_stand_in_it():
    message = answer(headers={"id": "some-id", "stamps": {"who": {"__type__": "unknown", "__value__": 5}}})
    assert envelope.is_task(message, "some-id")
    assert not envelope.is_task(message, "unknown")
