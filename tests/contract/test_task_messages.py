"""The message of a call is, field by field, the one that Celery's own client sends to the same Redis."""

import asyncio
import base64
import collections
import json
import types
import uuid
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import celery
import pytest
from celery.app.task import Context
from celery.worker import state as worker_state
from celery.worker import strategy
from celery.worker.request import Request
from kombu import Connection
from kombu.serialization import loads as kombu_loads
from kombu.transport.redis import Channel

from fibo_client.celery import RemoteTask
from fibo_client.celery.protocol.headers import RESERVED_HEADERS
from fibo_client.telemetry.tracer import NESTED

TASK = "stock.echo"
LATER = datetime(2050, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
TOLERANCE = timedelta(seconds=5)
TYPES = [
    None,
    True,
    0,
    -1,
    2**53 + 1,
    1.5,
    1e300,
    "",
    "text",
    [],
    {},
    [[1], {"a": [2]}],
    (1, (2, 3)),
    {"nested": {"deeper": [None]}},
    datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2026, 1, 2),
    date(2026, 1, 2),
    time(3, 4, 5),
    Decimal("1.50"),
    uuid.UUID(int=5),
    b"abc",
    b"\xff\x00",
    b"",
]
CALLS = {
    "nothing": {},
    "args": {"args": (2, 3)},
    "args in a list": {"args": [2, 3]},
    "kwargs": {"kwargs": {"x": 1, "y": "z"}},
    "args and kwargs": {"args": (1,), "kwargs": {"x": [1, {"y": 2}]}},
    "every type in args": {"args": TYPES},
    "every type in kwargs": {"kwargs": {f"k{index}": value for index, value in enumerate(TYPES)}},
    "unicode": {"args": ["ünï¢ødé", "任务", "\U0001f600", "\u0000\u2028", "\ud800"], "kwargs": {"käse": "ß"}},
    "long text": {"args": ["x" * 100_000]},
    "many args": {"args": list(range(1000))},
    "queue": {"queue": "other.queue-1"},
    "unicode queue": {"queue": "schlange.ü"},
    **{f"priority {priority}": {"priority": priority} for priority in range(10)},
    "priority in a queue": {"queue": "other", "priority": 9},
    "countdown": {"countdown": 60},
    "countdown of a moment": {"countdown": 0.25},
    "countdown in the past": {"countdown": -0.25},
    "countdown long past": {"countdown": -(2**31)},
    "no countdown": {"countdown": 0},
    "eta": {"eta": LATER},
    "eta in another zone": {"eta": LATER.astimezone(timezone(timedelta(hours=-5)))},
    "expires in seconds": {"expires": 120},
    "expires in part of a second": {"expires": 90.5},
    "expires as a date": {"expires": LATER},
    "countdown and expires": {"countdown": 10, "expires": 20},
    "time limit": {"time_limit": 10},
    "soft time limit": {"soft_time_limit": 2.5},
    "both time limits": {"time_limit": 10, "soft_time_limit": 5},
    **{f"ignore_result {each}": {"ignore_result": each} for each in (True, False, None)},
    "headers": {"headers": {"traceparent": "00-abc-def-01", "n": 1, "deep": {"a": [None]}}},
    "types in headers": {"headers": {"when": LATER, "raw": b"\xff", "money": Decimal("1.5"), "id_": uuid.UUID(int=1)}},
    "underscored headers": {"headers": {"_schema_name": "tenant", "_all": True}},
    "headers in headers": {"headers": {"n": 1, "headers": {"sentry-trace": "a-b-1", "when": LATER}}},
    "shadow": {"shadow": "another name"},
    "root": {"root_id": "root-1"},
    "parent": {"root_id": "root-1", "parent_id": "parent-1"},
    "stamps": {"stamps": {"on": "x", "by": {"a": [1]}}},
    "types in stamps": {"stamps": {"when": LATER}},
    "gzip": {"args": ["x" * 1000], "compression": "gzip"},
    "zlib": {"args": ["x" * 1000], "compression": "zlib"},
    "everything": {
        "args": TYPES,
        "kwargs": {"k": 1},
        "queue": "other",
        "priority": 4,
        "countdown": 5,
        "expires": 50,
        "time_limit": 9,
        "soft_time_limit": 8,
        "ignore_result": True,
        "headers": {"h": 1},
        "shadow": "s",
        "root_id": "r",
        "parent_id": "p",
        "stamps": {"st": 1},
        "compression": "gzip",
    },
}


