"""Celery's JSON: plain JSON, and dates, decimals, UUIDs and bytes in two-key envelopes.

Source: ``kombu.utils.json``. Kombu writes some values that its own reader cannot give back as they were (a
number that is no JSON number, a key that is no text, a literal dict that looks like an envelope). Those are
refused here, each with a word on what to send instead.

A worker's app may register more types with kombu's ``register_type``. A client is told of them as `JSONType`.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from uuid import UUID

from fibo_client.errors import ConfigError, MessageError, ResultDecodeError, ResultTooDeepError
from fibo_client.text import printable, shown

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

MAX_DEPTH = 100
"""How deeply lists and dicts may be nested in what is sent. A structure that contains itself ends here too."""

MAX_READ_DEPTH: Final = 500
"""How deeply lists and dicts may be nested in what is read, unless the client is told to read less deep."""

MAX_INT_DIGITS = 4300
"""Longer integers cannot be read by a stock worker: CPython refuses to parse them from text."""

_encode = json.JSONEncoder(allow_nan=False).encode
_decode_plain = json.JSONDecoder().decode
_TYPE: Final = "__type__"
_LARGE = 2**63
_TOO_LONG = 10**MAX_INT_DIGITS
_ENVELOPE = {"__type__", "__value__"}
_NATIVE: Final = (str, int, float, list, tuple, dict, type(None))


@dataclass(frozen=True, slots=True)
class JSONType(Generic[T]):
    """A type of your own in Celery's JSON. What it takes is what the worker's app gives kombu's ``register_type``.

    Attributes:
        type: The class.
        marker: The name that values of it travel under. None is a value that travels as what the encoder makes of it,
            and is no longer of that class where it arrives.
        encoder: Turns a value into JSON values, among which there may be others that have a type here.
        decoder: Turns these into the value.

    Raises:
        ConfigError: One of them is not what it should be, or JSON has a way of its own to write the class.
    """

    type: builtins.type[T]
    marker: str | None
    encoder: Callable[[T], Any]
    decoder: Callable[[Any], T] = lambda value: value

    def __post_init__(self) -> None:
        if not isinstance(self.type, type):
            raise ConfigError(f"the type of a JSONType must be a class, not {shown(self.type)}")
        if issubclass(self.type, _NATIVE):
            native = next(each.__name__ for each in _NATIVE if issubclass(self.type, each))
            raise ConfigError(
                f"JSON writes a {self.type.__name__} as it writes any {native}, and would never ask its encoder"
            )
        if self.marker is not None and (not isinstance(self.marker, str) or not self.marker):
            raise ConfigError(f"the marker of a JSONType must be text, or None, not {shown(self.marker)}")
        for name in ("encoder", "decoder"):
            function = getattr(self, name)
            if not callable(function) or inspect.iscoroutinefunction(function):
                raise ConfigError(f"the {name} of a JSONType must be a function, and no coroutine's: {shown(function)}")


class UnreadableTypeError(ResultDecodeError):
    """A value in it is of a type that is not known, or is broken."""


class JSONCodec:
    """Celery's JSON with the types that it has, and with more.

    Args:
        more: Other types. One with a class or a marker that Celery's JSON has, too, takes its place.

    Raises:
        ConfigError: Two of them have the same class or the same marker.
    """

    __slots__ = ("_decode", "_decode_leniently", "_decoders", "_own")

    def __init__(self, more: Iterable[JSONType[Any]] = ()) -> None:
        self._own: dict[type, JSONType[Any]] = {}
        self._decoders = dict(_DECODERS)
        markers: set[str] = set()
        for each in more:
            if not isinstance(each, JSONType):
                raise ConfigError(
                    f"json_types must be JSONTypes, such as JSONType(Money, 'money', str, Money), not {shown(each)}"
                )
            if each.type in self._own:
                raise ConfigError(f"two of json_types are for {each.type.__name__}")
            if each.marker in markers:
                raise ConfigError(f"two of json_types have the marker {shown(each.marker)}")
            self._own[each.type] = each
            if each.marker is not None:
                markers.add(each.marker)
                self._decoders[each.marker] = each.decoder
        self._decode = json.JSONDecoder(object_hook=self._from_envelope).decode
        self._decode_leniently = json.JSONDecoder(object_hook=self._from_envelope_if_possible).decode

    def dumps(self, value: Any, where: str = "the value") -> str:
        """Encode a value as Celery's JSON.

        Args:
            value: JSON values, and those of the types that there are, in lists, tuples and dicts.
            where: How the error names the value, such as ``args``.

        Returns:
            ASCII text.

        Raises:
            MessageError: The value, or a part of it, could not be read by a worker as it was meant.
        """
        if type(value) in _LISTS:
            try:  # A list of plain things is what most tasks take. It needs none of the detours.
                return _plain_list(value)
            except LookupError:
                pass  # There is something else in it, or something wrong.
        return _encode(self.plain(value, where))

    def plain(self, value: Any, where: str = "the value") -> Any:
        """Turn a value into what plain JSON has: dates, decimals, UUIDs, bytes and the like into their envelopes.

        Args:
            value: As for `dumps`.
            where: As for `dumps`.

        Returns:
            None, booleans, numbers, text, lists and dicts.

        Raises:
            MessageError: As for `dumps`.
        """
        return self._plain(value, where, MAX_DEPTH)

    def loads(self, text: str | bytes, max_depth: int = MAX_READ_DEPTH, *, strict: bool = True) -> Any:
        """Decode Celery's JSON.

        Args:
            text: JSON as text, or as UTF-8 bytes.
            max_depth: How deeply lists and dicts may be nested.
            strict: Whether an envelope that cannot be read is an error. Otherwise it stays, as the dict that it is.

        Returns:
            JSON values, with envelopes turned into the types that they hold.

        Raises:
            ResultTooDeepError: It is nested too deeply.
            UnreadableTypeError: An envelope is not of a known type, or is broken.
            ResultDecodeError: It is not JSON, or an integer in it has more than 4,300 digits.
        """
        return _load(text, self._decode if strict else self._decode_leniently, max_depth)

    def revive(self, value: Any, *, strict: bool) -> Any:
        """Turn the envelopes in a value that `loads_plain` read into the types that they hold.

        Args:
            value: The value.
            strict: As for `loads`.

        Returns:
            The value, as `loads` would have read it.

        Raises:
            ResultTooDeepError: It is nested too deeply.
            ResultDecodeError: An envelope cannot be read.
        """
        try:
            text = json.dumps(value)
        except RecursionError:
            raise ResultTooDeepError(_too_deep(MAX_READ_DEPTH)) from None
        return self.loads(text, strict=strict)

    def _plain(self, value: Any, where: str, depth: int) -> Any:
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
            return [self._plain(item, where, depth - 1) for item in value]
        if isinstance(value, dict):
            return self._plain_dict(value, where, depth)
        if isinstance(value, str):
            return _text(value)
        return self._typed(value, where, depth)

    def _typed(self, value: Any, where: str, depth: int) -> Any:
        """Encode what JSON itself cannot. Of several types that would do, the nearest among its ancestors is taken."""
        kind = type(value)
        if kind in _ENCODERS and kind not in self._own:
            return _ENCODERS[kind](value)
        if (own := getattr(kind, "__json__", None)) is not None:  # As kombu does, before all types.
            return self._plain(_encoded(own, value, where), where, depth - 1)
        for each in kind.__mro__:
            if each in self._own:
                return self._enveloped(self._own[each], value, where, depth)
            if each in _ENCODERS:
                return _ENCODERS[each](value)
        for known in self._own.values():
            if isinstance(value, known.type):  # An abstract class.
                return self._enveloped(known, value, where, depth)
        raise MessageError(
            f"{where} holds {_a(value)}, which JSON cannot carry; send numbers, text, None, lists, dicts with text "
            "keys, or a datetime, date, time, Decimal, UUID or bytes; or tell the client how to send it (json_types)"
        )

    def _enveloped(self, known: JSONType[Any], value: Any, where: str, depth: int) -> Any:
        encoded = self._plain(_encoded(known.encoder, value, where), where, depth - 1)
        return encoded if known.marker is None else _envelope(known.marker, encoded)

    def _plain_dict(self, value: dict[Any, Any], where: str, depth: int) -> dict[str, Any]:
        if value.keys() == _ENVELOPE:
            raise MessageError(
                f"{where} holds a dict with just the keys __type__ and __value__, which the worker would turn into "
                "another type; add a key or rename one"
            )
        for key in value:
            if not isinstance(key, str):
                raise MessageError(
                    f"{where} holds a dict with the key {shown(key)}; JSON keys are text, so send str(key)"
                )
        return {_text(key): self._plain(item, where, depth - 1) for key, item in value.items()}

    def _from_envelope(self, value: dict[str, Any]) -> Any:
        if value.keys() != _ENVELOPE:
            return value
        marker = value["__type__"]
        decode = self._decoders.get(marker) if isinstance(marker, str) else None
        if decode is None:
            raise UnreadableTypeError(
                f"it holds a value of the type {shown(marker)}, which this client was not told how to read (json_types)"
            )
        try:
            return decode(value["__value__"])
        except RecursionError:
            raise
        except Exception as error:
            raise UnreadableTypeError(f"it holds a broken {printable(marker, 80)}: {shown(error, 200)}") from error

    def _from_envelope_if_possible(self, value: dict[str, Any]) -> Any:
        try:
            return self._from_envelope(value)
        except UnreadableTypeError:
            return value


def loads_plain(text: str | bytes, max_depth: int = MAX_READ_DEPTH) -> Any:
    """Decode JSON, and leave envelopes as the dicts that they are.

    Args:
        text: As for `JSONCodec.loads`.
        max_depth: As for `JSONCodec.loads`.

    Returns:
        JSON values.

    Raises:
        ResultDecodeError: As for `JSONCodec.loads`.
    """
    return _load(text, _decode_plain, max_depth)


def _encoded(encode: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return encode(value)
    except Exception as error:
        raise MessageError(f"{where} holds {_a(value)}, which its encoder did not take: {shown(error, 200)}") from error


def _a(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _load(text: str | bytes, decode: Callable[[str], Any], max_depth: int) -> Any:
    try:
        if not isinstance(text, str):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        # Most have no envelope: no need to look at each dict.
        value = decode(text) if _TYPE in text else _decode_plain(text)
    except ResultDecodeError:
        raise  # An envelope's. It is a ValueError too.
    except RecursionError:
        raise ResultTooDeepError(_too_deep(max_depth)) from None
    except MemoryError:
        raise ResultDecodeError("there is not enough memory to decode it") from None
    except ValueError as error:
        # UnicodeDecodeError and JSONDecodeError are some.
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


def _plain_list(values: Sequence[Any]) -> str:
    return f"[{', '.join([_ATOMS[type(item)](item) for item in values])}]"


def _plain_list_inside(values: Sequence[Any]) -> str:
    # Deeper ones take the detour, which counts the levels.
    return f"[{', '.join([_INNER_ATOMS[type(item)](item) for item in values])}]"


_LISTS = {list, tuple}
_INNER_ATOMS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: _integer,
    float: _float,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): lambda _: "null",
}
_ATOMS = {**_INNER_ATOMS, list: _plain_list_inside, tuple: _plain_list_inside}


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


_ENCODERS: Final[dict[type, Callable[[Any], dict[str, Any]]]] = {
    datetime: lambda value: _envelope("datetime", value.isoformat()),
    date: lambda value: _envelope("date", value.isoformat()),
    time: lambda value: _envelope("time", value.isoformat()),
    Decimal: lambda value: _envelope("decimal", str(value)),
    UUID: lambda value: _envelope("uuid", {"hex": value.hex}),
    bytes: _encode_bytes,
}

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(hex=value["hex"]),
    "bytes": lambda value: value.encode(),
    "base64": lambda value: base64.b64decode(value, validate=True),
}


CELERY_JSON: Final = JSONCodec()
"""The codec with the types that Celery's JSON itself has."""
