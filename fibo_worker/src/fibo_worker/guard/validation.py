"""Validate a message by its bytes alone, before Celery sees it.

Celery and kombu trust the fields of a message. At an unexpected type or value, the worker stops, reconnects without
end, or forgets the message. So this module checks all that they rely on. Sources: "Message Protocol" in Celery's
documentation for the fields of protocol version 2; ``kombu.transport.virtual``, ``kombu.transport.redis`` and
``celery.worker`` of version 5.7 for what they rely on.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import math
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import object_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MAX_DEPTH", "Validation", "is_name", "is_text", "validate", "validate_broadcast"]

MAX_DEPTH: Final = 100
"""The deepest nesting of lists and objects. CPython's own JSON parser and writer give up somewhat below 1,000."""

_MAX_NAME: Final = 1024
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MAX_CLOCK: Final = 2**53
_JSON: Final = "application/json"
_LZMA_MEMORY: Final = 128 * 1024 * 1024  # Twice what the highest preset needs; a hostile header may ask for 4 GiB.
_ENVELOPE_ROOM: Final = 64 * 1024  # for headers and properties, beside the body
_BZ2: Final = "application/x-bz2"
_XZ: Final = "application/x-lzma"
_ZLIB: Final = "application/x-gzip"
_decode: Final = json.JSONDecoder(object_hook=object_hook).decode
"""What kombu makes anew for each text."""
# By content type, and by the aliases that Celery also accepts.
_DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    **dict.fromkeys((_ZLIB, "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys((_BZ2, "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys((_XZ, "lzma", "xz"), lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)),
}


@dataclass(frozen=True, slots=True)
class Validation:
    """The outcome of validating a message.

    Attributes:
        payload: The message as kombu decodes it, or None if it cannot be run.
        body: Its body as kombu decodes it, or None if that was not found out.
        reason: Why it cannot be run, without values of the message; None if it can.
        task: The task's name, if it is readable.
        id: The task's id, if it is readable.
    """

    payload: dict[str, Any] | None
    reason: str | None = None
    task: str | None = None
    id: str | None = None
    body: list[Any] | None = None


class _InvalidError(Exception):
    """The message cannot be run; the text says why."""


def validate(raw: bytes, *, max_body_bytes: int) -> Validation:
    """Validate a message. It raises nothing, whatever the bytes are.

    Args:
        raw: The element of the queue's list.
        max_body_bytes: The most bytes that its body may have when decompressed.

    Returns:
        The message, or why it cannot be run.
    """
    try:
        payload = _envelope(raw, max_body_bytes)
    except _InvalidError as error:
        return Validation(None, str(error))
    headers = payload.get("headers")
    task, id = (_name(headers.get(name)) for name in ("task", "id")) if isinstance(headers, dict) else (None, None)
    try:
        _check_headers(headers)
        body = _parsed(_body(payload, max_body_bytes), "its body")
        _check_body(body)
    except _InvalidError as error:
        return Validation(None, str(error), task, id)
    # By another encoding, kombu finds another text.
    is_plain = (payload.get("content-encoding") or "utf-8").lower() == "utf-8"
    return Validation(payload, None, task, id, body if is_plain else None)


def validate_broadcast(raw: bytes, *, max_body_bytes: int, event: bool) -> str | None:
    """Validate a message that comes by publish/subscribe: a command of remote control, or an event of a worker.

    Args:
        raw: The data of the message.
        max_body_bytes: The most bytes that its body may have when decompressed.
        event: Whether it is an event.

    Returns:
        Why it cannot be used, without values of the message; None if it can.
    """
    try:
        _check_broadcast(_envelope(raw, max_body_bytes), max_body_bytes, event)
    except _InvalidError as error:
        return str(error)
    return None


def _check_broadcast(payload: dict[str, Any], max_body_bytes: int, event: bool) -> None:
    headers, properties = payload.get("headers"), payload.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise _InvalidError("it has no headers or no properties")
    if not is_name(properties.get("delivery_tag")):
        raise _InvalidError("it has no delivery_tag")
    if not isinstance(properties.get("delivery_info"), dict):
        raise _InvalidError("it has no delivery_info")
    _check_clock(headers.get("clock"))
    body = _parsed(_body(payload, max_body_bytes), "its body")
    if event:
        _check_event(body, headers, properties["delivery_info"])


