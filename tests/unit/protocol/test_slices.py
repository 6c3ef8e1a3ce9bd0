"""Large JSON decoded in slices: the same values as at once, whatever it looks like."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fibo_client.celery.protocol import slices
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.meta import decode_meta, decode_meta_in_slices
from fibo_client.errors import ResultDecodeError
from fibo_client.testing.results import encode_meta

BOUNDS = {"max_bytes": 1 << 26, "max_decompressed": None, "max_depth": 20, "types": CELERY_JSON}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet='a"\\[]{},: \n€😀\ud83d\ude00', max_size=20),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(alphabet='a"\\,]}', max_size=5), inner, max_size=5)
    ),
    max_leaves=60,
)


def decoded(steps):
    """Run to the end; give the value, and how many steps it took."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Make small what is decoded at once, so that a small text is gone through like a large one."""
    monkeypatch.setattr(slices, "SMALL", 8)
    monkeypatch.setattr(slices, "WINDOW", 24)
    monkeypatch.setattr(slices, "_LONG", 8)


@given(VALUES, st.sampled_from([None, 1]))
def test_the_value_is_that_of_json(value, indent):
    text = json.dumps(value, indent=indent)
    assert decoded(slices.decode_in_slices(text, None, 1000))[0] == json.loads(text)


@given(VALUES, st.integers(0, 200), st.sampled_from(["", ",", "]", "}", '"', "x", "[", ":"]))
@example([None, -9.158848298708198e-08, None], 29, ",")  # two commas at the end of a window
def test_what_json_refuses_is_refused(value, place, piece):
    text = json.dumps(value)
    place = min(place, len(text))
    text = text[:place] + piece + text[place + 1 :]
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            decoded(slices.decode_in_slices(text, None, 1000))
    else:
        assert decoded(slices.decode_in_slices(text, None, 1000))[0] == expected


def test_many_steps_lead_through_a_long_list_of_whatever():
    for item in (1, "text, with [ and }", [1, [2]], {"a": {"b": "},"}}):
        text = json.dumps([item] * 500)
        value, steps = decoded(slices.decode_in_slices(text, None, 1000))
        assert value == [item] * 500
        assert steps > 50


@given(st.text(alphabet='ab"\\u8d \n€😀\ud83d\ude00', min_size=20, max_size=60), st.booleans())
def test_a_long_string_is_decoded_in_parts_that_split_no_character(text, is_ascii):
    text = json.dumps({text * 50: text * 50}, ensure_ascii=is_ascii)
    value, steps = decoded(slices.decode_in_slices(text, None, 1000))
    assert value == json.loads(text)
    assert steps > len(text) / 2 / (256 * 256)


@pytest.mark.parametrize("item", ["a", "\n", "\\", '"', "€", "😀", "\ud83d"])
def test_no_step_through_a_long_string_is_a_long_one(item):
    text = json.dumps([item * 200_000])
    value, steps = decoded(slices.decode_in_slices(text, None, 1000))
    assert value == [item * 200_000]
    assert steps >= len(text) / (256 * 256)


@pytest.mark.parametrize(
    "text", ['"aaaaaaaaaaaaaa', '"aaaaaaaaaaaaaa\\', '"aaaaaaaaaaaaaa\\u12"', '"aaaaaaaaaaaaaa\n"', '"aaaaaaaaaa\\x"']
)
def test_a_long_string_that_json_refuses_is_refused(text):
    for whole in (text, f"[{text}]", f'{{"a": {text}}}', f"{{{text}: 1}}"):
        with pytest.raises(ValueError):
            json.loads(whole)
        with pytest.raises(ValueError):
            decoded(slices.decode_in_slices(whole, None, 1000))


@given(VALUES, st.integers(1, 6))
def test_the_depth_is_counted_as_at_once(value, max_depth):
    text = json.dumps(value)
    if slices.is_deep(value, max_depth):
        with pytest.raises(ValueError):
            decoded(slices.decode_in_slices(text, None, max_depth))
    else:
        assert decoded(slices.decode_in_slices(text, None, max_depth))[0] == json.loads(text)


def test_what_is_nested_too_deeply_is_refused():
    text = "[" * 15 + "1, " * 10 + "1" + "]" * 15
    assert decoded(slices.decode_in_slices(text, None, 20))[0] == json.loads(text)
    with pytest.raises(ValueError):
        decoded(slices.decode_in_slices(text, None, 10))


@pytest.mark.parametrize(
    "payload",
    [
        encode_meta("a", "SUCCESS", [{"__type__": "datetime", "__value__": "2026-01-02T00:00:00"}] * 20),
        encode_meta("a", "SUCCESS", [{"__type__": "unheard of", "__value__": 1}] * 20),
        encode_meta("a", "FAILURE", {"exc_type": "E", "exc_message": ["x"] * 50, "exc_module": "m"}),
        encode_meta("b", "SUCCESS", [1] * 50),
        encode_meta("a", "SUCCESS", [1] * 50)[:-1],
        encode_meta("a", "SUCCESS", [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]),
        b"\x80\x04nothing of ours",
        b"",
    ],
)
def test_a_meta_in_slices_is_that_at_once_and_so_is_its_error(payload):
    assert outcome(lambda: decoded(decode_meta_in_slices(payload, "a", **BOUNDS))[0]) == outcome(
        lambda: decode_meta(payload, "a", **BOUNDS)
    )


def outcome(decode):
    """The value, or the error in its place."""
    try:
        return decode()
    except ResultDecodeError as error:
        return type(error), str(error)
