"""Celery's JSON: plain JSON, and dates, decimals, UUIDs and bytes in two-key envelopes.

Source: ``kombu.utils.json``. Kombu writes some values that its own reader cannot give back as they were (a
number that is no JSON number, a key that is no text, a literal dict that looks like an envelope). Those are
refused here, each with a word on what to send instead.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fibo_client.errors import MessageError, ResultDecodeError, ResultTooDeepError
from fibo_client.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 100
"""How deeply lists and dicts may be nested in what is sent. A structure that contains itself ends here too."""

MAX_READ_DEPTH = 500
"""How deeply lists and dicts may be nested in what is read, unless the client is told otherwise."""

MAX_INT_DIGITS = 4300
"""Longer integers cannot be read by a stock worker: CPython refuses to parse them from text."""

_encode = json.JSONEncoder(allow_nan=False).encode
_LARGE = 2**63
_TOO_LONG = 10**MAX_INT_DIGITS
_ENVELOPE = {"__type__", "__value__"}


def dumps(value: Any, where: str = "the value") -> str:
    """Encode a value as Celery's JSON.

    Args:
        value: JSON values, and datetime, date, time, Decimal, UUID and bytes, in lists, tuples and dicts.
        where: How the error names the value, such as ``args``.

    Returns:
        ASCII text.

    Raises:
        MessageError: The value, or a part of it, could not be read by a worker as it was meant.
    """
    if type(value) in _LISTS:
        try:  # A list of plain things is what most tasks take. It needs none of the detours.
            return f"[{', '.join([_ATOMS[type(item)](item) for item in value])}]"
        except LookupError:
            pass  # There is something else in it, or something wrong.
    return _encode(plain(value, where))


def plain(value: Any, where: str = "the value") -> Any:
    """Turn a value into what plain JSON has: dates, decimals, UUIDs and bytes into their envelopes.

    Args:
        value: As for `dumps`.
        where: As for `dumps`.

    Returns:
        None, booleans, numbers, text, lists and dicts.

    Raises:
        MessageError: As for `dumps`.
    """
    return _plain(value, where, MAX_DEPTH)


def loads(text: str | bytes, max_depth: int = MAX_READ_DEPTH) -> Any:
    """Decode Celery's JSON.

    Args:
        text: JSON as text, or as UTF-8 bytes.
        max_depth: How deeply lists and dicts may be nested.

    Returns:
        JSON values, with envelopes turned into the types that they hold.

    Raises:
        ResultTooDeepError: It is nested too deeply.
        ResultDecodeError: It is not JSON, an envelope is not of a known type, or an integer in it has more than
            4,300 digits.
    """
    try:
        value = json.loads(text, object_hook=_from_envelope)
    except ResultDecodeError:
        raise  # An envelope's. It is a ValueError too.
    except RecursionError:
        raise ResultTooDeepError(_too_deep(max_depth)) from None
    except MemoryError:
        raise ResultDecodeError("there is not enough memory to decode it") from None
    except (ValueError, TypeError, ArithmeticError) as error:
        # ArithmeticError is decimal's; UnicodeDecodeError and JSONDecodeError are ValueErrors.
        raise ResultDecodeError(f"its JSON is not valid: {error}") from error
    if _is_deep(value, text, max_depth):
        raise ResultTooDeepError(_too_deep(max_depth))
    return value


def _too_deep(max_depth: int) -> str:
    return f"its JSON is nested too deeply, beyond {max_depth} levels (max_json_depth)"


def _is_deep(value: Any, text: str | bytes, max_depth: int) -> bool:
    """Tell whether a decoded value is nested deeper than we read; CPython's own limit differs between versions."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    level, depth = [value], 0
    while level and depth <= max_depth:
        nested = [each for each in level if isinstance(each, (list, dict))]
        level = [item for each in nested for item in (each.values() if isinstance(each, dict) else each)]
        depth += bool(nested)
    return depth > max_depth


def _integer(value: int) -> str:
    if -_LARGE < value < _LARGE:
        return repr(value)
    raise LookupError


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    raise LookupError


_LISTS = {list, tuple}
_ATOMS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: _integer,
    float: _float,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): lambda _: "null",
}


def _plain(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, int):
        if not -_TOO_LONG < value < _TOO_LONG:
            raise MessageError(
                f"{where} holds an integer of more than {MAX_INT_DIGITS} digits, which a worker cannot read; "
                "send it as text, for example hex(number)"
            )
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MessageError(f"{where} holds {value}, which JSON has no number for; send None or text instead")
        return value
    if depth == 0:
        raise MessageError(f"{where} is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, depth - 1) for item in value]
    if isinstance(value, dict):
        return _plain_dict(value, where, depth)
    for known, encode in _ENCODERS:
        if isinstance(value, known):
            return encode(value)
    if isinstance(value, str):
        return _text(value)
    raise MessageError(
        f"{where} holds a {kind.__module__}.{kind.__qualname__}, which JSON cannot carry; "
        "send numbers, text, None, lists, dicts with text keys, or a datetime, date, time, Decimal, UUID or bytes"
    )


def _plain_dict(value: dict[Any, Any], where: str, depth: int) -> dict[str, Any]:
    if value.keys() == _ENVELOPE:
        raise MessageError(
            f"{where} holds a dict with just the keys __type__ and __value__, which the worker would turn into "
            "another type; add a key or rename one"
        )
    for key in value:
        if not isinstance(key, str):
            raise MessageError(f"{where} holds a dict with the key {shown(key)}; JSON keys are text, so send str(key)")
    return {_text(key): _plain(item, where, depth - 1) for key, item in value.items()}


def _text(value: str) -> str:
    # Of a subclass, what it holds: str() of an enumeration's member may be the member's name.
    return str.__str__(value)


def _envelope(marker: str, value: Any) -> dict[str, Any]:
    return {"__type__": marker, "__value__": value}


def _encode_bytes(value: bytes) -> dict[str, Any]:
    try:
        return _envelope("bytes", value.decode())
    except UnicodeDecodeError:
        return _envelope("base64", base64.b64encode(value).decode())


# A datetime is a date: the order matters.
_ENCODERS: tuple[tuple[type, Callable[[Any], dict[str, Any]]], ...] = (
    (datetime, lambda value: _envelope("datetime", value.isoformat())),
    (date, lambda value: _envelope("date", value.isoformat())),
    (time, lambda value: _envelope("time", value.isoformat())),
    (Decimal, lambda value: _envelope("decimal", str(value))),
    (UUID, lambda value: _envelope("uuid", {"hex": value.hex})),
    (bytes, _encode_bytes),
)

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(hex=value["hex"]),
    "bytes": lambda value: value.encode(),
    "base64": lambda value: base64.b64decode(value, validate=True),
}


def _from_envelope(value: dict[str, Any]) -> Any:
    if value.keys() != _ENVELOPE:
        return value
    marker = value["__type__"]
    decode = _DECODERS.get(marker) if isinstance(marker, str) else None
    if decode is None:
        raise ResultDecodeError(f"it holds a value of the type {shown(marker)}, which only its own worker can read")
    try:
        return decode(value["__value__"])
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ResultDecodeError(f"it holds a broken {marker}: {shown(error, 200)}") from error