def _check_clock(value: Any) -> None:
    # Lamport's clock: the worker goes on from there, and tells all others.
    if value is not None and not (type(value) is int and 0 <= value <= _MAX_CLOCK):
        raise _InvalidError("its clock is not a whole number")


def _check_event(body: Any, headers: dict[str, Any], info: dict[str, Any]) -> None:
    """Check what a worker relies on in the events of others. It keeps them until it asks whether a node is alive."""
    key = info.get("routing_key")
    # Workers send what happens to tasks in batches, which monitors read, and no worker does.
    events = body if isinstance(body, list) and key == "task.multi" else [body]
    if not isinstance(key, str) or not all(isinstance(each, dict) for each in events):
        raise _InvalidError("it is not an event")
    for each in events:
        for field in ("hostname", "type", "id", "topic"):
            if field in each and not is_name(each[field]):
                raise _InvalidError(f"its {field} is not a text")
        if not is_name(headers.get("hostname") or each.get("hostname")):
            raise _InvalidError("it has no hostname")
        _check_clock(each.get("clock"))
        for field in ("timestamp", "local_received", "freq", "utcoffset"):
            if field in each and not _is_finite(each[field]):
                raise _InvalidError(f"its {field} is not a number")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _envelope(raw: bytes, max_body_bytes: int) -> dict[str, Any]:
    # As base64, as Celery sends it, a body grows by a third. Plain text with many JSON escapes may grow more: refused.
    if len(raw) > max_body_bytes * 4 // 3 + _ENVELOPE_ROOM:
        raise _InvalidError(f"it has {len(raw)} bytes, too many for a body of at most {max_body_bytes}")
    payload = _parsed(raw, "it")
    if not isinstance(payload, dict):
        raise _InvalidError("it is not a JSON object")
    return payload


def _parsed(data: bytes, what: str) -> Any:
    """Parse JSON as kombu does: some objects become other types."""
    try:
        value = _decode(data.decode())
    except UnicodeDecodeError:
        raise _InvalidError(f"{what} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _InvalidError(f"{what} is not JSON: {error}") from None
    except RecursionError:
        raise _InvalidError(f"{what} is nested deeper than {MAX_DEPTH}") from None
    except Exception as error:  # noqa: BLE001 - a type's own decoder may raise anything
        # Not the error's text: it may contain values of the message.
        raise _InvalidError(f"{what} has a value that cannot be decoded ({type(error).__name__})") from None
    # Count first, which is cheap: most messages have only a few brackets.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _InvalidError(f"{what} is nested deeper than {MAX_DEPTH}")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [each for each in value.values() if isinstance(each, dict | list)]
    return [each for each in value if isinstance(each, dict | list)] if isinstance(value, list) else ()


def is_name(value: Any) -> bool:
    """Tell whether a value is a name or an id that is usable in a Redis key."""
    return is_text(value) and value != ""


def is_text(value: Any, longest: int = _MAX_NAME) -> bool:
    """Tell whether a value is a text of at most so many characters that can be encoded."""
    if not isinstance(value, str) or len(value) > longest:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(value: Any) -> str | None:
    return value if is_name(value) else None


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, dict):
        raise _InvalidError("it has no headers; a message of Celery's protocol version 2 has")
    for field in ("task", "id"):
        if field not in headers:
            raise _InvalidError(f"its headers have no {field!r}; a message of Celery's protocol version 2 has")
        if _name(headers[field]) is None:
            raise _InvalidError(f"its header {field!r} is not a text of 1 to {_MAX_NAME} characters")
        # They stand in every line of the log about the task, and in keys.
        if _CONTROLS.search(headers[field]):
            raise _InvalidError(f"its header {field!r} has control characters")
    for field in ("shadow", "root_id", "parent_id", "group"):
        value = headers.get(field)
        if value is not None and _name(value) is None and value != "":
            raise _InvalidError(f"its header {field!r} is neither a text nor null")
    for field in ("eta", "expires"):
        _check_time(field, headers.get(field))
    _check_limits(headers.get("timelimit"))
    _check_stamps(headers.get("stamped_headers"), headers.get("stamps"))


