"""Encoding: the bytes of the ordinary path, made from a template, with the event loop getting its turn."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import virtual
from support.memory import MemoryBroker
from support.messages import build_task

from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.celery.encoder import MAX_TEMPLATES, Encoder
from fibo_client.celery.redis.encoder import RedisEncoder
from fibo_client.celery.redis.envelope import encode_task
from fibo_client.celery.redis.keys import BrokerKeys
from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.celery.signature import Signature
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NOOP_SPAN

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
ADD = RemoteTask("proj.add")


def encoder() -> Encoder:
    broker, _ = connect(CeleryConfig())
    return Encoder(broker, "celery")


LISTS = BrokerKeys(prefix="", steps=(0, 3, 6, 9), separator="\x06\x16", db=0, control_exchange="celery")


def element(message):
    """What would go into a list of Redis."""
    ((_, payload),) = RedisEncoder(LISTS).encode_many([message])
    return payload


def opened(message):
    """What is in a message, and the arguments in it."""
    envelope = json.loads(element(message))
    return envelope, json.loads(base64.b64decode(envelope["body"]))[:2]


@pytest.fixture
def _now(monkeypatch):
    monkeypatch.setattr("fibo_client.celery.encoder.datetime", mock.Mock(now=lambda zone: NOW))


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F).filter(str.isprintable), min_size=1, max_size=12)
ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.binary() | st.datetimes() | st.decimals(allow_nan=False) | st.sampled_from(["%s", "%", "\0", "\0001\0", '"'])
)  # fmt: skip
KEYS = st.text(max_size=5)
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
OWN = st.dictionaries(st.sampled_from(["traceparent", "x%s", "n", "_n"]), VALUES, max_size=2)
LATER = st.datetimes(datetime(2027, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
SECONDS = st.integers(1, 10**6) | st.floats(0.001, 10**6)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": NAMES,
        "priority": st.integers(0, 9),
        "task_id": NAMES,
        "expires": SECONDS | LATER | st.none(),
        "time_limit": SECONDS,
        "soft_time_limit": SECONDS,
        "ignore_result": st.none() | st.booleans(),
        "headers": OWN,
        "shadow": NAMES,
        "root_id": NAMES,
        "parent_id": NAMES,
        "stamps": OWN,
        "compression": st.just("gzip"),
        "argsrepr": NAMES,
        "kwargsrepr": NAMES,
    },
)
START = st.just({}) | st.fixed_dictionaries({"countdown": SECONDS}) | st.fixed_dictionaries({"eta": LATER})


class Injecting:
    """A span that adds the same headers to every message."""

    def __init__(self, headers):
        self.headers = headers
        self.told = []

    def inject(self, task, task_id):
        self.told.append((task, task_id))
        return self.headers


MORE = st.dictionaries(st.sampled_from(["traceparent", "tracestate", "baggage", 'x"%s', "\u00e9"]), st.text())


@pytest.mark.usefixtures("_now")
@given(NAMES, st.lists(st.tuples(st.lists(VALUES, max_size=4), st.dictionaries(KEYS, VALUES, max_size=3)), min_size=1,
       max_size=3), OPTIONS, START, MORE)  # fmt: skip
def test_what_is_composed_is_byte_for_byte_what_the_ordinary_path_makes(task, calls, options, start, more):
    made = encoder()
    options |= start
    for args, kwargs in calls:
        message = made.one(Signature(task, tuple(args), kwargs), options, Injecting(more))
        rest = {name: value for name, value in options.items() if name not in ("queue", "task_id")}
        if more:
            rest["headers"] = (own := options.get("headers", {})) | {k: v for k, v in more.items() if k not in own}
        ordinary = build_task(
            task, tuple(args), kwargs, task_id=message.id, now=NOW, origin=made._origin,
            queue=options.get("queue", "celery"), **rest,
        )  # fmt: skip
        sent = element(message)
        assert sent == encode_task(ordinary, json.loads(sent)["properties"]["delivery_tag"])
        assert message.id == options.get("task_id", message.id)


def test_headers_that_are_added_stand_at_the_top_level_of_the_headers():
    envelope, _ = opened(encoder().one(ADD(1), {}, Injecting({"traceparent": "00-1", "baggage": "a=1"})))
    assert envelope["headers"]["traceparent"] == "00-1"
    assert envelope["headers"]["baggage"] == "a=1"


async def test_each_message_is_told_and_gets_its_headers_from_one_template():
    made = encoder()
    span = Injecting({})
    span.inject = lambda task, task_id: {"traceparent": f"for {task} {task_id}"}
    messages = await made.many([ADD(1), ADD(2)], {}, span)
    messages.append(made.one(ADD(3), {}, span))
    for message in messages:
        assert opened(message)[0]["headers"]["traceparent"] == f"for proj.add {message.id}"
    assert len({id(message.template) for message in messages}) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"id": "x"}, {"task": "x"}, {"headers": "x"}, {"__x__": "x"}, {"mine": "x"}, {"a\nb": "x"}, {"n": 1}, {5: "x"},
        {"b": b"x"}, {"n": None},
    ],
)  # fmt: skip
def test_a_header_that_would_break_a_message_or_replace_the_callers_is_not_added(more):
    made, options = encoder(), {"headers": {"mine": "own"}}
    plain, _ = opened(made.one(ADD(1), options, NOOP_SPAN))
    envelope, _ = opened(made.one(ADD(1), options, Injecting(more | {"traceparent": "t"})))
    assert set(envelope["headers"]) == set(plain["headers"]) | {"traceparent"}
    assert envelope["headers"]["mine"] == "own"
    assert envelope["headers"]["task"] == "proj.add"


@pytest.mark.parametrize("more", [{}, {"traceparent": "t"}], ids=["untraced", "traced"])
def test_a_dict_of_headers_is_sent_as_it_is(more):
    given = {"n": 1, "headers": {"when": NOW, "n": 2}}
    envelope, _ = opened(encoder().one(ADD(1), {"headers": given}, Injecting(more)))
    assert envelope["headers"]["n"] == 1
    assert envelope["headers"]["headers"] == {
        "when": {"__type__": "datetime", "__value__": "2026-01-02T03:04:05.000678+00:00"},
        "n": 2,
    }
    assert "traceparent" not in envelope["headers"]["headers"]


def test_a_tracer_may_add_a_dict_of_headers_to_those_of_the_caller():
    injected = {"headers": {"sentry-trace": "s", "at": 1.5}}
    given = {"n": 1, "headers": {"m": 2}}
    envelope, _ = opened(encoder().one(ADD(1), {"headers": given}, Injecting(injected)))
    assert envelope["headers"]["headers"] == {"n": 1, "sentry-trace": "s", "at": 1.5, "m": 2}
    assert envelope["headers"]["n"] == 1
    assert given == {"n": 1, "headers": {"m": 2}}


async def test_one_and_many_make_the_same_messages():
    made = encoder()
    options = {"queue": "q", "priority": 3, "headers": {"n": 1}}
    one = made.one(ADD(1, y=2), options, NOOP_SPAN)
    (other,) = await made.many([ADD(1, y=2)], options, NOOP_SPAN)
    assert one._replace(id=other.id).headers == other.headers
    assert one.body == other.body
    assert (one.queue, one.priority) == (other.queue, other.priority) == ("q", 3)


@pytest.mark.parametrize("hidden", [False, True])
async def test_what_logs_show_of_arguments_is_said_by_the_call_else_by_the_task_else_by_the_setting(hidden):
    broker, _ = connect(CeleryConfig())
    made = Encoder(broker, "celery", hide_arguments=hidden)
    declared = RemoteTask("t", argsrepr="(declared)")
    signatures = [declared("secret", x="secret"), ADD("plain", y=1), declared()]
    many = await made.many(signatures, {}, NOOP_SPAN)
    rest = "<hidden>" if hidden else None
    assert shown(many) == [
        ("(declared)", rest or "{'x': 'secret'}"),
        (rest or "('plain',)", rest or "{'y': 1}"),
        ("(declared)", rest or "{}"),
    ]
    assert shown(await made.many(signatures, {"argsrepr": "(called)"}, NOOP_SPAN)) == [
        ("(called)", rest or "{'x': 'secret'}"), ("(called)", rest or "{'y': 1}"), ("(called)", rest or "{}"),
    ]  # fmt: skip
    assert shown([made.one(each, {"kwargsrepr": "{called}"}, NOOP_SPAN) for each in signatures]) == [
        ("(declared)", "{called}"), (rest or "('plain',)", "{called}"), ("(declared)", "{called}"),
    ]  # fmt: skip
    with pytest.raises(MessageError, match="argsrepr must not be empty"):
        made.one(declared("secret"), {"argsrepr": ""}, NOOP_SPAN)
    with pytest.raises(MessageError, match="kwargsrepr must not be empty"):
        made.one(RemoteTask("t", kwargsrepr="")(x="secret"), {}, NOOP_SPAN)


def shown(messages):
    headers = [opened(message)[0]["headers"] for message in messages]
    return [(each["argsrepr"], each["kwargsrepr"]) for each in headers]


async def test_each_of_many_has_its_own_task_arguments_ids_and_delivery_tag():
    signatures = [Signature(f"task.{number % 3}", (number,), {"k": number}) for number in range(1000)]
    messages = await encoder().many(signatures, {"headers": {"n": 1}}, NOOP_SPAN)
    contents = [opened(message) for message in messages]
    assert [envelope["headers"]["task"] for envelope, _ in contents] == [signature.task for signature in signatures]
    assert [arguments for _, arguments in contents] == [[[number], {"k": number}] for number in range(1000)]
    assert [envelope["headers"]["id"] for envelope, _ in contents] == [message.id for message in messages]
    assert len({envelope["properties"]["delivery_tag"] for envelope, _ in contents}) == 1000
    assert len({message.id for message in messages}) == 1000
    assert {uuid.UUID(message.id).version for message in messages} == {4}


def test_messages_with_the_same_chosen_id_have_delivery_tags_of_their_own():
    made = encoder()
    messages = [made.one(ADD(1), {"task_id": "mine"}, NOOP_SPAN) for _ in range(3)]
    assert {message.id for message in messages} == {"mine"}
    assert len({opened(message)[0]["properties"]["delivery_tag"] for message in messages}) == 3


async def test_all_of_one_call_expire_at_the_same_moment():
    messages = await encoder().many([ADD(number) for number in range(600)], {"expires": 5}, NOOP_SPAN)
    expiries = {opened(message)[0]["headers"]["expires"] for message in messages}
    assert len(expiries) == 1
    assert abs(datetime.fromisoformat(expiries.pop()) - datetime.now(UTC) - timedelta(seconds=5)) < timedelta(seconds=3)


@pytest.mark.parametrize(
    ("options", "similar"),
    [
        ({"ignore_result": True}, {"ignore_result": 1}),
        ({"ignore_result": False}, {"ignore_result": 0}),
        ({"priority": 1}, {"priority": True}),
    ],
)
def test_a_wrong_option_is_refused_although_python_calls_it_equal_to_one_that_was_right(options, similar):
    made = encoder()
    made.one(ADD(1), options, NOOP_SPAN)
    with pytest.raises(MessageError):
        made.one(ADD(1), similar, NOOP_SPAN)


def test_numbers_of_different_types_are_not_taken_for_each_other():
    made = encoder()
    limits = [
        opened(made.one(ADD(), {"time_limit": limit}, NOOP_SPAN))[0]["headers"]["timelimit"][0] for limit in (10, 10.0)
    ]
    assert [type(limit) for limit in limits] == [int, float]


@pytest.mark.parametrize("options", [{"queue": []}, {"shadow": {}}, {"priority": [1]}, {"tasks": 1}])
def test_an_option_of_a_wrong_kind_or_name_is_refused(options):
    with pytest.raises(MessageError):
        encoder().one(ADD(1), options, NOOP_SPAN)


@pytest.mark.parametrize("task", [None, [], 5, ADD])
async def test_a_task_that_is_no_name_is_refused(task):
    made = encoder()
    with pytest.raises(MessageError, match="task must be text"):
        made.one(Signature(task), {}, NOOP_SPAN)
    with pytest.raises(MessageError, match="task must be text"):
        await made.many([Signature("right"), Signature(task)], {}, NOOP_SPAN)


def test_templates_are_bounded():
    made = encoder()
    for number in range(2 * MAX_TEMPLATES):
        made.one(Signature(f"task.{number}"), {}, NOOP_SPAN)
    assert made._template.cache_info().currsize == MAX_TEMPLATES


@virtual
@pytest.mark.parametrize(("size", "portions"), [(1, 4), (100_000, 20)])
async def test_the_event_loop_gets_its_turn_between_portions(size, portions):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    count_ = 1000
    messages = await encoder().many([ADD("x" * size)] * count_, {}, NOOP_SPAN)
    counting.cancel()
    assert len(messages) == count_
    assert turns >= portions - 1


async def test_many_small_messages_are_made_in_portions():
    made = Encoder(MemoryBroker(), "celery")
    portions = [len(portion) async for portion in made.portions([ADD(1)] * 5000, {}, NOOP_SPAN)]
    assert sum(portions) == 5000
    assert len(portions) > 5
