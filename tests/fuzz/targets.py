"""One function a decoder: bytes in, and nothing out but what the decoder promises. Also replayed by the unit tests."""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import json
import lzma
import re
import zlib
from typing import TYPE_CHECKING, Any

from support.messages import Outcomes, messages
from support.wire import FakeTransport, Push, encode

from fibo_client import contract
from fibo_client.celery.backends.redis import RedisSubscription
from fibo_client.celery.brokers.redis import RedisBroker
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.protocol import control, jsontypes
from fibo_client.celery.protocol.compression import decompress
from fibo_client.celery.protocol.meta import COMPRESSED, TaskMeta, decode_meta
from fibo_client.celery.redis import envelope
from fibo_client.celery.redis.connection import Connection
from fibo_client.celery.redis.keys import BrokerKeys
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.redis.server import RedisServer
from fibo_client.celery.redis.urls import parse_url
from fibo_client.celery.result import value_of
from fibo_client.errors import ConfigError, FiboError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMIT = 1 << 16
ID = "5f1c6ac2-31a5-4d0f-8b71-2f1d3f0a7c11"


def meta(data: bytes) -> None:
    """A stored result is a meta, whose value or error can be told, or a ResultDecodeError."""
    try:
        decoded = decode_meta(data, ID, max_bytes=LIMIT, max_decompressed=LIMIT)
    except ResultDecodeError:
        return
    assert isinstance(decoded, TaskMeta)
    assert decoded.task_id == ID
    tasks = (contract.FIBONACCI, contract.FIBONACCI_CHUNK, contract.FIBO_TASK, contract.SQRT_TASK)
    for decode in (None, *(task.decode for task in tasks)):
        with contextlib.suppress(FiboError):
            value_of(decoded, "t", decode)


def json_types(data: bytes) -> None:
    """JSON is a value, or a ResultDecodeError."""
    with contextlib.suppress(ResultDecodeError):
        jsontypes.CELERY_JSON.loads(data)
    with contextlib.suppress(ResultDecodeError):
        jsontypes.CELERY_JSON.loads(data.decode("utf-8", "surrogateescape"))


def compression(data: bytes) -> None:
    """What is decompressed is bounded. The first byte chooses the method."""
    names = ("application/x-gzip", "application/x-bz2", "application/x-lzma", "application/zstd")
    with contextlib.suppress(ResultDecodeError):
        assert len(decompress(data[1:], names[data[0] % len(names) if data else 0], LIMIT)) <= LIMIT


def reply(data: bytes) -> None:
    """An element of a list of replies is an answer by node name, or a ResultDecodeError; as is its body."""
    with contextlib.suppress(ResultDecodeError):
        ticket, body = envelope.decode_reply(data)
        assert isinstance(ticket, str)
        assert isinstance(control.decode_reply(body), dict)
    with contextlib.suppress(ResultDecodeError):
        assert isinstance(control.decode_reply(data), dict)


def answers(data: bytes) -> None:
    """An answer of one of Fibo's tasks is of the type that it should be, or a ValueError."""
    try:
        answer = jsontypes.CELERY_JSON.loads(data)
    except ResultDecodeError:
        return
    with contextlib.suppress(ValueError):
        number = contract.decode_number(answer)
        assert type(number) is int
        assert number >= 0
    with contextlib.suppress(ValueError):
        assert type(contract.decode_sqrt(answer)) is float
    with contextlib.suppress(ValueError):
        n, message = contract.decode_fibo_task(answer)
        assert (type(n), type(message)) == (int, str)
    with contextlib.suppress(ValueError):
        assert isinstance(contract.decode_chunk(answer), list)