IGNORING = [name for name in CALLS if name.startswith("ignore_result")]


def pop(side):
    """Take the one message that is on the server, and say from which list."""
    with side.redis() as redis:
        lists = [key for key in redis.scan_iter() if redis.type(key) == b"list"]
        assert len(lists) == 1, lists
        element = redis.rpop(lists[0])
        assert redis.exists(lists[0]) == 0, "there was more than one message"
    return lists[0].decode(), json.loads(element)


def send_with_celery(side, task_id, *, stamps=None, **call):
    if stamps is not None:
        call |= {"stamped_headers": list(stamps), **stamps}
    with side.celery() as app:
        app.send_task(TASK, task_id=task_id, **call)


async def send_with_ours(side, task_id, **call):
    async with side.client() as client:
        await client.send_task(TASK, task_id=task_id, **call)


async def both(side, **call):
    """The list and the message of the same call, from Celery's client and from ours."""
    task_id = str(uuid.uuid4())
    send_with_celery(side, task_id, **call)
    theirs = pop(side)
    await send_with_ours(side, task_id, **call)
    return theirs, pop(side)


def take(fields, *names):
    return {name: fields.pop(name, None) for name in names}


def same_moment(theirs, ours, *, exactly):
    if theirs is None or ours is None:
        return theirs is ours
    apart = abs(datetime.fromisoformat(theirs) - datetime.fromisoformat(ours))
    return apart == timedelta(0) if exactly else apart < TOLERANCE


def text_of(envelope):
    """The body as JSON text, without base64 and compression."""
    assert envelope["properties"]["body_encoding"] == "base64"
    body = base64.b64decode(envelope["body"], validate=True)
    return zlib.decompress(body) if "compression" in envelope["headers"] else body


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_message_is_the_one_that_celery_sends(unserved, call):
    (their_list, theirs), (our_list, ours) = await both(unserved, **call)
    assert our_list == their_list

    assert text_of(ours) == text_of(theirs)
    assert ours.pop("body")[:4] == theirs.pop("body")[:4]  # The same kind of zlib stream too, if it is one.

    # Clocks: the two calls are made one after the other, so what counts from now differs by a moment. A date of the
    # caller's is the same moment, but not the same text: Celery keeps its zone and leaves out zero microseconds.
    for name, relative in (("eta", "countdown"), ("expires", "expires")):
        times = [envelope["headers"].pop(name) for envelope in (theirs, ours)]
        assert same_moment(*times, exactly=isinstance(call.get(relative), (datetime, types.NoneType))), times
    expirations = [envelope["properties"].pop("expiration", None) for envelope in (theirs, ours)]
    assert expirations[0] == expirations[1] or abs(int(expirations[0]) - int(expirations[1])) < 5000

    # The tag is unique to a message; reply_to is for a result backend over AMQP, which is Celery's id of a thread.
    unique = [take(envelope["properties"], "delivery_tag", "reply_to") for envelope in (theirs, ours)]
    assert unique[0]["delivery_tag"] != unique[1]["delivery_tag"]
    assert all(uuid.UUID(each["delivery_tag"]).version == 4 for each in unique)
    assert isinstance(unique[1]["reply_to"], str)

    # For logs alone: Celery cuts what is long, or nested deeply, at other places, and shows a list as a list.
    for name in ("argsrepr", "kwargsrepr"):
        shown = [envelope["headers"].pop(name) for envelope in (theirs, ours)]
        assert all(isinstance(each, str) and len(each) < 1100 for each in shown)

    # All the rest, origin and ids included.
    assert ours == theirs


@pytest.mark.parametrize(
    "call",
    [
        *(CALLS[name] for name in ("nothing", "args", "kwargs", "args and kwargs", "queue")),
        {"args": (1,), "kwargs": {"x": 1}, "argsrepr": "(***)", "kwargsrepr": "***"},
    ],
)
async def test_what_the_worker_logs_of_short_arguments_is_what_celery_would_have_it_log(unserved, call):
    (_, theirs), (_, ours) = await both(unserved, **call)
    for header in ("argsrepr", "kwargsrepr"):
        assert ours["headers"][header] == theirs["headers"][header] == call.get(header, ours["headers"][header])


