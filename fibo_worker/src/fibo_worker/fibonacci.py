"""The arithmetic: exact Fibonacci numbers and their decimal digits. Pure, and unaware of tasks and limits."""

from __future__ import annotations

import gmpy2

__all__ = ["decimal", "fibonacci"]


def fibonacci(n: int) -> gmpy2.mpz:
    """Compute a Fibonacci number.

    Args:
        n: Its index, 0 or more. F(0) is 0 and F(1) is 1.

    Returns:
        F(n), exact. It is a GMP integer: turning it into an int and that into text would cost far more than
        computing it.
    """
    return gmpy2.fib(n)


def decimal(number: gmpy2.mpz) -> str:
    """Write a number in decimal digits.

    CPython's own conversion takes quadratic time and refuses more than 4,300 digits; GMP's does neither.

    Args:
        number: The number.

    Returns:
        Its digits.
    """
    return str(number.digits(10))
