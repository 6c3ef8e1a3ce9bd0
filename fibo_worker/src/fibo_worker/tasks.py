"""The tasks: check the argument, compute, encode. `fibo_client.contract` has their names and shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from fibo_client import contract
from fibo_worker.fibonacci import decimal, fibonacci

if TYPE_CHECKING:
    from celery import Celery

__all__ = [
    "CHUNK_BUDGET",
    "fibo_task",
    "fibonacci_chunk",
    "fibonacci_task",
    "register",
    "sqrt_task",
]

CHUNK_BUDGET: Final = contract.DEFAULT_MAX_N
"""The largest sum of the numbers of one chunk, or the worker's largest n if that is more. The size of an answer grows
with n, so the answer of a chunk is no larger than that of the largest single number."""

_WHOSE: Final = "the worker's FIBO_MAX_N"
_RESULT_IN_LOG: Final = 20
"""How many characters of an answer Celery logs. Its default would log pages of digits for each second of work."""


def register(app: Celery, *, max_n: int = contract.DEFAULT_MAX_N) -> None:
    """Register the tasks with a Celery app.

    Args:
        app: The worker's own app, or an app of yours that hosts these tasks beside others.
        max_n: The largest n to compute.
    """

    def fibo(task: Any, value: Any) -> tuple[int, str]:
        return fibo_task(value, task_id=task.request.id, max_n=max_n)

    def one(n: Any) -> str:
        return fibonacci_task(n, max_n=max_n)

    def many(numbers: Any) -> list[str | dict[str, list[str]]]:
        return fibonacci_chunk(numbers, max_n=max_n)

    # shared=False: a shared task would appear in every other app of the process, too, with the limit of this one.
    app.task(fibo, name=contract.FIBO_TASK.name, bind=True, shared=False, resultrepr_maxsize=_RESULT_IN_LOG)
    app.task(sqrt_task, name=contract.SQRT_TASK.name, shared=False, resultrepr_maxsize=_RESULT_IN_LOG)
    app.task(one, name=contract.FIBONACCI.name, shared=False, resultrepr_maxsize=_RESULT_IN_LOG)
    app.task(many, name=contract.FIBONACCI_CHUNK.name, shared=False, resultrepr_maxsize=_RESULT_IN_LOG)


def fibo_task(value: Any, *, task_id: str, max_n: int = contract.DEFAULT_MAX_N) -> tuple[int, str]:
    """Compute a Fibonacci number and put it into a sentence.

    Args:
        value: The index.
        task_id: The id of the task that computes it.
        max_n: The largest index that is allowed.

    Returns:
        The index, and the sentence with the number in decimal digits.

    Raises:
        TypeError: The index is not an integer.
        ValueError: The index is negative, or larger than `max_n`.
    """
    n = contract.check_n(value, max_n, _WHOSE)
    return n, contract.fibo_message(task_id, decimal(fibonacci(n)))


def sqrt_task(value: Any) -> float:
    """Compute a square root.

    Args:
        value: The number.

    Returns:
        Its root.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative, infinite, not a number, or too large for a float.
    """
    return math.sqrt(contract.check_sqrt(value))


def fibonacci_task(n: Any, *, max_n: int = contract.DEFAULT_MAX_N) -> str:
    """Compute a Fibonacci number.

    Args:
        n: The index.
        max_n: The largest index that is allowed.

    Returns:
        The number, encoded as the contract says.

    Raises:
        TypeError: The index is not an integer.
        ValueError: The index is negative, or larger than `max_n`.
    """
    return contract.encode_number(fibonacci(contract.check_n(n, max_n, _WHOSE)))


def fibonacci_chunk(numbers: Any, *, max_n: int = contract.DEFAULT_MAX_N) -> list[str | dict[str, list[str]]]:
    """Compute several Fibonacci numbers. A bad index does not affect the others.

    Args:
        numbers: The indexes.
        max_n: The largest index that is allowed.

    Returns:
        For each index the number, or the error, encoded as the contract says.

    Raises:
        TypeError: It is not a list.
        ValueError: The list is too long, or the sum of its numbers is too large.
    """
    if not isinstance(numbers, list):
        raise TypeError(f"a chunk must be a list of integers, not {type(numbers).__name__}")
    if len(numbers) > contract.MAX_CHUNK:
        raise ValueError(f"a chunk must have at most {contract.MAX_CHUNK} numbers, not {len(numbers)}")
    checked = [_check(n, max_n) for n in numbers]
    budget = max(max_n, CHUNK_BUDGET)
    total = sum(n for n in checked if isinstance(n, int))
    if total > budget:
        raise ValueError(f"the numbers of a chunk must add up to at most {budget}, not {total}")
    return [contract.encode_number(fibonacci(n)) if isinstance(n, int) else contract.encode_failure(n) for n in checked]


def _check(n: Any, max_n: int) -> int | Exception:
    try:
        return contract.check_n(n, max_n, _WHOSE)
    except (TypeError, ValueError) as error:
        return error
