"""What client and worker agree on: task names, the shapes of arguments and answers, and how a number travels.

Fibonacci numbers travel as hexadecimal text: it converts in linear time both ways, and CPython's limit of 4,300
decimal digits does not apply to it. With decimal text, a stock worker would fail for n above 20,577.
"""

from __future__ import annotations

import math
from typing import Any, Final

from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.errors import TaskFailedError

__all__ = [
    "DEFAULT_MAX_N",
    "FIBONACCI",
    "FIBONACCI_CHUNK",
    "FIBO_TASK",
    "MAX_CHUNK",
    "SQRT_TASK",
    "check_chunk_size",
    "check_n",
    "check_sqrt",
    "decode_chunk",
    "decode_fibo_task",
    "decode_item",
    "decode_number",
    "decode_sqrt",
    "encode_failure",
    "encode_number",
    "fibo_message",
]

DEFAULT_MAX_N: Final = 10_000_000
"""The largest n by default. Client and worker can each set their own."""

MAX_CHUNK: Final = 1000
"""The most numbers that one `FIBONACCI_CHUNK` task takes."""


def check_n(n: object, max_n: int = DEFAULT_MAX_N, whose: str = "") -> int:
    """Check the index of a Fibonacci number.

    Args:
        n: The index, unchecked.
        max_n: The largest index that is allowed.
        whose: What the error calls that limit; client and worker each have their own.

    Returns:
        The index.

    Raises:
        TypeError: It is not an integer. A bool, a float or a text does not count as one.
        ValueError: It is negative, or larger than `max_n`.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an integer, not {type(n).__name__}")
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {_short_integer(n)}")
    if n > max_n:
        raise ValueError(f"n must be at most {max_n}, not {_short_integer(n)}{whose and f' ({whose})'}")
    return n


def check_chunk_size(size: object) -> int:
    """Check a chunk size: an integer from 1 to `MAX_CHUNK`. Else raise TypeError or ValueError."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"chunk_size must be an integer, not {type(size).__name__}")
    if not 1 <= size <= MAX_CHUNK:
        raise ValueError(f"chunk_size must be from 1 to {MAX_CHUNK}, not {_short_integer(size)}")
    return size


def check_sqrt(value: object) -> float:
    """Check the argument of a square root.

    Args:
        value: The argument, unchecked.

    Returns:
        The number.

    Raises:
        TypeError: It is not an int or a float.
        ValueError: It is negative, infinite, not a number, or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"value must be a number, not {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise ValueError("value must fit into a float, which ends at 1.8e308") from None
    if not finite:
        raise ValueError(f"value must be a finite number, not {value}")
    if value < 0:
        raise ValueError(f"value must be 0 or more, not {value}")
    return value


def encode_number(value: int) -> str:
    """Encode a Fibonacci number, an int or a gmpy2.mpz, as lower-case hexadecimal digits without a prefix."""
    # For a small number, gmpy2's own method takes half as long as format(). A chunk has up to 1,000 of them.
    digits = getattr(value, "digits", None)
    return f"{value:x}" if digits is None else str(digits(16))


def decode_number(text: Any) -> int:
    """Decode a Fibonacci number, the answer of `FIBONACCI`. Raise ValueError if it is not hexadecimal text."""
    # int() alone would also accept signs, spaces, underscores and a prefix. isalnum() on str would take several times
    # as long as int() itself; on bytes it is fast.
    if not isinstance(text, str) or not text.isascii() or not text.encode().isalnum() or text[1:2] in ("x", "X"):
        raise ValueError("a Fibonacci number must come as hexadecimal text")
    return int(text, 16)


def fibo_message(task_id: str, decimal: str) -> str:
    """Write the sentence of a `FIBO_TASK`: its id, and the number in decimal digits."""
    return f"The Fibonacci calculated with task id {task_id} was {decimal}"


def decode_fibo_task(answer: Any) -> tuple[int, str]:
    """Decode the answer of `FIBO_TASK`: the index, and the sentence with the number. Else raise ValueError."""
    match answer:
        case [int(n), str(message)] if not isinstance(n, bool):
            return n, message
    raise ValueError("the answer must be a pair of an integer and a message")


def decode_sqrt(answer: Any) -> float:
    """Decode the answer of `SQRT_TASK`. Raise ValueError if it is not a number."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        raise ValueError("a square root must come as a number")
    try:
        return float(answer)
    except OverflowError:  # An integer of hundreds of digits.
        raise ValueError("a square root must fit into a float") from None


def encode_failure(error: Exception) -> dict[str, list[str]]:
    """Encode the failure of one number in a chunk: ``{"error": [type, message]}``."""
    return {"error": [type(error).__name__, str(error)]}


def decode_chunk(answer: Any) -> list[int | TaskFailedError]:
    """Decode the answer of `FIBONACCI_CHUNK`: a value or an error for each number.

    Args:
        answer: The list that the task returned; `decode_item` says what is in it.

    Returns:
        For each number its value, or its error.

    Raises:
        ValueError: It is not such a list.
    """
    if not isinstance(answer, list):
        raise ValueError("the answer of a chunk must be a list")
    return [decode_item(item) for item in answer]


def decode_item(item: Any, task_id: str = "") -> int | TaskFailedError:
    """Decode one item of the answer of `FIBONACCI_CHUNK`.

    Args:
        item: Hexadecimal text, or ``{"error": [type, message]}``.
        task_id: The id of the task, for the error.

    Returns:
        The number, or its error.

    Raises:
        ValueError: It is neither.
    """
    match item:
        case {"error": [str(exc_type), str(message)]}:
            return TaskFailedError(
                task_id=task_id,
                task=FIBONACCI_CHUNK.name,
                exc_type=exc_type,
                exc_module="builtins",
                exc_args=(message,),
                traceback=None,
            )
    return decode_number(item)


def _short_integer(n: int) -> str:
    """Write an integer for an error message; of a long one, its number of bits."""
    return str(n) if n.bit_length() <= 256 else f"an integer of {n.bit_length()} bits"


FIBONACCI: Final = RemoteTask[[int], int]("fibo.fibonacci", decode_number)
"""F(n), exact."""

FIBONACCI_CHUNK: Final = RemoteTask[[list[int]], "list[int | TaskFailedError]"]("fibo.fibonacci_chunk", decode_chunk)
"""F(n) of each of up to `MAX_CHUNK` numbers. If one fails, the others still come."""

FIBO_TASK: Final = RemoteTask[[int], tuple[int, str]]("tasks.fibo_task", decode_fibo_task)
"""n, and a sentence with F(n) in decimal digits."""

SQRT_TASK: Final = RemoteTask[[float], float]("tasks.sqrt_task", decode_sqrt)
"""The square root of a number."""
