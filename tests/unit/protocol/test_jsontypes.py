"""Celery's JSON, both ways, and what is refused on either."""

import collections.abc
import enum
import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proj.types import Money
from support.json_values import SCALARS, nested
from support.own_types import MONEY

from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.jsontypes import JSONCodec, JSONType, UnreadableTypeError
from fibo_client.errors import ConfigError, MessageError, ResultDecodeError, ResultTooDeepError


def refusal(text):
    with pytest.raises(ResultDecodeError) as caught:
        jsontypes.CELERY_JSON.loads(text)
    return str(caught.value)


@given(nested())
def test_whatever_is_sent_is_read_back_with_its_types(value):
    read = jsontypes.CELERY_JSON.loads(jsontypes.CELERY_JSON.dumps(value))
    assert read == value
    assert type(read) is type(value)


@given(nested())
def test_bytes_and_text_are_read_alike(value):
    text = jsontypes.CELERY_JSON.dumps(value)
    assert text.isascii()
    assert jsontypes.CELERY_JSON.loads(text) == jsontypes.CELERY_JSON.loads(text.encode())


@given(nested())
def test_the_plain_form_is_the_same_json(value):
    assert json.dumps(jsontypes.CELERY_JSON.plain(value)) == jsontypes.CELERY_JSON.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
            '{"__type__": "datetime", "__value__": "2026-01-02T03:04:05.000678+00:00"}',
        ),
        (datetime(2026, 1, 2), '{"__type__": "datetime", "__value__": "2026-01-02T00:00:00"}'),
        (date(2026, 1, 2), '{"__type__": "date", "__value__": "2026-01-02"}'),
        (time(3, 4, 5), '{"__type__": "time", "__value__": "03:04:05"}'),
        (Decimal("1.50"), '{"__type__": "decimal", "__value__": "1.50"}'),
        (UUID(int=5), '{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000005"}}'),
        (b"abc", '{"__type__": "bytes", "__value__": "abc"}'),
        (b"\xff\x00", '{"__type__": "base64", "__value__": "/wA="}'),
        ((1, (2,)), "[1, [2]]"),
        ("é\ud800", '"\\u00e9\\ud800"'),
    ],
)
def test_each_type_has_celerys_envelope(value, text):
    assert jsontypes.CELERY_JSON.dumps(value) == text
    if not isinstance(value, tuple):
        assert jsontypes.CELERY_JSON.loads(text) == value


def test_a_decimal_that_is_no_number_keeps_its_name():
    assert jsontypes.CELERY_JSON.loads(jsontypes.CELERY_JSON.dumps(Decimal("NaN"))).is_nan()
    assert jsontypes.CELERY_JSON.loads(jsontypes.CELERY_JSON.dumps(Decimal("-Infinity"))) == Decimal("-Infinity")


def test_numbers_beyond_json_are_read_but_not_written():
    values = jsontypes.CELERY_JSON.loads("[Infinity, -Infinity, NaN]")
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])
    for value in values:
        with pytest.raises(MessageError, match="JSON has no number"):
            jsontypes.CELERY_JSON.dumps(value)


@pytest.mark.parametrize(
    "text", ['{"__type__": "bytes"}', '{"__value__": 1}', '{"__type__": "bytes", "__value__": "a", "more": 1}']
)
def test_a_dict_with_other_keys_than_those_two_is_just_a_dict(text):
    value = jsontypes.CELERY_JSON.loads(text)
    assert value == json.loads(text)
    assert jsontypes.CELERY_JSON.loads(jsontypes.CELERY_JSON.dumps(value)) == value


@pytest.mark.parametrize("marker", ["money", "", "Decimal", 5, None, ["bytes"], {"a": 1}, True])
def test_an_unknown_type_is_named(marker):
    said = refusal(json.dumps({"__type__": marker, "__value__": "1"}))
    assert said.startswith(f"it holds a value of the type {marker!r}")


