"""A call becomes a message that a worker can take, or an error that says what to do instead."""

import enum
import json
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.messages import build_task

from fibo_client.celery.protocol.headers import RESERVED_HEADERS, RESERVED_STAMPS, join_headers
from fibo_client.celery.protocol.options import check_name
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NESTED

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
HUGE = 10**5000


class Colour(str, enum.Enum):  # noqa: UP042 - its str() is the member's name, unlike a StrEnum's
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int


def build(task="proj.add", args=(), kwargs=None, **options):
    return build_task(task, args, kwargs, **{"now": NOW, **options})


def refusal(*args, **options):
    with pytest.raises(MessageError) as caught:
        build(*args, **options)
    return str(caught.value)


def body_of(message):
    return json.loads(message.body)


# What is sent


def test_a_plain_call_has_every_header_of_the_protocol():
    message = build(args=[2, 3], kwargs={"z": None})
    assert message.headers == {
        "lang": "py",
        "task": "proj.add",
        "id": "id-1",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "id-1",
        "parent_id": None,
        "argsrepr": "(2, 3)",
        "kwargsrepr": "{'z': None}",
        "origin": "gen1@host",
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    assert (message.id, message.priority, message.expiration) == ("id-1", 0, None)
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert body_of(message) == [[2, 3], {"z": None}, embed]


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"countdown": 60}, {"eta": "2026-01-02T03:05:05.000678+00:00"}),
        ({"countdown": 0.5}, {"eta": "2026-01-02T03:04:05.500678+00:00"}),
        ({"countdown": 0}, {"eta": None}),
        ({"countdown": -0.5}, {"eta": "2026-01-02T03:04:04.500678+00:00"}),
        ({"countdown": -(2**31)}, {"eta": "1957-12-14T23:49:57.000678+00:00"}),
        ({"eta": NOW}, {"eta": "2026-01-02T03:04:05.000678+00:00"}),
        ({"eta": datetime(2026, 1, 1, tzinfo=UTC)}, {"eta": "2026-01-01T00:00:00.000000+00:00"}),
        (
            {"eta": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5)))},
            {"eta": "2026-01-01T05:00:00.000000+00:00"},
        ),
        ({"expires": 1.5}, {"expires": "2026-01-02T03:04:06.500678+00:00"}),
        ({"expires": NOW + timedelta(hours=1)}, {"expires": "2026-01-02T04:04:05.000678+00:00"}),
        ({"time_limit": 10}, {"timelimit": [10, None]}),
        ({"soft_time_limit": 2.5}, {"timelimit": [None, 2.5]}),
        ({"time_limit": 10, "soft_time_limit": 5}, {"timelimit": [10, 5]}),
        ({"ignore_result": True}, {"ignore_result": True}),
        ({"ignore_result": False}, {"ignore_result": False}),
        ({"ignore_result": None}, {"ignore_result": None}),
        ({"headers": {"traceparent": "00-1", "n": 1}}, {"traceparent": "00-1", "n": 1}),
        ({"headers": {}}, {}),
        ({"shadow": "other name"}, {"shadow": "other name", "task": "proj.add"}),
        ({"root_id": "root"}, {"root_id": "root"}),
        ({"parent_id": "parent"}, {"parent_id": "parent", "root_id": "id-1"}),
        ({"stamps": {"on": "x", "by": [1]}}, {"stamped_headers": ["on", "by"], "stamps": {"on": "x", "by": [1]}}),
        ({"stamps": {}}, {"stamped_headers": [], "stamps": {}}),
        ({"compression": "gzip"}, {"compression": "application/x-gzip"}),
        ({"compression": "zlib"}, {"compression": "application/x-gzip"}),
        ({"task_id": "id-2"}, {"id": "id-2", "root_id": "id-2"}),
        ({"argsrepr": "(***)", "kwargsrepr": "***"}, {"argsrepr": "(***)", "kwargsrepr": "***"}),
        ({"argsrepr": None, "kwargsrepr": None}, {}),
        ({"argsrepr": "x" * 2000}, {"argsrepr": "x" * 1021 + "..."}),
    ],
)
def test_an_option_changes_its_own_headers_alone(options, headers):
    message = build(**options)
    plain = build().headers
    changed = {name: value for name, value in message.headers.items() if plain.get(name, ...) != value}
    assert changed == {name: value for name, value in headers.items() if plain.get(name, ...) != value}
    assert headers.items() <= message.headers.items()


