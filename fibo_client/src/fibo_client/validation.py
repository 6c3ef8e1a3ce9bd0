"""Check the indexes of Fibonacci numbers that callers hand in. Invalid ones raise with a hint."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import Any

from fibo_client.contract import check_n

__all__ = ["check_index", "check_indexes"]


def check_index(n: object, max_n: int) -> int:
    """Check an index as `check_n` does, with a hint in its TypeError."""
    try:
        return check_n(n, max_n, "the client's max_n")
    except TypeError as error:
        raise TypeError(f"{error}{_advice(n)}") from None


def check_indexes(ns: object) -> Iterable[Any]:
    """Check that `ns` is an iterable, and neither text nor bytes, without iterating over it. Else raise TypeError."""
    if isinstance(ns, Iterable) and not isinstance(ns, (str, bytes, bytearray)):
        return ns
    advice = _advice(ns) if isinstance(ns, Awaitable) else ""
    if isinstance(ns, int):
        advice = "; for one number there is fibonacci()"
    elif isinstance(ns, AsyncIterable):
        advice = "; stream() takes an async iterable"
    raise TypeError(f"ns must be an iterable of integers, such as [4, 3, 8], not {type(ns).__name__}{advice}")


def _advice(value: object) -> str:
    if isinstance(value, (float, str)):
        return "; use int(...)"
    if isinstance(value, (Iterable, AsyncIterable)):
        return "; for many numbers there are fibonacci_many() and stream()"
    return "; is an `await` missing?" if isinstance(value, Awaitable) else ""