async def test_celerys_message_is_not_the_same_for_another_call(unserved):
    """The comparison above can tell messages apart."""
    (_, theirs), (_, ours) = await both(unserved, args=(1,))
    _, (_, other) = await both(unserved, args=(2,))
    assert text_of(ours) == text_of(theirs) != text_of(other)
    assert ours["headers"]["id"] == theirs["headers"]["id"] != other["headers"]["id"]


async def test_messages_of_a_batch_are_popped_in_the_order_in_which_they_were_sent(unserved):
    async with unserved.client() as client:
        results = await client.send_many([RemoteTask(TASK)(number) for number in range(600)], queue="q")
    with unserved.redis() as redis:
        elements = [json.loads(redis.rpop(f"{unserved.broker_prefix}q")) for _ in results]
    assert [json.loads(text_of(each))[0] for each in elements] == [[number] for number in range(600)]
    assert [each["headers"]["id"] for each in elements] == [result.id for result in results]
    assert len({each["properties"]["delivery_tag"] for each in elements}) == 600


# What the receiving side makes of it

RECEIVED = [  # names of calls
    "nothing",
    "every type in args",
    "every type in kwargs",
    "unicode",
    "gzip",
    "types in headers",
    "everything",
]


async def received(side, call):
    """The message as kombu's consumer gives it to a worker."""
    task_id = str(uuid.uuid4())
    await send_with_ours(side, task_id, **{"queue": "q", **call, "priority": 0})
    options = side.conf.get("broker_transport_options")
    with (
        Connection(side.url, transport_options=options) as connection,
        connection.SimpleQueue(call.get("queue", "q"), serializer="json") as queue,
    ):
        message = queue.get(timeout=5)
        message.ack()
    with side.redis() as redis:
        assert not redis.exists(f"{side.broker_prefix}unacked"), "kombu did not find the message it acknowledged"
    return task_id, message


