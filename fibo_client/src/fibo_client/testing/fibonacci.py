"""The tasks of fibo-worker, for the double: the same answers in plain Python."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fibo_client import contract

if TYPE_CHECKING:
    from collections.abc import Callable


def fibonacci(n: int) -> int:
    """Compute F(n), exact, for n from 0."""
    a, b = 0, 1  # Fast doubling: F(k), F(k + 1) give F(2k), F(2k + 1), bit by bit of n.
    for digit in f"{n:b}":
        a, b = a * (2 * b - a), a * a + b * b
        if digit == "1":
            a, b = b, a + b
    return a


def answer_one(number: Callable[[Any], int], n: Any) -> str:
    """Answer `contract.FIBONACCI`. `number` computes F(n), or raises."""
    return contract.encode_number(number(n))


def answer_chunk(answer: Callable[[Any], int | Exception], numbers: Any) -> list[str | dict[str, list[str]]]:
    """Answer `contract.FIBONACCI_CHUNK`: for each index the number or the error. Raises as the worker does."""
    if not isinstance(numbers, list):
        raise TypeError(f"a chunk must be a list of integers, not {type(numbers).__name__}")
    if len(numbers) > contract.MAX_CHUNK:
        raise ValueError(f"a chunk must have at most {contract.MAX_CHUNK} numbers, not {len(numbers)}")
    return [
        contract.encode_failure(each) if isinstance(each, Exception) else contract.encode_number(each)
        for each in map(answer, numbers)
    ]


def answer_sentence(number: Callable[[Any], int], task_id: str, n: Any) -> tuple[int, str]:
    """Answer `contract.FIBO_TASK`: the index, and a sentence."""
    # str() refuses ints of more than 4,300 digits, and takes Decimals.
    return n, contract.fibo_message(task_id, f"{Decimal(number(n)):f}")


def answer_sqrt(value: Any) -> float:
    """Answer `contract.SQRT_TASK`."""
    return math.sqrt(contract.check_sqrt(value))