@pytest.mark.parametrize(
    ("expires", "milliseconds"),
    [(2, "2000"), (0.0015, "1"), (NOW + timedelta(seconds=1.5), "1500"), (10**9, "1000000000000")],
)
def test_an_expiry_is_told_to_the_broker_too(expires, milliseconds):
    assert build(expires=expires).expiration == milliseconds


@pytest.mark.parametrize("offset", [timedelta(minutes=19, seconds=32), timedelta(microseconds=1), timedelta(hours=14)])
@pytest.mark.parametrize("name", ["eta", "expires"])
def test_a_moment_is_written_in_utc_because_workers_cannot_read_every_offset(name, offset):
    moment = datetime(2050, 1, 1, tzinfo=timezone(offset))
    text = build(**{name: moment}).headers[name]
    assert text.endswith("+00:00")
    assert datetime.fromisoformat(text) == moment


def test_a_countdown_is_not_bent_by_a_change_to_summer_time():
    before = datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    eta = datetime.fromisoformat(build(now=before, countdown=3600).headers["eta"])
    assert (eta - before.astimezone(UTC)).total_seconds() == 3600


@pytest.mark.parametrize(("given", "sent"), [(None, 0), (0, 0), (5, 5), (9, 9), (Level.HIGH, 3)])
def test_a_priority_is_sent_as_it_is(given, sent):
    priority = build(priority=given).priority
    assert priority == sent
    assert type(priority) is int


def test_a_compressed_body_is_a_zlib_stream_of_the_same_json():
    message = build(args=["x" * 1000], compression="gzip")
    assert message.body[:1] == b"\x78"
    assert len(message.body) < 200
    assert zlib.decompress(message.body) == build(args=["x" * 1000]).body


def test_what_the_worker_logs_of_long_arguments_is_cut():
    message = build(args=["x" * 5000], kwargs={"k": "y" * 5000})
    for name in ("argsrepr", "kwargsrepr"):
        assert len(message.headers[name]) == 1024
        assert message.headers[name].endswith("...")
    assert body_of(message)[:2] == [["x" * 5000], {"k": "y" * 5000}]


def test_an_enumerations_member_is_sent_as_the_text_that_it_is():
    message = build(
        Colour.RED, [Colour.RED, Level.HIGH], {Colour.RED: 1}, task_id=Colour.RED, headers={"c": Colour.RED}
    )
    assert body_of(message)[:2] == [["red", 3], {"red": 1}]
    assert (message.headers["task"], message.headers["id"], message.headers["c"]) == ("red", "red", "red")
    assert {type(each) for each in (message.id, message.headers["task"], message.headers["c"])} == {str}


@pytest.mark.parametrize("option", ["headers", "stamps"])
def test_headers_and_stamps_hold_nothing_that_plain_json_has_not(option):
    sent = build(**{option: {"when": date(2026, 1, 2), "raw": b"\xff"}}).headers
    found = sent if option == "headers" else sent["stamps"]
    assert found["when"] == {"__type__": "date", "__value__": "2026-01-02"}
    assert found["raw"] == {"__type__": "base64", "__value__": "/w=="}
    json.dumps(sent)


