"""Stored results: whatever the bytes are, they are a result or a `ResultDecodeError`."""

import bz2
import json
import lzma
import math
import pickle
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proj.types import Money
from support.own_types import MONEY

from fibo_client.celery.protocol.jsontypes import JSONCodec, JSONType
from fibo_client.celery.protocol.meta import COMPRESSED, TaskFailure, TaskMeta, decode_meta, pending
from fibo_client.errors import ResultDecodeError

ID = "a04a5bbc-88f2-4d56-8155-0dac8f1f2ca0"
LIMIT = 1 << 20


def stored(**changes):
    fields = {
        "status": "SUCCESS",
        "result": 5,
        "traceback": None,
        "children": [],
        "date_done": "2026-11-22T15:44:43.620112+00:00",
        "task_id": ID,
    }
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not ...}).encode()


def raised(exc_type="ValueError", exc_message=(), exc_module="builtins"):
    fields = {"exc_type": exc_type, "exc_message": exc_message, "exc_module": exc_module}
    return {name: value for name, value in fields.items() if value is not ...}


def wrapped(*exc_message):
    return raised("UnpickleableExceptionWrapper", list(exc_message), "celery.utils.serialization")


def decode(payload, max_bytes=LIMIT):
    return decode_meta(payload, ID, max_bytes=max_bytes)


def refusal(payload, max_bytes=LIMIT):
    with pytest.raises(ResultDecodeError) as caught:
        decode(payload, max_bytes)
    assert caught.value.task_id == ID
    assert len(str(caught.value)) < 500
    return str(caught.value)


# States


def test_a_success_carries_its_value():
    assert decode(stored(result={"a": [1, None]}, parent_id="p", children=[[["c", ID], None]])) == TaskMeta(
        task_id=ID,
        state="SUCCESS",
        result={"a": [1, None]},
        date_done="2026-11-22T15:44:43.620112+00:00",
        parent_id="p",
        children=[[["c", ID], None]],
    )


@pytest.mark.parametrize(
    ("state", "ready", "failed"),
    [
        ("PENDING", False, False),
        ("RECEIVED", False, False),
        ("STARTED", False, False),
        ("PROGRESS", False, False),
        ("a state of my own", False, False),
        ("success", False, False),
        ("RETRY", False, True),
        ("SUCCESS", True, False),
        ("FAILURE", True, True),
        ("REVOKED", True, True),
    ],
)
def test_a_state_says_whether_the_task_is_over_and_whether_it_carries_an_exception(state, ready, failed):
    meta = decode(stored(status=state, result=raised(), date_done=None))
    assert (meta.state, meta.ready) == (state, ready)
    assert (meta.failure is not None, meta.result is None) == (failed, failed)
    assert meta.date_done is None


def test_a_task_of_which_nothing_is_stored_is_pending():
    meta = pending(ID)
    assert (meta.task_id, meta.state, meta.ready, meta.result, meta.failure) == (ID, "PENDING", False, None, None)


def test_dates_decimals_and_bytes_in_a_result_have_their_types():
    envelopes = [
        {"__type__": "datetime", "__value__": "2026-01-02T00:00:00+00:00"},
        {"__type__": "decimal", "__value__": "1.50"},
        {"__type__": "base64", "__value__": "/wA="},
    ]
    assert decode(stored(result=envelopes)).result == [datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), b"\xff\x00"]


def test_extended_results_are_read():
    extra = {"name": "t", "args": [1], "kwargs": {"k": 2}, "worker": "w@h", "retries": 3, "queue": "q"}
    meta = decode(stored(**extra))
    assert {name: getattr(meta, name) for name in extra} == extra


def test_extended_results_of_a_task_that_the_worker_did_not_know_are_empty():
    meta = decode(stored(name=None, args=None, kwargs=None, worker=None, retries=None, queue=None))
    assert (meta.name, meta.args, meta.kwargs, meta.worker, meta.retries, meta.queue) == (None,) * 6


@pytest.mark.parametrize("name", ["name", "worker", "queue", "retries", "date_done", "parent_id", "traceback"])
@pytest.mark.parametrize("value", [[], {}, 1.5, True])
def test_a_detail_of_another_type_than_it_should_be_is_left_out(name, value):
    meta = decode(stored(**{name: value}))
    assert getattr(meta, name, None) is None
    assert meta.result == 5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_beyond_json_are_read_as_celery_stores_them(value):
    result = decode(stored(result=value)).result
    assert result == value or (math.isnan(result) and math.isnan(value))


