"""Messages that cannot be run, and odd ones that can: each has its name as its task's id, where it has one."""

from __future__ import annotations

import base64
import bz2
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_BODY_BYTES = 1024 * 1024
"""The limit of the workers that get these."""


def envelope(
    task_id: Any,
    *,
    body: str | None = None,
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    **fields: Any,
) -> bytes:
    """Encode a valid message that asks for 55, with what is said changed and what is named in `drop` left out."""
    message = {
        "body": packed([[10], {}, {}]) if body is None else body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "fibo.fibonacci", "id": task_id, **(headers or {})},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": f"tag of {task_id}",
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            **(properties or {}),
        },
        **fields,
    }
    for path in drop:
        *outer, name = path.split("/")
        place = message
        for each in outer:
            place = place[each]
        del place[name]
    return json.dumps(message).encode()


def packed(value: Any, compress: Callable[[bytes], bytes] | None = None) -> str:
    """Write a body: JSON, or bytes as they are; compressed if that is wanted; as base64."""
    plain = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.b64encode(compress(plain) if compress else plain).decode()


def _bomb(compress: Callable[[bytes], bytes]) -> str:
    return packed(b"[[" + b" " * 20 * MAX_BODY_BYTES + b"1],{},{}]", compress)


def _messages(changes: Mapping[str, Mapping[str, Any] | bytes]) -> dict[str, bytes]:
    return {name: each if isinstance(each, bytes) else envelope(name, **each) for name, each in changes.items()}


DEEP = "[" * 5000 + "]" * 5000
_BELOW_THE_PARSERS_LIMIT = "[" * 700 + "]" * 700

INVALID_WITH_ID = _messages(
    {
        "no content-type": {"drop": ["content-type"]},
        "a body of two": {"body": packed([[1], {}])},
        "no body": {"drop": ["body"]},
        "an empty body": {"body": ""},
        "a task that cannot be hashed": {"headers": {"task": ["x"]}},
        "base64 that cannot be decoded": {"body": "@@@"},
        "no properties": {"drop": ["properties"]},
        "a body that is not JSON": {"body": packed(b"{nope")},
        "base64 without saying so": {"drop": ["properties/body_encoding"]},
        "an unknown body_encoding": {"properties": {"body_encoding": "rot13"}},
        "an unknown compression": {"headers": {"compression": "application/x-nope"}},
        "a compression that cannot be hashed": {"headers": {"compression": ["gzip"]}},
        "broken compressed bytes": {"headers": {"compression": "application/x-gzip"}},
        "an integer of 5,000 digits": {"body": packed(b"[[" + b"9" * 5000 + b"],{},{}]")},
        "pickle": {"content-type": "application/x-python-serialize"},
        "an unknown content-type": {"content-type": "application/nope"},
        "a bad eta": {"headers": {"eta": "soon"}},
        "a bad expires": {"headers": {"expires": "late"}},
        "an integer as eta": {"headers": {"eta": 5}},
        "null as kwargs": {"body": packed([[1], None, {}])},
        "null as args": {"body": packed([None, {}, {}])},
        "a text as args": {"body": packed(["ab", {}, {}])},
        "a body nested deeply": {"body": packed(f"[[{DEEP}],{{}},{{}}]".encode())},
        "a body nested just below the parser's limit": {
            "body": packed(f"[[{_BELOW_THE_PARSERS_LIMIT}],{{}},{{}}]".encode())
        },
        "a zlib bomb": {"body": _bomb(zlib.compress), "headers": {"compression": "application/x-gzip"}},
        "a bz2 bomb": {"body": _bomb(bz2.compress), "headers": {"compression": "bzip2"}},
        "time limits of a wrong shape": {"headers": {"timelimit": "ab"}},
        "a shadow that cannot be hashed": {"headers": {"shadow": [1]}},
    }
)
"""Messages that cannot be run, by name, whose caller can be told."""

INVALID_WITHOUT_ID = _messages(
    {
        "no id": {"drop": ["headers/id"]},
        "an integer as id": {"headers": {"id": 5}},
        "an id that is half a character": {"headers": {"id": "\ud800"}},
        "not JSON": b"nope",
        "a JSON list": b"[1, 2]",
        "not UTF-8": b"\xff\xfe\x00",
        "nothing at all": b"",
        "null": b"null",
        "no headers": {"drop": ["headers"]},
        "null as headers": json.dumps({**json.loads(envelope("null as headers")), "headers": None}).encode(),
        "protocol 1": {
            "body": packed({"task": "fibo.fibonacci", "id": "protocol 1", "args": [10]}),
            "drop": ["headers/task", "headers/id"],
        },
        "an envelope nested deeply": DEEP.encode(),
        "headers nested deeply": {"headers": {"x": json.loads(_BELOW_THE_PARSERS_LIMIT)}},
        "a type that is none": {"x": {"__type__": "nope", "__value__": 1}},
        "a type that cannot be hashed": {"x": {"__type__": [], "__value__": 1}},
        "an element larger than any body": b'"' + b"x" * 3 * MAX_BODY_BYTES + b'"',
    }
)
"""Messages that cannot be run, by name, from which no id can be read: nobody can be told."""

VALID = _messages(
    {
        "no delivery_tag": {"drop": ["properties/delivery_tag"]},
        "no delivery_info": {"drop": ["properties/delivery_info"]},
        "an exchange that does not exist": {"properties": {"delivery_info": {"exchange": "x", "routing_key": "y"}}},
        "the barest message": {"drop": ["content-encoding"]},
        "a body that is plain JSON": {"body": "[[10],{},{}]", "properties": {"body_encoding": "utf-8"}},
        "compressed": {
            "body": packed([[10], {}, None], zlib.compress),
            "headers": {"compression": "application/x-gzip"},
        },
        "odd retries and limits": {"headers": {"retries": "x", "timelimit": []}},
        "a tag, once": {"properties": {"delivery_tag": "the same"}},
        "a tag, twice": {"properties": {"delivery_tag": "the same"}},
    }
)
"""What is odd, by name, and can be run."""
