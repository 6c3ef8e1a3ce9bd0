"""The tasks of fibo-worker, for the double: the same answers, from plain Python."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fibo_client import contract

if TYPE_CHECKING:
    from collections.abc import Callable


def fibonacci(n: int) -> int:
    """Compute F(n), exact.

    Args:
        n: 0 or more.

    Returns:
        The number.
    """
    a, b = 0, 1  # F(0), F(1): from F(k) and F(k + 1) follow those of 2k, digit by digit of n.
    for digit in f"{n:b}":
        a, b = a * (2 * b - a), a * a + b * b
        if digit == "1":
            a, b = b, a + b
    return a


def answer_one(number: Callable[[Any], int], n: Any) -> str:
    """Answer `contract.FIBONACCI`.

    Args:
        number: Computes the number, or raises.
        n: The index.

    Returns:
        The number, encoded.
    """
    return contract.encode_number(number(n))


def answer_chunk(number: Callable[[Any], int], numbers: Any) -> list[str | dict[str, list[str]]]:
    """Answer `contract.FIBONACCI_CHUNK`.

    Args:
        number: Computes the number, or raises.
        numbers: The indexes.

    Returns:
        For each index the number, or the error, encoded.

    Raises:
        TypeError: They are not a list.
        ValueError: They are too many.
    """
    if not isinstance(numbers, list):
        raise TypeError(f"a chunk must be a list of integers, not {type(numbers).__name__}")
    if len(numbers) > contract.MAX_CHUNK:
        raise ValueError(f"a chunk must have at most {contract.MAX_CHUNK} numbers, not {len(numbers)}")
    answers: list[str | dict[str, list[str]]] = []
    for n in numbers:
        try:
            answers.append(answer_one(number, n))
        except Exception as error:  # noqa: BLE001 - whatever was scripted for a number is its answer
            answers.append(contract.encode_failure(error))
    return answers


def answer_sentence(number: Callable[[Any], int], task_id: str, n: Any) -> tuple[int, str]:
    """Answer `contract.FIBO_TASK`.

    Args:
        number: Computes the number, or raises.
        task_id: The id of the task.
        n: The index.

    Returns:
        The index, and a sentence.
    """
    # str() of an int refuses more than 4,300 digits; that of a Decimal does not.
    return n, contract.fibo_message(task_id, f"{Decimal(number(n)):f}")


def answer_sqrt(value: Any) -> float:
    """Answer `contract.SQRT_TASK`.

    Args:
        value: The number.

    Returns:
        Its root.
    """
    return math.sqrt(contract.check_sqrt(value))