def test_the_callers_objects_are_not_changed():
    args, kwargs, headers, stamps = [1, (2,)], {"a": {"b": 1}}, {"h": [1]}, {"s": [1]}
    build(args=args, kwargs=kwargs, headers=headers, stamps=stamps)
    assert (args, kwargs, headers, stamps) == ([1, (2,)], {"a": {"b": 1}}, {"h": [1]}, {"s": [1]})


@pytest.mark.parametrize(
    "name", ["a", "proj.tasks.add", "ünï.cödé", "with space", "任务", "x" * 1024, "a/b:c-d_e*[]{}"]
)
def test_any_text_that_can_be_printed_is_a_name(name):
    assert check_name("task", name) == name
    assert build(name, task_id=name).headers["id"] == name


# What is refused

SELF = []
SELF.append(SELF)
SELF_DICT = {}
SELF_DICT["self"] = [SELF_DICT]
DEEP = [[]]
for _ in range(200):
    DEEP = [DEEP]

VALUES = [
    pytest.param(float("inf"), "None or text", id="inf"),
    pytest.param(float("-inf"), "None or text", id="-inf"),
    pytest.param(float("nan"), "None or text", id="nan"),
    pytest.param({1, 2}, "lists", id="set"),
    pytest.param(frozenset(), "lists", id="frozenset"),
    pytest.param(bytearray(b"x"), "bytes", id="bytearray"),
    pytest.param(memoryview(b"x"), "bytes", id="memoryview"),
    pytest.param(1j, "numbers", id="complex"),
    pytest.param(object(), "send numbers", id="object"),
    pytest.param(Point(1), "Point", id="dataclass"),
    pytest.param(timedelta(1), "send numbers", id="timedelta"),
    pytest.param(ValueError("x"), "send numbers", id="exception"),
    pytest.param(print, "send numbers", id="function"),
    pytest.param(int, "send numbers", id="class"),
    pytest.param(iter([1]), "lists", id="iterator"),
    pytest.param(range(3), "lists", id="range"),
    pytest.param(10**4300, "hex(number)", id="int of 4301 digits"),
    pytest.param(-HUGE, "hex(number)", id="negative int of 5001 digits"),
    pytest.param({"__type__": "decimal", "__value__": "1"}, "rename", id="marker"),
    pytest.param({"__value__": 1, "__type__": None}, "rename", id="nonsense marker"),
    pytest.param({1: "a"}, "str(key)", id="int key"),
    pytest.param({None: "a"}, "str(key)", id="None key"),
    pytest.param({True: "a", "True": "b"}, "str(key)", id="bool key"),
    pytest.param({(1, 2): "a"}, "str(key)", id="tuple key"),
    pytest.param({b"k": "a"}, "str(key)", id="bytes key"),
    pytest.param({HUGE: "a"}, "str(key)", id="huge key"),
    pytest.param(SELF, "contains itself", id="list in itself"),
    pytest.param(SELF_DICT, "contains itself", id="dict in itself"),
    pytest.param(DEEP, "nested", id="deep"),
]


@pytest.mark.parametrize(("value", "advice"), VALUES)
@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("where", ["args", "kwargs", "headers", "stamps"])
def test_a_value_that_no_worker_could_read_is_refused(where, depth, value, advice):
    for _ in range(depth):
        value = [{"k": (value,)}]
    said = refusal(**{where: [value] if where == "args" else {"key": value}})
    assert said.startswith(where)
    assert advice in said
    assert len(said) < 400


def test_an_integer_of_exactly_as_many_digits_as_can_be_read_is_sent():
    numbers = [10**4300 - 1, 9 * 10**4299, -(10**4300) + 1, 2**14284]
    assert body_of(build(args=numbers))[0] == numbers


@pytest.mark.parametrize("name", [*sorted(RESERVED_HEADERS), "__dict__", "__reduce_ex__"])
def test_a_header_of_the_protocols_own_is_refused_by_name(name):
    for options in ({"headers": {name: "x"}}, {"stamps": {name: "x"}}, {"headers": {NESTED: {NESTED: {name: "x"}}}}):
        said = refusal(**options)
        assert repr(name) in said
        assert "use another name" in said


