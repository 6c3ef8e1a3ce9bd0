"""One function a decoder: bytes in, and nothing out but what the decoder promises. Also replayed by the unit tests."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import lzma
import zlib
from typing import TYPE_CHECKING

from fibo_client import contract
from fibo_client.celery.protocol import control, jsontypes
from fibo_client.celery.protocol.compression import decompress
from fibo_client.celery.protocol.meta import COMPRESSED, TaskMeta, decode_meta
from fibo_client.celery.redis import envelope
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.redis.urls import parse_url
from fibo_client.celery.result import value_of
from fibo_client.errors import ConfigError, FiboError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "meta": meta,
    "json": json_types,
    "compression": compression,
    "reply": reply,
    "answers": answers,
    "urls": urls,
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
        "urls": [
            b"redis://user:pass%40word@localhost:6379/3", b"rediss://h?ssl_cert_reqs=required",
            b"redis+socket:///run/redis.sock?virtual_host=2", b"sentinel://a:26379;sentinel://:p@[::1]:26380/1",
        ],
    }[target]  # fmt: skip