# Types of one's own

MONEY_ENVELOPE = {
    "__type__": "money",
    "__value__": {"amount": {"__type__": "decimal", "__value__": "1.50"}, "currency": "€"},
}
PRICE = Money(Decimal("1.50"), "€")
KNOWN = JSONCodec([JSONType(*MONEY)])


@pytest.mark.parametrize("broken", [MONEY_ENVELOPE, {"__type__": "uuid", "__value__": 5}])
@pytest.mark.parametrize("place", ["args", "kwargs", "children", "a-stamp"])
def test_a_value_that_cannot_be_read_is_left_as_it_is_unless_it_is_the_answer(place, broken):
    extra = {place: {"a": broken, "b": {"__type__": "date", "__value__": "2026-01-02"}}}
    meta = decode(stored(result={"__type__": "date", "__value__": "2026-01-02"}, **extra))
    assert meta.result == date(2026, 1, 2)
    if place in ("args", "kwargs"):
        left = getattr(meta, place)["a"]
        assert left["__type__"] == broken["__type__"]
        assert getattr(meta, place)["b"] == date(2026, 1, 2)
    assert "cannot be read" in refusal(stored(result=[broken], **extra))


def test_an_answer_that_is_such_a_value_is_an_error():
    assert "json_types" in refusal(stored(result=MONEY_ENVELOPE))


@pytest.mark.parametrize("status", ["PROGRESS", "STARTED", "A STATE OF ITS OWN"])
def test_such_a_value_in_what_a_task_reports_is_left_as_it_is_for_the_answer_is_still_to_come(status):
    assert decode(stored(status=status, result={"sum": MONEY_ENVELOPE})).result["sum"]["__type__"] == "money"


@pytest.mark.parametrize("status", ["FAILURE", "RETRY", "REVOKED"])
def test_an_argument_that_cannot_be_read_hides_no_exception(status):
    payload = stored(status=status, result=raised(exc_message=["no", MONEY_ENVELOPE]))
    assert decode(payload).failure.exc_args[1]["__type__"] == "money"
    assert decode_meta(payload, ID, max_bytes=LIMIT, types=KNOWN).failure.exc_args == ("no", PRICE)


def test_a_type_that_was_told_is_read_wherever_it_stands():
    meta = decode_meta(stored(result=MONEY_ENVELOPE, args=[MONEY_ENVELOPE]), ID, max_bytes=LIMIT, types=KNOWN)
    assert (meta.result, meta.args) == (PRICE, [PRICE])


@pytest.mark.parametrize("status", [["x"], {}, None])
def test_a_broken_value_beside_a_broken_state_is_an_error_like_any_other(status):
    assert "no status" in refusal(stored(status=status, args=[MONEY_ENVELOPE]))


# Failures


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
def test_an_exception_is_carried_as_data(state):
    meta = decode(stored(status=state, result=raised(exc_message=["bad", 1, {"k": 2}]), traceback="Traceback"))
    assert meta.failure == TaskFailure(
        exc_type="ValueError", exc_module="builtins", exc_args=("bad", 1, {"k": 2}), traceback="Traceback"
    )


@pytest.mark.parametrize(
    ("result", "exc_type", "exc_module", "args"),
    [
        (raised(), "ValueError", "builtins", ()),
        (raised(exc_message="text"), "ValueError", "builtins", ("text",)),
        (raised(exc_message=""), "ValueError", "builtins", ("",)),
        (raised(exc_message=...), "ValueError", "builtins", ()),
        (raised(exc_message=None), "ValueError", "builtins", ()),
        (raised(exc_message={"a": 1}), "ValueError", "builtins", ({"a": 1},)),
        (raised(exc_message=5), "ValueError", "builtins", (5,)),
        (raised(exc_module=...), "ValueError", None, ()),
        (raised(exc_module=7), "ValueError", None, ()),
        (raised(exc_type=...), "Exception", "builtins", ()),
        (raised(exc_type=""), "Exception", "builtins", ()),
        (raised(exc_type=["x"]), "Exception", "builtins", ()),
        ({}, "Exception", None, ()),
        (None, "Exception", None, ()),
        ("it broke", "Exception", None, ("it broke",)),
        (5, "Exception", None, (5,)),
        ([1, 2], "Exception", None, ([1, 2],)),
        ({"step": 3}, "Exception", None, ({"step": 3},)),
        (raised() | {"step": 3}, "ValueError", "builtins", ()),
        (raised("SystemExit", [3]), "SystemExit", "builtins", (3,)),
        (raised("system", ["rm"], "os"), "system", "os", ("rm",)),
    ],
)
def test_an_exception_is_read_however_it_was_written_and_never_built(result, exc_type, exc_module, args):
    failure = decode(stored(status="FAILURE", result=result)).failure
    assert failure == TaskFailure(exc_type=exc_type, exc_module=exc_module, exc_args=args, traceback=None)


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
@pytest.mark.parametrize(
    "content",
    [{"step": 3}, {}, raised(exc_message=[]) | {"step": 3}, {"exc_message": ["x"]}, "it broke", 0, [1], "", None],
)
def test_what_a_task_stored_by_hand_for_an_exception_state_is_kept_as_it_is(state, content):
    assert decode(stored(status=state, result=content)).result == content