def urls(data: bytes) -> None:
    """A URL is an address, or a ConfigError; the password shows in neither."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        address = parse_url(text, RedisOptions(master_name="m"), role="broker_url")
        if address.password and len(address.password) > 12:
            assert address.password not in f"{address!r}{address}"


_HUGE = re.compile(rb"[*~>|%][+ ]?0*[1-9]\d{8}")
"""hiredis makes room for what a list is said to have, before it has come. It cannot be told not to: up to here, that
room is reserved and not taken up."""


def connection(data: bytes) -> None:
    """Whatever Redis says, everybody who asked is told something: a reply, or an error of the client's own.

    The first byte chooses the version of the protocol, and in how large pieces the rest comes.
    """
    if data and not _HUGE.search(data):
        with asyncio.Runner() as runner:
            runner.run(_listen(data[1:], resp2=bool(data[0] & 1), size=1 + (data[0] >> 1)))


async def _listen(data: bytes, *, resp2: bool, size: int) -> None:
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    config = CeleryConfig()
    server = RedisServer(parse_url("redis://h/0", RedisOptions(), role="broker_url"), config)
    link, end = server.subscribed, Connection(server.subscribed, "redis://h/0", 5.0, LIMIT)
    end.is_resp2 = resp2
    transport = FakeTransport(end)
    link._connection = server.sending._connection = server.reading._connection = end
    subscriber = _Subscriber()
    subscription = end.subscriber = RedisSubscription(subscriber, end, "celery-task-meta-", server)
    keys = BrokerKeys.from_options(RedisOptions(), db=0, control_exchange="celery")
    broker, sender = RedisBroker(server, keys), Outcomes()
    assert broker.ready
    asked = [end.request([("PING",), ("MGET", "a")])]
    subscription.update(["a", "b"], ["c"], look=True)
    broker.publish(messages("a", "b"), sender)
    asked.append(end.request([("GET", "a")]))
    for start in range(0, len(data), size):
        transport.feed(data[start : start + size])
        await asyncio.sleep(0)
    for _ in range(len(data)):  # Reading may be paused for a turn.
        if transport.held and not transport.is_closing():
            await asyncio.sleep(0)
    transport.cut(ConnectionResetError())
    for _ in range(3):
        await asyncio.sleep(0)
    assert end.is_lost
    assert subscriber.lost_by is not None
    for each in asked:
        error = each.exception()
        assert isinstance(error, FiboError) or (error is None and isinstance(each.result(), list))
    ((sent, error),) = sender.told
    assert len(sent) == 2
    assert error is None or isinstance(error, FiboError)
    assert broken == []
    await server.aclose()


class _Subscriber:
    """Checks that what is pushed is an id and bytes."""

    def __init__(self) -> None:
        self.lost_by: FiboError | None = None

    def pushed(self, task_id: str, payload: bytes) -> None:
        assert (type(task_id), type(payload)) == (str, bytes)

    def subscribed(self, task_ids: Sequence[str], stored: Sequence[Any] | None) -> None:
        assert list(task_ids) == ["a", "b"]
        assert stored is None or isinstance(stored, list)

    def lost(self, error: FiboError) -> None:
        self.lost_by = error


TARGETS: dict[str, Callable[[bytes], None]] = {
    "meta": meta,
    "json": json_types,
    "compression": compression,
    "reply": reply,
    "answers": answers,
    "urls": urls,
    "connection": connection,
}


def _result(status: str, result: object, **more: object) -> bytes:
    stored = {"status": status, "result": result, "traceback": None, "children": [], "date_done": None, **more}
    return json.dumps({**stored, "task_id": ID}).encode()


def seeds(target: str) -> list[bytes]:
    """Messages as real workers write them, for the fuzzer to begin with."""
    raised = {"exc_type": "ValueError", "exc_message": ["bad", 1], "exc_module": "builtins"}
    wrapped = {"exc_type": "UnpickleableExceptionWrapper", "exc_message": ["m", "E", ["a"], "E"], "exc_module": "c"}
    success = _result("SUCCESS", [{"__type__": "datetime", "__value__": "2026-01-02T03:04:05.000678+00:00"}, 5, "1f"])
    pong = json.dumps({"celery@host": {"ok": "pong"}}).encode()
    packed = [zlib.compress(success), bz2.compress(success), lzma.compress(success)]
    types = {
        "date": "2026-01-02", "time": "03:04:05", "decimal": "1.50", "uuid": {"hex": "0" * 32}, "bytes": "abc",
        "base64": "/wA=", "datetime": "2026-01-02T03:04:05",
    }  # fmt: skip
    answer = {
        "body": base64.b64encode(pong).decode(),
        "headers": {"ticket": "8a9c"},
        "properties": {"body_encoding": "base64"},
    }
    said: dict[type, list[bytes]] = {}
    for shape in (Push, list):
        confirmed = [encode(shape(each)) for each in ([b"unsubscribe", b"c", 0], [b"subscribe", b"a", 1])]
        pushed = encode(shape([b"message", b"celery-task-meta-a", success]))
        values = encode([success, None])
        said[shape] = [encode("PONG"), values, *confirmed, confirmed[1], values, pushed, encode(2), encode(b"x")]
    refusals = [f"-{each}\r\n".encode() for each in ("NOPERM no", "OOM no", "LOADING no", "MOVED 1 h:1", "ERR no")]
    return {
        "meta": [
            success,
            _result("FAILURE", raised, traceback="Traceback"),
            _result("REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["expired"]}),
            _result("RETRY", wrapped, name="t", args=[1], kwargs={}, worker="w", retries=1, queue="q"),
            COMPRESSED + b"application/x-gzip\x00" + packed[0],
            b"\x80\x04N.",
        ],
        "json": [
            *(json.dumps([{"__type__": name, "__value__": value}]).encode() for name, value in types.items()),
            b'[1, -2.5e3, "\\ud800", null, true, NaN, -Infinity, {"a": {}}]',
        ],
        "compression": [bytes([number]) + data for number, data in enumerate(packed)],
        "reply": [json.dumps(answer).encode(), pong],
        "answers": [b'"1f"', b'["1f", {"error": ["ValueError", "no"]}]', b'[4, "was 3"]', b"1.5", b"1" + b"0" * 400],
        "connection": [
            b"\xfe" + b"".join(said[Push]), b"\x0f" + b"".join(said[list]), b"\x00" + b"".join(said[Push]),
            b"\x40+OK\r\n" + b"".join(refusals) * 2, b"\x40%1\r\n+a\r\n,1.5\r\n~1\r\n#t\r\n_\r\n(12\r\n=5\r\ntxt:a\r\n",
            b"\x40$-1\r\n*-1\r\n>0\r\n|1\r\n+a\r\n+b\r\n:1\r\n", b"\x40HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x40$70000\r\nxx",
        ],
        "urls": [
            b"redis://user:pass%40word@localhost:6379/3", b"rediss://h?ssl_cert_reqs=required",
            b"redis+socket:///run/redis.sock?virtual_host=2", b"sentinel://a:26379;sentinel://:p@[::1]:26380/1",
        ],
    }[target]  # fmt: skip
