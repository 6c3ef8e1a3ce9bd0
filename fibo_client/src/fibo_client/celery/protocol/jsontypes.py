"""Celery's JSON: plain JSON, and dates, decimals, UUIDs and bytes in two-key envelopes.

Source: ``kombu.utils.json``. Kombu writes some values that its own reader does not restore: numbers that JSON does not
have (nan, inf), keys that are not text, and literal dicts that look like an envelope. This module refuses them, with a
hint what to send instead.

A worker's app may register more types with kombu's ``register_type``. The client's counterpart is `JSONType`.
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

from fibo_client.celery.protocol.slices import decode_in_slices, is_deep
from fibo_client.errors import ConfigError, MessageError, ResultDecodeError, ResultTooDeepError
from fibo_client.text import printable, short_repr

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Generator, Iterable, Sequence

T = TypeVar("T")

MAX_DEPTH = 100
"""How deeply lists and dicts may be nested in what is sent. It also stops a structure that contains itself."""

MAX_READ_DEPTH: Final = 500
"""How deeply lists and dicts may be nested in what is read, unless ``max_json_depth`` says less."""

MAX_INT_DIGITS = 4300
"""A stock worker cannot read longer integers: CPython refuses to parse them from text."""

_encode = json.JSONEncoder(allow_nan=False).encode
_decode_plain = json.JSONDecoder().decode
_TYPE: Final = "__type__"
_LARGE = 2**63
_TOO_LONG = 10**MAX_INT_DIGITS
_ENVELOPE = {"__type__", "__value__"}
_NATIVE: Final = (str, int, float, list, tuple, dict, type(None))


@dataclass(frozen=True, slots=True)
class JSONType(Generic[T]):
    """A type of your own in Celery's JSON. It takes the arguments of kombu's ``register_type``.

    Attributes:
        type: The class.
        marker: The name of the type on the wire. With None, the value travels as the encoder's plain output, and the
            receiver does not get the class back.
        encoder: Turns a value into JSON values, which may contain values of other registered types.
        decoder: Turns these back into the value.

    Raises:
        ConfigError: An argument is of the wrong kind, or JSON itself already writes the class.
    """

    type: builtins.type[T]
    marker: str | None
    encoder: Callable[[T], Any]
    decoder: Callable[[Any], T] = lambda value: value

    def __post_init__(self) -> None:
        if not isinstance(self.type, type):
            raise ConfigError(f"the type of a JSONType must be a class, not {short_repr(self.type)}")
        if issubclass(self.type, _NATIVE):
            native = next(each.__name__ for each in _NATIVE if issubclass(self.type, each))
            raise ConfigError(
                f"JSON writes a {self.type.__name__} as it writes any {native}, and would never call its encoder"
            )
        if self.marker is not None and (not isinstance(self.marker, str) or not self.marker):
            raise ConfigError(f"the marker of a JSONType must be text, or None, not {short_repr(self.marker)}")
        for name in ("encoder", "decoder"):
            function = getattr(self, name)
            if not callable(function) or inspect.iscoroutinefunction(function):
                raise ConfigError(f"the {name} of a JSONType must be a function, not async: {short_repr(function)}")


class UnreadableTypeError(ResultDecodeError):
    """The JSON holds a value of an unknown type, or a broken value of a known one."""


class JSONCodec:
    """Celery's JSON, with its own types and more.

    Args:
        more: The additional types. One with the class or the marker of a Celery type replaces that.

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
                    "json_types must be JSONTypes, such as JSONType(Money, 'money', str, Money), "
                    f"not {short_repr(each)}"
                )
            if each.type in self._own:
                raise ConfigError(f"two of json_types are for {each.type.__name__}")
            if each.marker in markers:
                raise ConfigError(f"two of json_types have the marker {short_repr(each.marker)}")
            self._own[each.type] = each
            if each.marker is not None:
                markers.add(each.marker)
                self._decoders[each.marker] = each.decoder
        self._decode = json.JSONDecoder(object_hook=self._from_envelope).decode
        self._decode_leniently = json.JSONDecoder(object_hook=self._from_envelope_if_possible).decode

    def dumps(self, value: Any, where: str = "the value") -> str:
        """Encode a value as Celery's JSON.

        Args:
            value: JSON values and values of known types, in lists, tuples and dicts.
            where: What the error calls the value, such as ``args``.

        Returns:
            ASCII text.

        Raises:
            MessageError: A worker could not read the value, or would read another one.
        """
        if type(value) in _LISTS:
            try:  # A fast path: most tasks take a list of plain values.
                return f"[{', '.join([_ATOMS[type(item)](item) for item in value])}]"
            except LookupError:
                pass  # The list holds another type, or a value that needs a check.
        return _encode(self.plain(value, where))

    def plain(self, value: Any, where: str = "the value") -> Any:
        """Turn a value into plain JSON values, with dates, decimals, UUIDs, bytes and the like in envelopes.

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
            strict: Whether an unreadable envelope raises. Otherwise it stays a dict.

        Returns:
            JSON values, and the values that envelopes hold.

        Raises:
            ResultTooDeepError: It is nested too deeply.
            UnreadableTypeError: An envelope has an unknown type or a broken value.
            ResultDecodeError: It is not JSON, or an integer in it has more than 4,300 digits.
        """
        return _load(text, self._decode if strict else self._decode_leniently, max_depth)

    def loads_in_slices(self, text: bytes, max_depth: int = MAX_READ_DEPTH) -> Generator[None, None, Any]:
        """Decode a large text as `loads`, in slices.

        Args:
            text: JSON as UTF-8 bytes.
            max_depth: How deeply lists and dicts may be nested.

        Returns:
            The steps. They end with what `loads` would return, or raise ValueError where `loads` raises an error, which
            says more.
        """
        plain = text.decode(json.detect_encoding(text), "surrogatepass")
        hook = self._from_envelope if _TYPE in plain else None
        return decode_in_slices(plain, hook, max_depth)

    def revive(self, value: Any, *, strict: bool) -> Any:
        """Decode the envelopes in a value that `loads_plain` returned.

        Args:
            value: The value.
            strict: As for `loads`.

        Returns:
            What `loads` would have returned.

        Raises:
            ResultTooDeepError: It is nested too deeply.
            ResultDecodeError: An envelope is unreadable.
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
                raise MessageError(f"{where} holds {value}, and JSON has no number for that; send None or text instead")
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
        """Encode a value that JSON itself cannot express, by the nearest known type among its base classes."""
        kind = type(value)
        if kind in _ENCODERS and kind not in self._own:
            return _ENCODERS[kind](value)
        if (own := getattr(kind, "__json__", None)) is not None:  # Kombu, too, prefers it to registered types.
            return self._plain(_encoded(own, value, where), where, depth - 1)
        for each in kind.__mro__:
            if each in self._own:
                return self._enveloped(self._own[each], value, where, depth)
            if each in _ENCODERS:
                return _ENCODERS[each](value)
        for known in self._own.values():
            if isinstance(value, known.type):  # A virtual subclass of an abstract class.
                return self._enveloped(known, value, where, depth)
        raise MessageError(
            f"{where} holds {_a(value)}, which JSON cannot carry; send numbers, text, None, lists, dicts with text "
            "keys, or a datetime, date, time, Decimal, UUID or bytes; or give the client an encoder (json_types)"
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
                    f"{where} holds a dict with the key {short_repr(key)}; JSON keys are text, so send str(key)"
                )
        return {_text(key): self._plain(item, where, depth - 1) for key, item in value.items()}

    def _from_envelope(self, value: dict[str, Any]) -> Any:
        if value.keys() != _ENVELOPE:
            return value
        marker = value["__type__"]
        decode = self._decoders.get(marker) if isinstance(marker, str) else None
        if decode is None:
            raise UnreadableTypeError(
                f"it holds a value of the type {short_repr(marker)}, for which this client has no decoder (json_types)"
            )
        try:
            return decode(value["__value__"])
        except RecursionError:
            raise
        except Exception as error:
            raise UnreadableTypeError(f"it holds a broken {printable(marker, 80)}: {short_repr(error, 200)}") from error

    def _from_envelope_if_possible(self, value: dict[str, Any]) -> Any:
        try:
            return self._from_envelope(value)
        except UnreadableTypeError:
            return value


def loads_plain(text: str | bytes, max_depth: int = MAX_READ_DEPTH) -> Any:
    """Decode JSON as `JSONCodec.loads` does, with the same errors, but leave envelopes as dicts."""
    return _load(text, _decode_plain, max_depth)


def _encoded(encode: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return encode(value)
    except Exception as error:
        raise MessageError(f"{where} holds {_a(value)}, and its encoder raised {short_repr(error, 200)}") from error


def _a(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _load(text: str | bytes, decode: Callable[[str], Any], max_depth: int) -> Any:
    try:
        if not isinstance(text, str):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        # Most have no envelope: no need to look at each dict.
        value = decode(text) if _TYPE in text else _decode_plain(text)
    except ResultDecodeError:
        raise  # From an envelope. It is a ValueError, too.
    except RecursionError:
        raise ResultTooDeepError(_too_deep(max_depth)) from None
    except MemoryError:
        raise ResultDecodeError("there is not enough memory to decode it") from None
    except ValueError as error:
        # UnicodeDecodeError and JSONDecodeError are subclasses.
        raise ResultDecodeError(f"its JSON is not valid: {error}") from error
    # What has fewer brackets cannot be so deep.
    if text.count("[") + text.count("{") > max_depth and is_deep(value, max_depth):
        raise ResultTooDeepError(_too_deep(max_depth))
    return value


def _too_deep(max_depth: int) -> str:
    return f"its JSON is nested too deeply, beyond {max_depth} levels (max_json_depth)"


def _integer(value: int) -> str:
    if -_LARGE < value < _LARGE:
        return repr(value)
    raise LookupError


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    raise LookupError


def _plain_list(values: Sequence[Any]) -> str:
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
_ATOMS = {**_INNER_ATOMS, list: _plain_list, tuple: _plain_list}


def _text(value: str) -> str:
    # str(value) of an enum member may be the member's name.
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
"""The codec with Celery's own types only."""
