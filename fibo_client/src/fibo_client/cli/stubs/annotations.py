"""The types of a task's parameters and result, as its caller has them: what JSON carries, and ``Any``. Pure.

What a caller may send and what it gets are not the same. A tuple is sent as a list, and comes back as one; the keys of
a dict are text. The types of Celery's JSON (`fibo_client.celery.protocol.jsontypes`) come back as they were. A set, a
timedelta or a class of the app's own does not travel by itself, and is Any: a client may know a way (``json_types``).
"""

from __future__ import annotations

import ast
import types
import typing
from collections import abc
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from fibo_client.cli.stubs.literals import literal

__all__ = ["MODULES", "accepts", "names", "parameter_type", "result_type"]

MODULES: Final = {
    "collections.abc": ("Mapping", "Sequence"),
    "datetime": ("date", "datetime", "time"),
    "decimal": ("Decimal",),
    "typing": ("Any", "Literal"),
    "uuid": ("UUID",),
}
"""The modules that the names in a type come from. The others are built in."""

_PLAIN: Final = {
    each: each.__name__ for each in (bool, int, float, str, bytes, datetime, date, time, Decimal, UUID)
} | {
    type(None): "None",
    typing.LiteralString: "str",
}
_SEQUENCES: Final = (abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_MAPPINGS: Final = (abc.Mapping, abc.MutableMapping)
_KEYS: Final = ("str", "int", "float", "bool", "None")
"""What ``json.dumps`` makes text of, where it is the key of a dict."""


def parameter_type(annotation: object) -> str:
    """Write the type of what a caller may send for a parameter."""
    return _finite_type(annotation, sent=True)


def result_type(annotation: object) -> str:
    """Write the type of what a caller gets for a result."""
    return _finite_type(annotation, sent=False)


def _finite_type(annotation: object, *, sent: bool) -> str:
    try:
        return _type(annotation, sent=sent)
    except RecursionError:  # An alias that is part of itself, such as one for all that JSON has.
        return "Any"


def _type(annotation: Any, *, sent: bool) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, typing.NewType):
        return _type(annotation.__supertype__, sent=sent)
    if hasattr(annotation, "__value__"):  # `type Name = ...`, since Python 3.12.
        return _type(annotation.__value__, sent=sent)
    if origin is typing.Annotated:
        return _type(arguments[0], sent=sent)
    if origin is typing.Union or origin is types.UnionType:
        return _union([_type(each, sent=sent) for each in arguments])
    if origin is typing.Literal:
        texts = [literal(each) for each in arguments]
        return "Any" if None in texts else f"Literal[{', '.join(filter(None, texts))}]"
    try:
        if annotation in _PLAIN:
            return _PLAIN[annotation]
    except TypeError:  # It has no hash, and so is no type.
        return "Any"
    return _container(annotation if origin is None else origin, arguments, sent=sent)


def _container(kind: Any, arguments: tuple[Any, ...], *, sent: bool) -> str:
    items = [_type(each, sent=sent) for each in arguments if each is not ...]
    if kind is tuple:
        return _tuple(items, sent=sent, endless=... in arguments)
    if kind is list or kind in _SEQUENCES:
        name = "Sequence" if sent and kind is not list else "list"
        return f"{name}[{items[0] if items else 'Any'}]"
    if kind is dict or kind in _MAPPINGS:
        name = "Mapping" if sent and kind is not dict else "dict"
        key, value = items if len(items) == 2 else ("str", "Any")
        return f"{name}[str, {value}]" if key in _KEYS else "Any"
    return "Any"


def _tuple(items: list[str], *, sent: bool, endless: bool) -> str:
    if not sent:
        return f"list[{_union(items) if items else 'Any'}]"
    if not items:
        return "tuple[Any, ...]"
    return f"tuple[{items[0]}, ...]" if endless else f"tuple[{', '.join(items)}]"


def _union(members: list[str]) -> str:
    return "Any" if "Any" in members else " | ".join(dict.fromkeys(members))


def names(text: str) -> set[str]:
    """Find the names in a type."""
    return {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}


def accepts(text: str, value: object) -> bool:
    """Tell whether a value, one that has a literal, is of a type: a checker refuses a default that is not."""
    return _accepts(ast.parse(text, mode="eval").body, value)


def _accepts(node: ast.expr, value: Any) -> bool:
    match node:
        case ast.Name("Any"):
            return True
        case ast.Name(name):
            promoted = (name == "float" and type(value) is int) or (name in ("int", "float") and type(value) is bool)
            return promoted or name == type(value).__name__
        case ast.Constant(None):
            return value is None
        case ast.BinOp(left, _, right):
            return _accepts(left, value) or _accepts(right, value)
        case ast.Subscript(ast.Name("Literal"), choices):
            each = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return literal(value) in [literal(ast.literal_eval(choice)) for choice in each]
        case ast.Subscript(ast.Name("list"), item):
            return type(value) is list and all(_accepts(item, each) for each in value)
        case ast.Subscript(ast.Name("Sequence"), item):
            return type(value) in (list, tuple) and all(_accepts(item, each) for each in value)
        case ast.Subscript(ast.Name("tuple"), ast.Tuple([item, ast.Constant(value=x)])) if x is ...:
            return type(value) is tuple and all(_accepts(item, each) for each in value)
        case ast.Subscript(ast.Name("tuple"), items):
            each = items.elts if isinstance(items, ast.Tuple) else [items]
            return type(value) is tuple and len(value) == len(each) and all(map(_accepts, each, value))
        case ast.Subscript(ast.Name("dict" | "Mapping"), ast.Tuple([key, item])):
            return type(value) is dict and all(_accepts(key, k) and _accepts(item, v) for k, v in value.items())
    return False