@pytest.mark.parametrize(
    "headers",
    [
        {"_schema_name": "tenant", "_all_tenants_only": True, "__x": 1, "x__": 2},
        {NESTED: {"sentry-trace": "1", "_x": [1]}, "n": 1},
        {NESTED: {}},
        {NESTED: {NESTED: {"n": 1}}},
    ],
)
def test_a_header_is_refused_for_no_other_name(headers):
    assert build(headers=headers).headers.items() >= headers.items()


def test_headers_of_a_tracer_join_those_of_the_caller_and_replace_none():
    assert join_headers({"n": 1}, None, {"traceparent": "t", "n": "2", "id": "x", "x": 5}) == {"traceparent": "t"}
    assert join_headers({"n": 1}, {"a": 2}, {"traceparent": "t"}) == {"traceparent": "t", NESTED: {"a": 2}}
    assert join_headers({}, {"a": 2}, {}) == {NESTED: {"a": 2}}


def test_a_dict_of_a_tracers_holds_the_callers_headers_too_for_the_task_finds_no_others():
    added = {NESTED: {"sentry-trace": "s", "at": 1.5, "n": "2", "a": "3"}}
    assert join_headers({"n": 1, "m": 4}, {"a": 5, "b": 6}, added) == {
        NESTED: {"sentry-trace": "s", "at": 1.5, "n": "2", "m": 4, "a": "3", "b": 6}
    }


@pytest.mark.parametrize("broken", ["x", None, {"id": "x"}, {"n": object()}, {5: "x"}, {NESTED: "x"}])
def test_a_dict_of_a_tracers_that_no_worker_could_take_is_left_out(broken):
    assert join_headers({"n": 1}, None, {NESTED: broken, "t": "x"}) == {"t": "x"}
    assert join_headers({"n": 1}, {"a": 2}, {NESTED: broken}) == {NESTED: {"a": 2}}


@pytest.mark.parametrize("name", sorted(RESERVED_STAMPS - RESERVED_HEADERS - {NESTED}))
def test_a_stamp_is_refused_where_a_worker_would_take_it_for_something_else_but_such_a_header_is_not(name):
    assert "use another name" in refusal(stamps={name: "x"})
    assert build(headers={name: "x"}).headers[name] == "x"


BAD_NAMES = [
    ("", "1 to 1024 characters"),
    ("x" * 1025, "not 1025"),
    ("a\x06\x16b", "cannot be printed"),
    ("a\x00", "cannot be printed"),
    ("a\nb", "cannot be printed"),
    ("a\x7f", "cannot be printed"),
    ("a\u2028", "cannot be printed"),
    ("a\u200b", "cannot be printed"),
    ("\ud800", "cannot be printed"),
    (5, "must be text, not int"),
    (b"x", "must be text, not bytes"),
    (["x"], "must be text, not list"),
    (1.5, "must be text, not float"),
]


@pytest.mark.parametrize(("name", "advice"), [*BAD_NAMES, (None, "must be text, not NoneType")])
@pytest.mark.parametrize("what", ["task", "task_id"])
def test_a_name_or_id_that_no_worker_could_take_is_refused(what, name, advice):
    said = refusal(**{what: name})
    assert said.startswith(what)
    assert advice in said


@pytest.mark.parametrize(("name", "advice"), BAD_NAMES)
@pytest.mark.parametrize("what", ["shadow", "root_id", "parent_id"])
def test_an_optional_name_is_none_or_one_that_a_worker_can_take(what, name, advice):
    said = refusal(**{what: name})
    assert said.startswith(what)
    assert advice in said