def plain_json(value):
    """Lists in place of tuples: JSON has no other."""
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return {key: plain_json(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", RECEIVED)
async def test_kombu_reads_our_message_as_it_was_meant(unserved, name):
    call = CALLS[name]
    task_id, message = await received(unserved, call)
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert message.payload == [plain_json(call.get("args", [])), plain_json(call.get("kwargs", {})), embed]
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.headers.items() >= call.get("headers", {}).items()
    assert message.headers["stamps"] == call.get("stamps", {})
    assert message.headers["id"] == message.properties["correlation_id"] == task_id
    assert message.delivery_info == {"exchange": "", "routing_key": call.get("queue", "q")}
    assert message.delivery_tag == message.properties["delivery_tag"]


def echo(*args, **kwargs):
    return [args, kwargs]


class Consumer:
    """What Celery's strategy needs of the worker around it."""

    hostname = "w@host"
    connection_errors = ()
    event_dispatcher = None
    disable_rate_limits = True
    pool = types.SimpleNamespace(apply_async=None)
    qos = types.SimpleNamespace(increment_eventually=lambda: None)
    controller = types.SimpleNamespace(state=worker_state)

    def __init__(self):
        self.taken = []
        self.task_buckets = collections.defaultdict(lambda: None)
        self.timer = types.SimpleNamespace(call_at=lambda eta, call, args, priority: self.taken.append((args[0], eta)))

    def on_task_request(self, request):
        self.taken.append((request, None))

    def apply_eta_task(self, request):
        raise AssertionError(request)

    _limit_task = _limit_post_eta = apply_eta_task


@pytest.mark.parametrize(
    "name",
    [*RECEIVED, "countdown", "eta", "both time limits", "parent", "shadow", *IGNORING],
)
async def test_celerys_worker_takes_our_message_for_the_call_that_it_is(unserved, name):
    call = CALLS[name]
    task_id, message = await received(unserved, call)
    consumer = Consumer()
    with unserved.celery() as app:
        task = app.task(name=TASK, shared=False)(echo)
        app.finalize()
        strategy.default(task, app, consumer)(message, None, lambda *_: None, lambda *_: None, [])
        ((request, eta),) = consumer.taken
        worker_state.reserved_requests.discard(request)
        worker_state.scheduled_requests.discard(request)
        worker_state.requests.pop(task_id)
        assert request.id == task_id
        assert request.type == TASK
        assert request.name == call.get("shadow", TASK)
        assert (request.root_id, request.parent_id) == (call.get("root_id", task_id), call.get("parent_id"))
        assert request.time_limits == [call.get("time_limit"), call.get("soft_time_limit")]
        assert request.ignore_result is bool(call.get("ignore_result"))
        assert (eta is not None) == bool(call.get("countdown") or call.get("eta"))
        if "eta" in call:
            assert request.eta == call["eta"]
        assert (request.expires is None) == ("expires" not in call)
        args, kwargs, _ = kombu_loads(request.body, request.content_type, request.content_encoding)
        assert (args, kwargs) == (plain_json(list(call.get("args", []))), plain_json(call.get("kwargs", {})))
        context = Context({**request.request_dict, "args": args, "kwargs": kwargs})
        assert (context.headers or {}).items() >= call.get("headers", {}).items()


class Noting(dict):
    """Headers that note which of them are asked for."""

    def __init__(self, headers, noted):
        super().__init__(headers)
        self.noted = noted

    def get(self, name, default=None):
        self.noted.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.noted.add(name)
        return super().__getitem__(name)

    def copy(self):
        return Noting(self, self.noted)


def test_the_headers_that_are_refused_are_those_that_a_worker_needs_or_its_request_has_and_no_others():
    """Celery sets headers as attributes of the request: one called `get` takes the place of its method."""
    of_the_context = {name for name in dir(Context) if not name.startswith("__")}
    with celery.Celery("contract", broker="memory://", set_as_current=False) as app:
        of_the_client = app.amqp.as_task_v2("id", TASK).headers
        asked_for = set()
        payload = {"body": "[[], {}, {}]", "content-type": "application/json", "content-encoding": "utf-8",
                   "properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": of_the_client}  # fmt: skip
        message = app.connection().default_channel.message_to_python(payload)
        message.accept = {"application/json"}
        headers = Noting(of_the_client, asked_for)
        request = Request(
            message, app=app, task=app.task(name=TASK, shared=False)(echo), headers=headers, body=message.body
        )
        for name in dir(Request):  # Most are properties, which look into the headers.
            getattr(request, name)
    kombus = {"redelivered": None}  # It is kombu's to say.
    Channel._do_restore_message(types.SimpleNamespace(_lookup=lambda *_: []), restored := {"headers": {}}, "", "", None)
    assert restored["headers"].keys() == kombus.keys()
    compression = {"compression"}  # Of it `test_a_message_is_the_one_that_celery_sends`.
    needed = of_the_context | of_the_client.keys() | asked_for | kombus.keys() | compression
    assert needed - {NESTED} == RESERVED_HEADERS


async def test_every_header_that_celery_sends_is_refused_as_a_header_of_the_users(unserved):
    (_, theirs), (_, ours) = await both(unserved, **CALLS["everything"])
    assert set(theirs["headers"]) == set(ours["headers"])
    assert set(theirs["headers"]) - {"h"} <= RESERVED_HEADERS


FOUND = ("headers", "_schema_name", "n", "traceparent")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"traceparent": "00-1", "n": 1}, {"traceparent": "00-1", "n": 1}),
        ({"_schema_name": "tenant"}, {"_schema_name": "tenant"}),
        ({"headers": {"sentry-trace": "a-b-1", "_x": 1}}, {"sentry-trace": "a-b-1", "_x": 1}),
        ({"headers": {"n": 2}, "n": 1, "_schema_name": "tenant"}, {"n": 2}),
        ({"headers": {}, "n": 1}, {}),
    ],
)
async def test_a_task_finds_the_headers_that_it_finds_when_celerys_own_client_sends_it(side, headers, found):
    def theirs():
        with side.celery() as app:
            return app.send_task("stock.request", FOUND, headers=headers).get(timeout=20)

    async with side.client() as client:
        ours = await client.call("stock.request", FOUND, headers=headers)
    assert ours == await asyncio.to_thread(theirs)
    assert ours == {**dict.fromkeys(FOUND), **headers, "headers": found}