@pytest.mark.parametrize("marker", ["datetime", "date", "time", "decimal", "uuid", "bytes", "base64"])
@pytest.mark.parametrize(
    "value",
    ["", "rubbish", "é", "\ud800", None, [], {}, {"hex": 5}, {"hex": "zz"}, {"int": 5}, [0], True, 10**400, "9" * 9999],
)
def test_a_broken_envelope_is_an_error_or_a_value_of_its_type_and_nothing_else(marker, value):
    text = json.dumps({"__type__": marker, "__value__": value})
    kinds = {"datetime": datetime, "date": date, "time": time, "decimal": Decimal, "uuid": UUID}
    try:
        read = jsontypes.CELERY_JSON.loads(text)
    except ResultDecodeError as error:
        said = str(error)
    else:
        assert isinstance(read, kinds.get(marker, bytes))
        return
    assert said.startswith(f"it holds a broken {marker}")
    assert len(said) < 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid"),
        ("{", "not valid"),
        ("nonsense", "not valid"),
        ("{'a': 1}", "not valid"),
        ("1 2", "not valid"),
        (b"\xff", "not valid"),
        (b'"\xff"', "not valid"),
        ("9" * 4301, "not valid"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        (b"[" * 501 + b"]" * 501, "nested too deeply"),
        ('{"a":[' * 251 + "]}" * 251, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_an_error_with_a_reason(text, reason):
    assert reason in refusal(text)


def test_depth_is_limited_where_it_is_written():
    def nested(depth):
        value = 0
        for _ in range(depth):
            value = [value]
        return value

    at_most = nested(jsontypes.MAX_DEPTH)
    assert jsontypes.CELERY_JSON.loads(jsontypes.CELERY_JSON.dumps(at_most)) == at_most
    with pytest.raises(MessageError, match="nested more than 100 levels"):
        jsontypes.CELERY_JSON.dumps(nested(jsontypes.MAX_DEPTH + 1))


@given(st.binary() | st.text())
def test_anything_is_read_or_is_a_decode_error(text):
    try:
        jsontypes.CELERY_JSON.loads(text)
    except ResultDecodeError:
        pass


@pytest.mark.parametrize("text", ["[" * 500 + "]" * 500, b"[" * 500 + b"]" * 500, '{"a":[' * 250 + "]}" * 250])
def test_nesting_up_to_the_limit_is_read(text):
    assert jsontypes.CELERY_JSON.loads(text)


def test_many_lists_side_by_side_are_not_deep():
    assert len(jsontypes.CELERY_JSON.loads("[" + ",".join(["[1]"] * 2000) + "]")) == 2000


ATOMS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False) | st.binary(max_size=5)
)  # fmt: skip


@given(st.lists(ATOMS) | st.lists(ATOMS).map(tuple) | st.lists(st.lists(ATOMS)) | st.dictionaries(st.text(), ATOMS))
@example([2**63, -(2**63), 2**63 - 1, -0.0, 1e308, 5e-324, "\ud800", "\u2028"])
def test_every_value_is_written_as_the_standard_library_writes_it(value):
    assert jsontypes.CELERY_JSON.dumps(value) == json.dumps(jsontypes.CELERY_JSON.plain(value), allow_nan=False)


@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, 10**4300, object(), {1: 2}], ids=lambda wrong: type(wrong).__name__
)
def test_a_wrong_value_in_a_plain_list_is_refused(wrong):
    for value in ([1, wrong], (wrong,)):
        with pytest.raises(MessageError, match="args"):
            jsontypes.CELERY_JSON.dumps(value, "args")


# Types of one's own

PRICE = Money(Decimal("1.50"), "EUR")
TYPES = JSONCodec([JSONType(*MONEY)])


class Moment(datetime):
    """Such as other libraries have."""


class Late(Moment):
    """A kind of these."""


class Colour(enum.StrEnum):
    RED = "red"


@given(st.recursive(SCALARS | st.builds(Money, st.decimals(allow_nan=False), st.text()), st.lists, max_leaves=10))
def test_a_type_that_was_told_goes_there_and_back_among_others(value):
    assert TYPES.loads(TYPES.dumps(value)) == value
    assert TYPES.loads(TYPES.dumps([value, {"k": value}])) == [value, {"k": value}]


def test_a_type_is_known_to_those_that_were_told_of_it_alone():
    with pytest.raises(MessageError, match=r"args holds a proj\.types\.Money, .*json_types"):
        jsontypes.CELERY_JSON.dumps([PRICE], "args")
    with pytest.raises(ResultDecodeError, match=r"of the type 'money', .*json_types"):
        jsontypes.CELERY_JSON.loads(TYPES.dumps(PRICE))


def test_without_a_marker_a_value_travels_as_what_its_encoder_makes_of_it():
    types = JSONCodec([JSONType(Money, None, Money.encode)])
    assert types.loads(types.dumps([PRICE])) == [{"amount": Decimal("1.50"), "currency": "EUR"}]


