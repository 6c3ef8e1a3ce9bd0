"""The arithmetic: exact Fibonacci numbers and their decimal digits. Pure; it knows no tasks and no limits."""

from __future__ import annotations

import gmpy2

__all__ = ["decimal", "fibonacci"]


def fibonacci(n: int) -> gmpy2.mpz:
    """Compute F(n), exact, for n of 0 or more; F(0) is 0 and F(1) is 1."""
    # A GMP integer: to convert it to an int, and that to text, would take far longer than to compute it.
    return gmpy2.fib(n)


def decimal(number: gmpy2.mpz) -> str:
    """Write a number in decimal digits."""
    # CPython's own conversion takes quadratic time and refuses more than 4,300 digits; GMP's does neither.
    return str(number.digits(10))
