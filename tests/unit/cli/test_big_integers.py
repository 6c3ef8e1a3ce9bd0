import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client.cli.big_integers import decimal_digits, shortened


@given(st.integers(0, 2**20_000))
def test_digits_are_those_of_the_number(value):
    assert decimal_digits(value) == gmpy2.mpz(value).digits()


@pytest.mark.parametrize("bits", [1023, 1024, 1025, 2048, 3 * 1024, 5 * 1024 + 1, 100_000])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_digits_are_right_where_the_parts_meet(bits, off):
    value = 2**bits + off
    assert decimal_digits(value) == gmpy2.mpz(value).digits()


def test_two_million_digits_are_written_whole():
    value = gmpy2.fib(10_000_000)

    text = decimal_digits(int(value))

    assert len(text) == 2_089_877
    assert text == value.digits()


@given(st.integers(0, 2**20_000))
def test_a_short_form_has_the_ends_and_the_length(value):
    digits = gmpy2.mpz(value).digits()
    whole = len(digits) <= 60
    assert shortened(value) == (digits if whole else f"{digits[:20]}...{digits[-20:]} ({len(digits):,} digits)")


@pytest.mark.parametrize("power", [60, 61, 100, 1000, 100_000])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_short_form_counts_right_beside_powers_of_ten(power, off):
    value = 10**power + off
    digits = gmpy2.mpz(value).digits()
    if len(digits) > 60:
        assert shortened(value) == f"{digits[:20]}...{digits[-20:]} ({len(digits):,} digits)"


def test_a_short_form_can_be_hexadecimal():
    assert shortened(255, hexadecimal=True) == "ff"
    assert shortened(16**100, hexadecimal=True) == f"1{'0' * 19}...{'0' * 20} (101 hexadecimal digits)"
