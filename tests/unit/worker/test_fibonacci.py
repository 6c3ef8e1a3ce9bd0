import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_worker.fibonacci import decimal, fibonacci


def plain_loop(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def test_the_sequence_begins_with_zero_and_one():
    assert [fibonacci(n) for n in range(13)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]


@given(st.integers(0, 3000))
def test_every_number_is_the_one_that_a_plain_loop_finds(n):
    assert fibonacci(n) == plain_loop(n)


@given(st.integers(0, 3000))
def test_decimal_digits_are_those_of_python(n):
    assert decimal(fibonacci(n)) == str(plain_loop(n))


@given(st.integers(2, 2_000_000))
def test_a_number_is_the_sum_of_the_two_before_it(n):
    assert fibonacci(n) == fibonacci(n - 1) + fibonacci(n - 2)


def test_decimal_digits_are_not_bound_by_pythons_limit():
    number = fibonacci(100_000)

    digits = decimal(number)

    assert len(digits) == 20899 > sys.get_int_max_str_digits()
    with pytest.raises(ValueError, match="Exceeds the limit"):
        str(int(number))