def _check_time(field: str, value: Any) -> None:
    if value is None:
        return
    try:
        if not isinstance(value, str | datetime) or not value:
            raise ValueError
        # Parse it as Celery does. Celery then compares times in UTC, which fails at the ends of the calendar.
        maybe_make_aware(maybe_iso8601(value)).timestamp()
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise _InvalidError(f"its header {field!r} is not a time in ISO 8601") from None


def _check_limits(value: Any) -> None:
    if not value:
        return
    if not isinstance(value, list) or len(value) != 2 or not all(each is None or _is_limit(each) for each in value):
        raise _InvalidError("its header 'timelimit' is not two times in seconds, each of which may be null")


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 and math.isfinite(value)


def _check_stamps(names: Any, stamps: Any) -> None:
    if names and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise _InvalidError("its header 'stamped_headers' is not a list of texts")
    if stamps and not isinstance(stamps, dict):
        raise _InvalidError("its header 'stamps' is not an object")


def _body(payload: dict[str, Any], max_body_bytes: int) -> bytes:
    properties = payload.get("properties")
    if not isinstance(properties, dict):
        raise _InvalidError("it has no properties")
    if payload.get("content-type") != _JSON:
        raise _InvalidError(f"its content-type is not {_JSON}, and nothing else is accepted")
    encoding = payload.get("content-encoding")
    if encoding is not None and not isinstance(encoding, str):
        raise _InvalidError("its content-encoding is not a text")
    text = payload.get("body")
    if not isinstance(text, str) or not text:
        raise _InvalidError("it has no body")
    coding = properties.get("body_encoding")
    try:
        if coding is None or coding == "utf-8":
            body, is_plain = text.encode(), True
        elif coding == "base64":
            body, is_plain = base64.b64decode(text), False
        else:
            raise _InvalidError("its body_encoding is neither base64 nor utf-8")
    except ValueError:
        raise _InvalidError("its body cannot be decoded as its body_encoding says") from None
    if compression := payload["headers"].get("compression"):
        if is_plain:
            raise _InvalidError("its body is compressed, but its body_encoding is not base64")
        return _decompressed(body, compression, max_body_bytes)
    if len(body) > max_body_bytes:
        raise _InvalidError(f"its body has {len(body)} bytes, more than {max_body_bytes}")
    return body


def _decompressed(body: bytes, compression: Any, max_body_bytes: int) -> bytes:
    make = _DECOMPRESSORS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise _InvalidError("its compression is unknown; gzip, bzip2 and xz are known")
    decompressor = make()
    try:
        plain: bytes = decompressor.decompress(body, max_body_bytes + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        raise _InvalidError("its compressed body is broken") from None
    if len(plain) > max_body_bytes:
        raise _InvalidError(f"its body has more than {max_body_bytes} bytes when decompressed")
    # Celery's own decompression would read a second stream, too, beyond the limit.
    if not decompressor.eof or decompressor.unused_data:
        raise _InvalidError("its compressed body is cut short, or goes on after its end")
    return plain


def _check_body(body: Any) -> None:
    if not isinstance(body, list) or len(body) != 3:
        raise _InvalidError("its body is not a list of three: arguments, keyword arguments, and callbacks")
    args, kwargs, embed = body
    if not isinstance(args, list):
        raise _InvalidError("its arguments are not a list")
    if not isinstance(kwargs, dict):
        raise _InvalidError("its keyword arguments are not an object")
    if embed is not None and not isinstance(embed, dict):
        raise _InvalidError("its callbacks (the third of its body) are not an object")
    for field in ("callbacks", "errbacks", "chain"):
        value = (embed or {}).get(field)
        if value and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
            raise _InvalidError(f"its {field!r} is not a list of tasks")
    chord = (embed or {}).get("chord")
    if chord and not isinstance(chord, dict):
        raise _InvalidError("its 'chord' is not a task")
