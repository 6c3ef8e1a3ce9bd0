"""Remote control commands and their answers."""

import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client.celery.protocol.control import ControlRequest, decode_reply, encode_request
from fibo_client.errors import MessageError, ResultDecodeError


def test_a_command_that_wants_no_answer_names_no_place_for_it():
    body = encode_request(ControlRequest(method="revoke", arguments={"task_id": ["a"], "terminate": True}))
    assert json.loads(body) == {
        "method": "revoke",
        "arguments": {"task_id": ["a"], "terminate": True},
        "destination": None,
        "pattern": None,
        "matcher": None,
    }


def test_a_question_carries_a_ticket_and_where_to_answer():
    request = ControlRequest(method="ping", destination=("a@host", "b@host"))
    body = json.loads(encode_request(request, ticket="t", reply_key="k"))
    assert body["ticket"] == "t"
    assert body["reply_to"] == {"exchange": "", "routing_key": "k"}
    assert body["destination"] == ["a@host", "b@host"]
    assert body["arguments"] == {}


@pytest.mark.parametrize(
    ("request_", "advice"),
    [
        (ControlRequest(method="ping", destination="a@host"), "list of node names"),
        (ControlRequest(method="revoke", arguments={"task_id": {"a"}}), "JSON cannot carry"),
        (ControlRequest(method="rate_limit", arguments={"rate_limit": float("inf")}), "JSON has no number"),
    ],
)
def test_a_command_that_no_worker_could_read_is_refused(request_, advice):
    with pytest.raises(MessageError, match=advice):
        encode_request(request_)


def test_an_answer_is_told_by_node_name():
    assert decode_reply(b'{"w@host": {"ok": "pong"}}') == {"w@host": {"ok": "pong"}}


def test_an_argument_of_an_unknown_type_does_not_hide_the_answer():
    money = {"__type__": "money", "__value__": 5}
    body = json.dumps({"w@host": [{"args": [money, {"__type__": "date", "__value__": "2026-01-02"}]}]})
    assert decode_reply(body.encode()) == {"w@host": [{"args": [money, date(2026, 1, 2)]}]}


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b'"text"', b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_answer_is_a_decode_error(body):
    with pytest.raises(ResultDecodeError):
        decode_reply(body)


JSON = st.recursive(st.none() | st.text(), st.lists, max_leaves=4).map(lambda value: json.dumps(value).encode())


@given(st.binary() | JSON)
def test_any_bytes_are_an_answer_or_a_decode_error(body):
    try:
        assert isinstance(decode_reply(body), dict)
    except ResultDecodeError:
        pass