@pytest.mark.parametrize(("name", "advice"), [bad for bad in BAD_NAMES if isinstance(bad[0], (str, int, bytes))])
@pytest.mark.parametrize("option", ["headers", "stamps"])
def test_the_name_of_a_header_is_like_any_other(option, name, advice):
    said = refusal(**{option: {name: "x"}})
    assert option in said
    assert advice in said


OPTIONS = [
    ({"args": "ab"}, "one is (value,)"),
    ({"args": b"ab"}, "one is (value,)"),
    ({"args": None}, "not NoneType"),
    ({"args": 5}, "a list or a tuple"),
    ({"args": {"a": 1}}, "not dict"),
    ({"args": (each for each in [1])}, "not generator"),
    ({"kwargs": [("a", 1)]}, "must be a dict"),
    ({"kwargs": "a"}, "must be a dict"),
    ({"kwargs": {1: "a"}}, "names of arguments are text"),
    ({"kwargs": {HUGE: "a"}}, "names of arguments are text"),
    ({"priority": -1}, "must be an integer from 0 to 9"),
    ({"priority": 10}, "must be an integer from 0 to 9"),
    ({"priority": 200}, "from 0"),
    ({"priority": "7"}, "must be an integer"),
    ({"priority": 3.0}, "must be an integer"),
    ({"priority": True}, "must be an integer"),
    ({"priority": HUGE}, "must be an integer"),
    ({"countdown": 5, "eta": NOW}, "countdown or eta, not both"),
    ({"countdown": 0, "eta": NOW}, "countdown or eta, not both"),
    ({"countdown": -(2**31) - 1}, "-2147483648 or more"),
    ({"countdown": float("-inf")}, "finite"),
    ({"countdown": float("inf")}, "finite"),
    ({"countdown": float("nan")}, "finite"),
    ({"countdown": "5"}, "number of seconds, not str"),
    ({"countdown": True}, "number of seconds, not bool"),
    ({"countdown": timedelta(1)}, "number of seconds, not timedelta"),
    ({"countdown": 10**12}, "give a smaller number"),
    ({"countdown": 1e300}, "give a smaller number"),
    ({"countdown": HUGE}, "give a smaller number"),
    ({"eta": datetime(2050, 1, 1)}, "astimezone()"),
    ({"eta": "2050-01-01T00:00:00Z"}, "datetime with a time zone, not str"),
    ({"eta": date(2050, 1, 1)}, "datetime with a time zone, not date"),
    ({"eta": 5}, "datetime with a time zone, not int"),
    ({"eta": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "give a year"),
    ({"eta": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "give a year"),
    ({"expires": datetime(2050, 1, 1)}, "astimezone()"),
    ({"expires": NOW}, "in the past"),
    ({"expires": NOW - timedelta(seconds=1)}, "in the past"),
    ({"expires": 0}, "in the past"),
    ({"expires": -1}, "0 or more"),
    ({"expires": float("inf")}, "finite"),
    ({"expires": 1e300}, "give a smaller number"),
    ({"expires": "60"}, "number of seconds, not str"),
    ({"expires": False}, "number of seconds, not bool"),
    ({"time_limit": -1}, "0 or more"),
    ({"time_limit": float("nan")}, "finite"),
    ({"time_limit": "10"}, "number of seconds"),
    ({"time_limit": HUGE}, "give a smaller number"),
    ({"soft_time_limit": timedelta(1)}, "number of seconds"),
    ({"soft_time_limit": float("-inf")}, "0 or more"),
    ({"ignore_result": 1}, "True, False or None"),
    ({"ignore_result": HUGE}, "True, False or None"),
    ({"headers": [("a", 1)]}, "headers must be a dict"),
    ({"headers": "x"}, "headers must be a dict"),
    ({"headers": {"headers": "x"}}, "headers['headers'] must be a dict, not str"),
    ({"headers": {"headers": None}}, "headers['headers'] must be a dict, not NoneType"),
    ({"headers": {"headers": {"headers": [1]}}}, "headers['headers']['headers'] must be a dict, not list"),
    ({"stamps": ["a"]}, "stamps must be a dict"),
    ({"argsrepr": ""}, "workers log the arguments themselves"),
    ({"kwargsrepr": ""}, "workers log the arguments themselves"),
    ({"argsrepr": ("***",)}, "argsrepr must be text, not tuple"),
    ({"kwargsrepr": b"***"}, "kwargsrepr must be text, not bytes"),
    ({"compression": "bzip2"}, "use 'gzip'"),
    ({"compression": "zstd"}, "use 'gzip'"),
    ({"compression": ""}, "use 'gzip'"),
    ({"compression": True}, "use 'gzip'"),
    ({"compression": ["gzip"]}, "use 'gzip'"),
    ({"now": datetime(2026, 1, 1)}, "no time zone"),
]


@pytest.mark.parametrize(("options", "advice"), OPTIONS, ids=lambda value: None)
def test_an_option_that_no_worker_could_take_is_refused_with_advice(options, advice):
    said = refusal(**options)
    assert advice in said
    assert len(said) < 400


def test_a_number_that_ends_a_worker_when_it_parses_the_message_is_found_in_every_option():
    for name in ("countdown", "expires", "time_limit", "soft_time_limit", "priority"):
        assert name in refusal(**{name: HUGE})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
).filter(lambda value: "__type__" not in repr(value))


@given(st.lists(JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_plain_json_arguments_are_sent_as_they_are(args, kwargs):
    message = build(args=args, kwargs=kwargs)
    assert body_of(message)[:2] == [args, kwargs]
    assert message.body.isascii()


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.timedeltas()
    | st.sampled_from([object(), Colour.RED, Point(1)])
    | st.integers(4290, 5000).map(lambda digits: 10**digits),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["task", "task_id", "priority", "countdown", "eta", "expires", "time_limit", "soft_time_limit", "ignore_result",
         "headers", "shadow", "root_id", "parent_id", "stamps", "compression", "args", "kwargs", "argsrepr",
         "kwargsrepr"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
def test_anything_as_an_option_gives_a_message_of_plain_json_or_a_message_error(options):
    try:
        message = build(**options)
    except MessageError:
        return
    assert json.loads(json.dumps(message.headers, allow_nan=False)) == message.headers


class Watched(int):
    """A number that counts how often it is shown."""

    shown = 0

    def __repr__(self):
        type(self).shown += 1
        return int.__repr__(self)


def test_of_large_arguments_only_the_beginning_is_shown():
    numbers = [Watched(number) for number in range(100_000)]
    message = build(args=[numbers], kwargs={"k": numbers})
    assert message.headers["argsrepr"] == f"{([*range(1000)],)!r:.1021}..."
    assert message.headers["kwargsrepr"] == f"{ ({'k': [*range(1000)]})!r:.1021}..."
    assert Watched.shown < 2000


@pytest.mark.parametrize(
    "value",
    [
        ([1, 2.5, None, True, "it's", b"raw"], {"a": (1,), "b": ()}, [], {}, NOW),
        {"nested": [[[{"deep": (1, (2,))}]]]},
        ["short", "text"],
    ],
)
def test_large_arguments_are_shown_as_python_shows_them(value):
    message = build(args=[value, "x" * 10_000])
    assert message.headers["argsrepr"] == f"{(value, 'x' * 2000)!r:.1021}..."


class Secretive(str):
    """Text whose repr is broken."""

    __slots__ = ()

    def __repr__(self):
        raise ValueError("no repr of mine")


@pytest.mark.parametrize("more", ["", "x" * 10_000])
def test_an_argument_whose_repr_raises_is_sent_and_its_type_is_logged_in_place_of_it(more):
    message = build(args=[Secretive("a"), 1, more])
    assert message.headers["argsrepr"].startswith("(<Secretive>, 1, '")
    assert json.loads(message.body)[0] == ["a", 1, more]