@pytest.mark.parametrize(
    "content", [raised(), raised(exc_module=...), raised("E", ["x"], None), wrapped("m", "E", [], "r")]
)
def test_an_exception_that_celery_stored_is_not_there_twice(content):
    meta = decode(stored(status="FAILURE", result=content))
    assert (meta.result, meta.failure is not None) == (None, True)


@pytest.mark.parametrize("module", ["tasks", None])
def test_an_exception_that_could_not_be_pickled_is_unwrapped(module):
    failure = decode(stored(status="FAILURE", result=wrapped(module, "BadErr", ["a", 1], "BadErr('a', 1)"))).failure
    assert (failure.exc_module, failure.exc_type, failure.exc_args) == (module, "BadErr", ("a", 1))


@pytest.mark.parametrize(
    "parts",
    [(), ("tasks",), ("tasks", "BadErr", "a", "r"), ("tasks", 5, [], "r"), (5, "E", [], "r"), (None, None, None, None)],
)
def test_a_wrapper_of_another_shape_is_an_exception_like_any_other(parts):
    failure = decode(stored(status="FAILURE", result=wrapped(*parts))).failure
    assert (failure.exc_type, failure.exc_args) == ("UnpickleableExceptionWrapper", parts)


# Compressed results


def packed(payload, method=zlib, name=b"application/x-gzip"):
    return COMPRESSED + name + b"\x00" + method.compress(payload)


@pytest.mark.parametrize(
    ("method", "name"), [(zlib, b"application/x-gzip"), (bz2, b"application/x-bz2"), (lzma, b"application/x-lzma")]
)
def test_a_compressed_result_is_read(method, name):
    assert decode(packed(stored(result="x" * 9999), method, name)).result == "x" * 9999


