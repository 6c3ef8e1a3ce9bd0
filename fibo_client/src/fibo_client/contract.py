"""What client and worker agree on: task names, the shapes of arguments and answers, and how a number travels.

Fibonacci numbers travel as hexadecimal text. It is linear both ways, and outside CPython's limit of 4,300 digits
between integers and decimal text, over which a stock worker would fail for n above 20,577.
"""

from __future__ import annotations

import math
from typing import Any, Final

from fibo_client.celery.signature import RemoteTask
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
"""The largest n that is computed, unless client and worker are told otherwise."""

MAX_CHUNK: Final = 1000
"""The most numbers that one `FIBONACCI_CHUNK` task takes."""


def check_n(n: object, max_n: int = DEFAULT_MAX_N, whose: str = "") -> int:
    """Check the index of a Fibonacci number.

    Args:
        n: What was given.
        max_n: The largest index that is allowed.
        whose: Whose limit that is and what it is called, for the error: client and worker have each their own.

    Returns:
        The index.

    Raises:
        TypeError: It is not an integer. A bool is none, and neither is a float or text that looks like one.
        ValueError: It is negative, or larger than `max_n`.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an integer, not {type(n).__name__}")
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {_brief(n)}")
    if n > max_n:
        raise ValueError(f"n must be at most {max_n}, not {_brief(n)}{whose and f' ({whose})'}")
    return n


def check_chunk_size(size: object) -> int:
    """Check how many numbers one task may have.

    Args:
        size: What was given.

    Returns:
        The size.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is not from 1 to `MAX_CHUNK`.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"chunk_size must be an integer, not {type(size).__name__}")
    if not 1 <= size <= MAX_CHUNK:
        raise ValueError(f"chunk_size must be from 1 to {MAX_CHUNK}, not {_brief(size)}")
    return size


def check_sqrt(value: object) -> float:
    """Check the argument of a square root.

    Args:
        value: What was given.

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
        raise ValueError("value must fit into a float, that is be below 1.8e308") from None
    if not finite:
        raise ValueError(f"value must be a finite number, not {value}")
    if value < 0:
        raise ValueError(f"value must be 0 or more, not {value}")
    return value


def encode_number(value: int) -> str:
    """Encode a Fibonacci number.

    Args:
        value: The number: an int, or one of gmpy2's.

    Returns:
        Lower-case hexadecimal digits, without a prefix.
    """
    # gmpy2's own method takes half as long as format() for a small number, of which a chunk has a thousand.
    digits = getattr(value, "digits", None)
    return f"{value:x}" if digits is None else str(digits(16))


def decode_number(text: Any) -> int:
    """Decode a Fibonacci number.

    Args:
        text: What came as the answer of `FIBONACCI`.

    Returns:
        The number.

    Raises:
        ValueError: It is not hexadecimal text.
    """
    # int() alone would also take signs, spaces, underscores and a prefix. The question is asked of bytes: over text
    # it takes several times as long as int() itself.
    if not isinstance(text, str) or not text.isascii() or not text.encode().isalnum() or text[1:2] in ("x", "X"):
        raise ValueError("a Fibonacci number must come as hexadecimal text")
    return int(text, 16)


def fibo_message(task_id: str, decimal: str) -> str:
    """Say the result of `FIBO_TASK`.

    Args:
        task_id: The id of the task that computed it.
        decimal: The number in decimal digits.

    Returns:
        The sentence.
    """
    return f"The Fibonacci calculated with task id {task_id} was {decimal}"


def decode_fibo_task(answer: Any) -> tuple[int, str]:
    """Decode the answer of `FIBO_TASK`.

    Args:
        answer: What came.

    Returns:
        The index that was asked for, and the sentence with the number.

    Raises:
        ValueError: It is not such a pair.
    """
    match answer:
        case [int(n), str(message)] if not isinstance(n, bool):
            return n, message
    raise ValueError("the answer must be a pair of an integer and a message")


def decode_sqrt(answer: Any) -> float:
    """Decode the answer of `SQRT_TASK`.

    Args:
        answer: What came.

    Returns:
        The root.

    Raises:
        ValueError: It is not a number.
    """
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        raise ValueError("a square root must come as a number")
    try:
        return float(answer)
    except OverflowError:  # An integer of hundreds of digits.
        raise ValueError("a square root must fit into a float") from None


def encode_failure(error: Exception) -> dict[str, list[str]]:
    """Encode the failure of one number in a chunk.

    Args:
        error: What was raised for it.

    Returns:
        ``{"error": [type, message]}``.
    """
    return {"error": [type(error).__name__, str(error)]}


def decode_chunk(answer: Any) -> list[int | TaskFailedError]:
    """Decode the answer of `FIBONACCI_CHUNK`.

    Args:
        answer: What came: for each number hexadecimal text, or ``{"error": [type, message]}``.

    Returns:
        For each number its value, or the error with which it failed alone.

    Raises:
        ValueError: It is not such a list.
    """
    if not isinstance(answer, list):
        raise ValueError("the answer of a chunk must be a list")
    return [decode_item(item) for item in answer]


def decode_item(item: Any, task_id: str = "") -> int | TaskFailedError:
    """Decode what the answer of `FIBONACCI_CHUNK` has for one number.

    Args:
        item: What came.
        task_id: The id of the task.

    Returns:
        The number, or the error with which it failed alone.

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


def _brief(n: int) -> str:
    """Write an integer for an error message, however long it is."""
    return str(n) if n.bit_length() <= 256 else f"an integer of {n.bit_length()} bits"


FIBONACCI: Final = RemoteTask[[int], int]("fibo.fibonacci", decode_number)
"""F(n), exact."""

FIBONACCI_CHUNK: Final = RemoteTask[[list[int]], "list[int | TaskFailedError]"]("fibo.fibonacci_chunk", decode_chunk)
"""F(n) of each of up to `MAX_CHUNK` numbers; one that fails, fails alone."""

FIBO_TASK: Final = RemoteTask[[int], tuple[int, str]]("tasks.fibo_task", decode_fibo_task)
"""n, and a sentence with F(n) in decimal digits."""

SQRT_TASK: Final = RemoteTask[[float], float]("tasks.sqrt_task", decode_sqrt)
"""The square root of a number."""
