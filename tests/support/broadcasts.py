"""Commands of remote control and events of workers, as anybody who reaches the broker can publish them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

LONE = "a\ud800b"
DEEP: Any = []
for _ in range(150):
    DEEP = [DEEP]

NO_NAMES = (5, None, "", LONE, ["x"], {"a": 1}, True, "x" * 5000)
"""What names nothing."""
NO_COUNTS = (0, -1, 10**6, 10**30, 1.5, "2", True, [1], float("nan"))
"""What is no number of processes that a pool can gain or lose."""
NO_FLAGS = ("yes", 1, [], {})
NO_IDS = (5, [5], [["x"]], [None], {"a": 1}, [LONE], LONE, [""], ["x" * 5000], True)
NO_SIGNALS = ("term", "NOPE", "SIGSTOP", "TSTP", 99, -1, 1.5, [], {"a": 1}, LONE)
NO_SECONDS = ("5", -1, float("nan"), float("inf"), 10**400, [1], True)
NO_RATES = ("fast", "5/x", "-5/s", "nan/s", "inf", "1e-300/s", [1], {"a": 1}, -5, float("nan"), LONE)
NO_STAMPS = (5, None, "a", ["a"], [5], {"a": [[1]]}, {"a": {"b": 1}}, {"": "x"}, {LONE: "x"}, {"a": LONE})
ABOUT_A_NODE = {"hostname": "other@host", "utcoffset": 0, "pid": 1, "clock": 1, "freq": 2.0, "timestamp": 1e9}
ABOUT_A_NODE |= {"active": 0, "processed": 0, "id": "x", "topic": "task", "cver": 1}
NO_TASK = "no.such.task"


def garbage(task: str) -> Iterator[tuple[Any, Any]]:
    """Give methods and arguments that no worker can use. `task` is the name of one that it has."""
    for method in (*NO_NAMES, "no_such_command", "__init__", "handle_message", "Panel"):
        yield method, {}
    for arguments in (5, "x", [1], True, {"": 1}, {"state": 1}, {"self": 1, "x" * 5000: 2}):
        yield "revoke", arguments
    one_by_one = {
        "add_consumer": {
            "queue": (*NO_NAMES, "a\nb", "a\x06\x163", "unacked", "_kombu.binding.celery", "celery.dead"),
            "exchange": (5, LONE, [1]),
            "exchange_type": ("fanout", "nope", 5, [1]),
            "routing_key": (5, LONE, {}),
            "durable": NO_FLAGS,
            "expires": (*NO_SECONDS, 0),
            "no_ack": (True,),
            "bindings": ([1],),
            "queue_arguments": (5, [1]),
            "nonsense": (1,),
        },
        "cancel_consumer": {"queue": NO_NAMES},
        "pool_shrink": {"n": NO_COUNTS},
        "pool_grow": {"n": NO_COUNTS},
        "autoscale": {"max": NO_COUNTS, "min": ("x", -1)},
        "revoke": {"task_id": NO_IDS, "terminate": NO_FLAGS, "signal": NO_SIGNALS},
        "terminate": {"signal": NO_SIGNALS, "task_id": NO_IDS},
        "query_task": {"ids": NO_IDS},
        "revoke_by_stamped_headers": {"headers": NO_STAMPS, "terminate": NO_FLAGS, "signal": NO_SIGNALS},
        "rate_limit": {"task_name": (*NO_NAMES, NO_TASK), "rate_limit": NO_RATES},
        "time_limit": {"task_name": (*NO_NAMES, NO_TASK), "hard": NO_SECONDS, "soft": NO_SECONDS},
        "election": {"id": NO_NAMES, "topic": NO_NAMES, "action": (5, [1])},
        "registered": {"taskinfoitems": (5, [5], ["__init__"], "x"), "builtins": NO_FLAGS},
        "hello": {"from_node": NO_NAMES, "revoked": (5, [5], {"a": "x"}, {"a": float("nan")}, {LONE: 1.0})},
        "pool_restart": {"modules": (5, [5], ["os"]), "reloader": ("x",), "reload": NO_FLAGS},
        "conf": {"with_defaults": NO_FLAGS},
        "active": {"safe": NO_FLAGS},
        "memdump": {"samples": NO_COUNTS},
        "objgraph": {"num": ("x", -1, 10**9), "type": NO_NAMES, "max_depth": ("x", 10**9)},
        "ping": {"any": (float("nan"), LONE, [LONE], {LONE: 1})},
        "enable_events": {"any": (1,)},
        "report": {"any": (1,)},
    }
    rest = {
        "add_consumer": {"queue": "more"},
        "revoke": {"task_id": "x"},
        "terminate": {"signal": "TERM", "task_id": "x"},
        "revoke_by_stamped_headers": {"headers": {"a": "b"}},
        "rate_limit": {"task_name": task, "rate_limit": "5/s"},
        "time_limit": {"task_name": task, "hard": 5, "soft": 4},
        "election": {"id": "x", "topic": "task"},
        "hello": {"from_node": "x"},
    }
    may_be_null = {("revoke", "task_id"), ("terminate", "task_id")}
    for method, arguments in one_by_one.items():
        for name, values in arguments.items():
            for value in values:
                if value is not None or (method, name) not in may_be_null:
                    yield method, {**rest.get(method, {}), name: value}
        if method in rest and method != "time_limit":
            yield method, {}


def useful(task: str) -> dict[str, list[dict[str, Any]]]:
    """Give the arguments with which clients send each command, where they change nothing for good."""
    return {
        "active": [{}, {"safe": True}, {"safe": None}],
        "active_queues": [{}],
        "add_consumer": [
            {"queue": "more", "exchange": None, "exchange_type": "direct", "routing_key": None},
            {
                "queue": "more.of-it",
                "exchange": "more",
                "exchange_type": "topic",
                "routing_key": "a.#",
                "durable": True,
            },
        ],
        "cancel_consumer": [{"queue": "more"}, {"queue": "never heard of"}],
        "clock": [{}],
        "conf": [{"with_defaults": False}],
        "disable_events": [{}],
        "enable_events": [{}],
        "dump_active": [{}],
        "heartbeat": [{}],
        "hello": [
            {"from_node": "other@host", "revoked": []},
            {"from_node": "other@host", "revoked": None},
            {"from_node": "other@host", "revoked": {"an-id": 12.5, "another": [12.5, "another"]}},
        ],
        "memsample": [{}],
        "ping": [{}, {"some": ["text", 1, None]}],
        "pool_grow": [{"n": 1}, {}],
        "pool_shrink": [{"n": 1}, {}],
        "query_task": [{"ids": ["an-id"]}, {"ids": "an-id"}],
        "rate_limit": [{"task_name": task, "rate_limit": each} for each in ("100/s", "5/m", 0, "", None, 1000, "0")],
        "registered": [{"taskinfoitems": ["rate_limit"]}, {"taskinfoitems": [], "builtins": True}, {}],
        "report": [{}],
        "reserved": [{}],
        "revoke": [
            {"task_id": "some-id", "terminate": False, "signal": "SIGTERM"},
            {"task_id": ["some-id", "other-id"], "terminate": True, "signal": "KILL"},
            {"task_id": [], "terminate": None, "signal": None},
            {"task_id": "some-id", "terminate": True, "signal": 9},
        ],
        "revoke_by_stamped_headers": [
            {"headers": {"stamp": ["a", "b"]}, "terminate": True, "signal": "SIGTERM"},
            {"headers": {"stamp": "c"}},
            {"headers": ["stamp=d"]},
        ],
        "revoked": [{}],
        "scheduled": [{}],
        "stats": [{}],
        "terminate": [{"signal": "KILL", "task_id": "some-id"}],
        "time_limit": [{"task_name": task, "hard": 60, "soft": 50.5}, {"task_name": task, "hard": None, "soft": None}],
    }


def command(method: Any, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    """Make the body of a command."""
    return {"method": method, "arguments": arguments, "destination": None, **fields}


def envelope(body: Any, *, headers: Any = None, info: Any = None, **fields: Any) -> dict[str, Any]:
    """Put a body into a message as kombu does."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers or {"clock": 1},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "a-tag",
            "delivery_info": info or {"exchange": "celery.pidbox", "routing_key": ""},
            "delivery_mode": 2,
            "priority": 0,
        },
        **fields,
    }