def test_the_limit_is_for_the_bytes_before_and_after_decompression():
    payload = stored(result="x" * 5000)
    assert decode(payload, max_bytes=len(payload)).ready
    assert decode(packed(payload), max_bytes=len(payload)).ready
    assert "more than" in refusal(payload, max_bytes=len(payload) - 1)
    assert "when decompressed" in refusal(packed(payload), max_bytes=len(payload) - 1)
    assert "more than" in refusal(packed(payload), max_bytes=50)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (packed(bytes(16 * LIMIT)), "more than 1048576 bytes when decompressed"),
        (packed(stored())[:-5], "cut short"),
        (COMPRESSED + b"application/x-gzip\x00", "cut short"),
        (COMPRESSED + b"application/x-gzip\x00rubbish", "broken"),
        (COMPRESSED + b"application/zstd\x00rubbish", "application/zstd"),
        (COMPRESSED + b"\xff\x00rubbish", "cannot read"),
        (COMPRESSED + b"application/x-gzip", "no name"),
        (COMPRESSED, "no name"),
        (packed(b"not json"), "not JSON"),
        (packed(packed(stored())), "not JSON"),
        (packed(pickle.dumps({"status": "SUCCESS"})), "pickle"),
        (packed(b""), "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_compressed_result_that_cannot_be_read_has_a_reason(payload, reason):
    assert reason in refusal(payload)


# What is not a result


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"   ", "not JSON"),
        (b"[]", "not JSON"),
        (b"null", "not JSON"),
        (b'"text"', "not JSON"),
        (b"OK", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{", "not valid"),
        (b'{"status": "SUCCESS"', "not valid"),
        (b"{'status': 'SUCCESS'}", "not valid"),
        (stored() + b"x", "not valid"),
        (stored().replace(b"5", b"\xff"), "not valid"),
        (pickle.dumps({"status": "SUCCESS", "result": 5, "task_id": ID}), "result_serializer='json'"),
        (pickle.dumps(5, protocol=2), "never loaded"),
        (stored(status=...), "no status"),
        (stored(status=None), "no status"),
        (stored(status=5), "no status"),
        (stored(status=""), "no status"),
        (stored(status="X" * 101), "no status"),
        (stored(status=["SUCCESS"]), "no status"),
        (stored(task_id=...), "belongs to no task"),
        (stored(task_id=None), "belongs to no task"),
        (stored(task_id=[ID]), "belongs to no task"),
        (stored(task_id="other"), "belongs to the task 'other'"),
        (stored(task_id="x" * 5000), "belongs to the task 'xxx"),
        (stored(result=...), "no result"),
        (stored(result={"__type__": "money", "__value__": "1"}), "the type 'money'"),
        (stored(result={"__type__": "datetime", "__value__": "soon"}), "broken datetime"),
        (stored().replace(b": 5", b": " + b"9" * 4301), "4300 digits"),
        (stored().replace(b": 5", b": " + b"[" * 5000 + b"]" * 5000), "nested too deeply"),
        (stored().replace(b": 5", b": " + b'{"a":' * 5000 + b"1" + b"}" * 5000), "nested too deeply"),
        (b'{"__type__": "bytes", "__value__": "x"}', "not a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_result_of_the_task_has_a_reason(payload, reason):
    said = refusal(payload)
    assert reason in said
    assert ID in said


def test_an_integer_as_long_as_can_be_read_is_read():
    assert decode(stored().replace(b": 5", b": " + b"9" * 4300)).result == 10**4300 - 1


@pytest.mark.parametrize("key", [b'"result": ', b'"task_id": ', b'"children": ', b'"status": '])
def test_depth_near_the_interpreters_limit_is_a_result_or_a_decode_error(key):
    start = stored().replace(key, key + b"%s, " + key.replace(b'": ', b'_": '), 1)
    for depth in range(700, 1100, 7):
        outcome(start.replace(b"%s", b"[" * depth + b"]" * depth))


def test_pickle_is_never_loaded():
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refusal(pickle.dumps(Trap(), protocol=protocol))


# Properties


def outcome(payload):
    try:
        meta = decode(payload, max_bytes=4096)
    except ResultDecodeError as error:
        meta = error
    assert isinstance(meta, (TaskMeta, ResultDecodeError))
    assert meta.task_id == ID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["exc_type", "exc_message", "__type__"]), inner, max_size=3)
        | st.fixed_dictionaries(
            {
                "__type__": st.sampled_from(
                    ["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "other"]
                ),
                "__value__": inner,
            }
        )
        | st.fixed_dictionaries({"exc_type": inner, "exc_message": inner, "exc_module": inner})
    ),
    max_leaves=8,
)
FIELDS = ["status", "result", "traceback", "children", "date_done", "task_id", "name", "args", "retries", "parent_id"]
SEEDS = [
    stored(),
    stored(status="FAILURE", result=raised(exc_message=["a", 1])),
    stored(result={"__type__": "decimal", "__value__": "1.5"}),
    packed(stored()),
    packed(stored(), bz2, b"application/x-bz2"),
    packed(stored(), lzma, b"application/x-lzma"),
]


@given(st.binary() | st.binary().map(lambda data: b"{" + data) | st.binary().map(lambda data: COMPRESSED + data))
@example(b'{"status": "SUCCESS", "result": NaN, "task_id": "%s"}' % ID.encode())
def test_any_bytes_are_a_result_or_a_decode_error(payload):
    outcome(payload)


@given(st.sampled_from(SEEDS), st.integers(0, 300), st.binary(max_size=4), st.integers(0, 8))
def test_a_result_with_any_bytes_replaced_is_a_result_or_a_decode_error(seed, position, put, removed):
    outcome(seed[:position] + put + seed[position + removed :])


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "REVOKED"]))
def test_a_result_with_any_field_replaced_is_a_result_or_a_decode_error(changes, state):
    outcome(stored(**{"status": state, **changes}))


@given(JSON.filter(lambda value: "__type__" not in repr(value)))
def test_any_value_that_json_has_is_read_as_it_was_stored(value):
    meta = decode(stored(result=value))
    assert json.dumps(meta.result) == json.dumps(value)
