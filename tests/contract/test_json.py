"""What one of the two JSON dialects writes, the other reads as the same value of the same type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json
from support.json_values import SCALARS, TEXT, nested

from fibo_client.celery.protocol import jsontypes
from fibo_client.errors import MessageError, ResultDecodeError


def kinds(value):
    """The types all the way down: True equals 1, and 1.0 equals Decimal(1)."""
    if isinstance(value, list):
        return [kinds(item) for item in value]
    return {key: kinds(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


@given(nested())
def test_both_write_the_same_text(value):
    assert jsontypes.CELERY_JSON.dumps(value) == kombu_json.dumps(value)


@given(nested())
def test_kombu_reads_what_we_write(value):
    read = kombu_json.loads(jsontypes.CELERY_JSON.dumps(value))
    assert read == value
    assert kinds(read) == kinds(value)


@given(nested(SCALARS | st.floats(allow_nan=False)))
def test_we_read_what_kombu_writes(value):
    read = jsontypes.CELERY_JSON.loads(kombu_json.dumps(value))
    assert read == value
    assert kinds(read) == kinds(value)


@given(st.tuples(SCALARS, st.tuples(SCALARS)))
def test_a_tuple_is_a_list_to_both(value):
    assert jsontypes.CELERY_JSON.dumps(value) == kombu_json.dumps(value) == kombu_json.dumps([value[0], list(value[1])])


MARKERS = st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "other"])
ENVELOPES = st.fixed_dictionaries(
    {"__type__": MARKERS | SCALARS, "__value__": nested(st.none() | TEXT | st.integers(), st.sampled_from(["hex"]))}
)


@given(nested(ENVELOPES | st.none()).map(lambda value: kombu_json.dumps(value)))
def test_no_envelope_that_kombu_refuses_is_read_and_all_others_as_kombu_does(text):
    """But for base64 with rubbish in it, which kombu skips without a word."""
    try:
        theirs = kombu_json.loads(text)
    except Exception:  # noqa: BLE001 - kombu lets pass whatever the types' own constructors raise
        theirs = None
        with pytest.raises(ResultDecodeError):
            jsontypes.CELERY_JSON.loads(text)
        return
    try:
        ours, refusal = jsontypes.CELERY_JSON.loads(text), None
    except ResultDecodeError as error:
        ours, refusal = None, str(error)
    assert "broken base64" in refusal if refusal else ours == theirs


REFUSED = [float("inf"), float("-inf"), {1: "a"}, {None: 1}, {"__type__": "decimal", "__value__": "1"}, {True: 1}]


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_what_we_refuse_kombu_would_have_written_and_read_as_something_else_or_not_at_all_as_json(value):
    written = kombu_json.dumps(value)
    assert kombu_json.loads(written) != value or "Infinity" in written
    with pytest.raises(MessageError):
        jsontypes.CELERY_JSON.dumps(value)