def unreadable() -> Iterator[Any]:
    """Give messages of which nobody can tell what command they are."""
    good = envelope(command("pool_shrink", {"n": 1}))
    yield from (b"", b"x", b"\xff\xfe", b"null", b"5", b"[]", b'"text"', b"{", b"[" * 100_000)
    yield b'{"body": 1' + b"0" * 5000
    for field in good:
        for value in (None, 5, "x", [], {}):
            # Nobody needs headers, nor JSON its encoding.
            if (field, value) != ("headers", {}) and (field != "content-encoding" or isinstance(value, int | list)):
                yield {**good, field: value}
    for headers in ({"clock": "x"}, {"clock": 10**400}, {"clock": -1}, {"clock": [1]}, {"compression": "zlib"}):
        yield envelope(command("pool_shrink", {"n": 1}), headers=headers)
    bomb = base64.b64encode(zlib.compress(bytes(10**8))).decode()
    yield {**good, "headers": {"compression": "application/x-gzip"}, "body": bomb}
    for body in (None, 5, "x", [], {}, [command("ping")], DEEP):
        yield envelope(body)
    for fields in (
        *({"destination": each} for each in (5, "x", {"a": 1}, [5], [[1]], [LONE])),
        *({"pattern": each, "matcher": "glob"} for each in (5, [1], LONE, "*" * 5000)),
        *({"pattern": "*", "matcher": each} for each in (5, [1], "no such", LONE)),
        *({"pattern": each, "matcher": "pcre"} for each in ("(", r"(.*)*(.*)*(.*)*(.*)*(.*)*$x", ".*.*.*.*.*.*.*.*x")),
        *({"reply_to": each, "ticket": "t"} for each in (5, "x", [1], {"exchange": 5}, {"exchange": ""})),
        {"reply_to": {"exchange": "celery", "routing_key": "celery"}, "ticket": "t"},
        {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": LONE}, "ticket": "t"},
        {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "x"}, "ticket": {"a": LONE}},
    ):
        yield envelope(command("pool_shrink", {"n": 1}, **fields))