def test_of_several_types_that_would_do_the_nearest_is_taken():
    def name(told, value):
        types = JSONCodec([JSONType(each, each.__name__, lambda _: None) for each in told])
        return json.loads(types.dumps(value))["__type__"]

    late = Late(2026, 1, 2)
    assert name([], late) == name([Money], late) == "datetime"
    assert name([Moment, date], late) == "Moment"
    assert name([Moment, Late], late) == "Late"
    assert name([datetime], late) == "datetime"
    assert name([object], PRICE) == "object"
    assert name([object], date(2026, 1, 2)) == "date"
    assert name([collections.abc.Set], frozenset()) == "Set"


def test_a_type_may_take_the_place_of_one_of_celerys():
    types = JSONCodec([JSONType(datetime, "datetime", datetime.isoformat, lambda text: Moment.fromisoformat(text))])
    read = types.loads(types.dumps(datetime(2026, 1, 2)))
    assert (type(read), read) == (Moment, datetime(2026, 1, 2))
    assert type(jsontypes.CELERY_JSON.loads(types.dumps(datetime(2026, 1, 2)))) is datetime


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (lambda _: 1 / 0, r"and its encoder raised ZeroDivisionError"),
        (lambda _: object(), "holds a builtins.object, which JSON cannot carry"),
        (lambda value: [value], "nested more than 100 levels deep, or contains itself"),
        (lambda _: {1: 2}, "JSON keys are text"),
    ],
)
@pytest.mark.parametrize("marker", ["money", None])
def test_an_encoder_that_fails_is_a_message_error(encoder, reason, marker):
    with pytest.raises(MessageError, match=reason):
        JSONCodec([JSONType(Money, marker, encoder)]).dumps([PRICE])


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyError("x"), AssertionError(), StopIteration(), MessageError("m")]
)
def test_whatever_a_decoder_raises_is_a_decode_error(error):
    def decode(_):
        raise error

    with pytest.raises(UnreadableTypeError, match="broken money") as caught:
        JSONCodec([JSONType(Money, "money", str, decode)]).loads(TYPES.dumps([PRICE]))
    assert caught.value.__cause__ is error


def test_a_decoder_without_end_is_a_decode_error_too():
    def decode(value):
        return decode(value)

    with pytest.raises(ResultTooDeepError):
        JSONCodec([JSONType(Money, "money", str, decode)]).loads(TYPES.dumps([PRICE]))


def test_what_cannot_be_read_can_be_left_as_it_is():
    stored = [
        {"__type__": "other", "__value__": [PRICE, date(2026, 1, 2)]},
        PRICE,
        {"__type__": "uuid", "__value__": 5},
    ]
    text = json.dumps(stored, default=TYPES.plain)
    with pytest.raises(UnreadableTypeError):
        TYPES.loads(text)
    plain = jsontypes.loads_plain(text)
    assert TYPES.revive(plain, strict=False) == stored
    with pytest.raises(UnreadableTypeError, match="'other'"):
        TYPES.revive(plain, strict=True)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("money", "money", str), "must be a class, not 'money'"),
        ((dict, "d", str), "JSON writes a dict as it writes any dict"),
        ((Colour, "c", str), "JSON writes a Colour as it writes any str"),
        ((bool, "b", str), "as it writes any int"),
        ((type(None), "n", str), "as it writes any NoneType"),
        ((Money, "", str), "marker of a JSONType must be text, or None, not ''"),
        ((Money, 5, str), "not 5"),
        ((Money, "money", "encode"), "encoder of a JSONType must be a function"),
        ((Money, "money", str, None), "decoder of a JSONType must be a function"),
    ],
)
def test_a_type_that_cannot_be_one_is_refused(wrong, reason):
    with pytest.raises(ConfigError, match=reason):
        JSONType(*wrong)


def test_a_coroutine_function_is_no_decoder():
    async def decode(value):
        return value

    with pytest.raises(ConfigError, match="not async"):
        JSONType(Money, "money", str, decode)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([JSONType(*MONEY), JSONType(Money, "other", str)], "two of json_types are for Money"),
        ([JSONType(*MONEY), JSONType(set, "money", list)], "have the marker 'money'"),
        ([MONEY], "json_types must be JSONTypes, such as"),
    ],
)
def test_types_that_do_not_go_together_are_refused(wrong, reason):
    with pytest.raises(ConfigError, match=reason):
        JSONCodec(wrong)


def test_several_types_may_go_without_a_marker():
    types = JSONCodec([JSONType(Money, None, lambda _: 1), JSONType(set, None, sorted)])
    assert types.dumps([PRICE, {2, 1}]) == "[1, [1, 2]]"
