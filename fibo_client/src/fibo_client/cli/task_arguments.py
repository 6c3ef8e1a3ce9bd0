"""The arguments of ``fibo call`` that are the task's own: JSON."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, TypeVar

from fibo_client.cli.usage_errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_extra", "keyword", "positional"]

T = TypeVar("T")


def positional(text: str) -> list[Any]:
    """Read ``--args``. Usage errors end the command."""
    return _json("--args", text, list, """a list, as in '[2, "x"]'""")


def keyword(text: str) -> dict[str, Any]:
    """Read ``--kwargs``. Usage errors end the command."""
    return _json("--kwargs", text, dict, """an object, as in '{"x": 2}'""")


def check_extra(words: Sequence[str]) -> None:
    """Refuse words behind the task's name, and say how to write them."""
    if not words:
        return
    for word in words:
        if word.startswith("-") and not isinstance(_value(word), (int, float)):
            usage_error(f"there is no option {word.partition('=')[0]}; see --help")
    keywords = [word.partition("=") for word in words if word.partition("=")[0].isidentifier() and "=" in word]
    if len(keywords) == len(words):
        option, value = "--kwargs", json.dumps({name: _value(text) for name, _, text in keywords}, ensure_ascii=False)
    else:
        option, value = "--args", json.dumps([_value(word) for word in words], ensure_ascii=False)
    usage_error(f"the task's own arguments are one JSON text; write {option} {shlex.quote(value)}")


def _json(option: str, text: str, kind: type[T], wanted: str) -> T:
    try:
        value = json.loads(text)
    except ValueError as error:
        usage_error(f"{option} is not JSON: {error}. It must be {wanted}")
    if not isinstance(value, kind):
        usage_error(f"{option} must be {wanted}")
    return value


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word