def events() -> Iterator[dict[str, Any]]:
    """Give events with which a worker cannot follow others."""
    for change in (
        *({"clock": each} for each in ("x", 10**400, float("inf"), [1])),
        *({"timestamp": each} for each in ("x", float("inf"), None, {})),
        *({"freq": each} for each in ("x", float("nan"), None, [1])),
        *({"hostname": each} for each in (5, [1], {}, LONE)),
        *({"type": each} for each in (5, [1], None)),
        *({"utcoffset": each} for each in ("x", 10**400)),
    ):
        for name in ("heartbeat", "online", "offline", "elect", "elect-ack", "made-up"):
            body = {
                **ABOUT_A_NODE,
                "type": f"worker-{name}",
                **change,
            }
            info = {"exchange": "celeryev", "routing_key": f"worker.{name.replace('-', '.')}"}
            yield envelope(body, headers={"hostname": body["hostname"]}, info=info)


def publish(client: Redis, message: Any, *, exchange: str = "celery.pidbox") -> int:
    """Publish to the workers of the client's database; bytes as they are, anything else as JSON. Give their number.

    A worker that says that it is ready listens a moment later.
    """
    database = client.connection_pool.connection_kwargs["db"]
    data = message if isinstance(message, bytes) else json.dumps(message)
    return until(lambda: client.publish(f"/{database}.{exchange}", data))
