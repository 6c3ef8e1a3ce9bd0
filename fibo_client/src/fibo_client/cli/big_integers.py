"""Integers of any length as text.

CPython refuses to write integers of more than 4,300 decimal digits, and before 3.12 takes quadratic time. The module
`decimal` has no such limit, and multiplies long numbers quickly.
"""

from __future__ import annotations

import decimal
from typing import Final

__all__ = ["decimal_digits", "shortened"]

LONGEST: Final = 60
"""The most digits of a number that `shortened` shows whole."""

ENDS: Final = 20
"""Digits at each end of a shortened number."""

_LIMB: Final = 1024
_EXACT: Final = decimal.Context(
    prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[decimal.Inexact]
)
_ERROR: Final = decimal.Decimal("1e-70")
"""More than the rounding error of `_ROUGH`."""
_ROUGH: Final = decimal.Context(prec=80, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def decimal_digits(value: int) -> str:
    """Write a number, 0 or more, in decimal digits."""
    if value.bit_length() <= _LIMB:
        return str(value)
    data = value.to_bytes((value.bit_length() + 7) // 8, "little")
    size = _LIMB // 8
    limbs = [
        decimal.Decimal(int.from_bytes(data[start : start + size], "little")) for start in range(0, len(data), size)
    ]
    base = decimal.Decimal(1 << _LIMB)
    while len(limbs) > 1:
        if len(limbs) % 2:
            limbs.append(decimal.Decimal(0))
        limbs = [_EXACT.fma(high, base, low) for low, high in zip(limbs[::2], limbs[1::2], strict=True)]
        base = _EXACT.multiply(base, base) if len(limbs) > 1 else base
    return str(limbs[0])


def shortened(value: int, *, hexadecimal: bool = False) -> str:
    """Write a number, 0 or more, for people: a long one by its ends and its length, as ``43...75 (209 digits)``."""
    if hexadecimal:
        text = f"{value:x}"
        if len(text) <= LONGEST:
            return text
        return f"{text[:ENDS]}...{text[-ENDS:]} ({len(text):,} hexadecimal digits)"
    if value < 10**LONGEST:
        return str(value)
    # Computing the ends alone is much quicker than all digits.
    dropped = max(0, value.bit_length() - 512)
    about = _ROUGH.multiply(decimal.Decimal(value >> dropped), _ROUGH.power(2, dropped))
    (count, first), other = (_leading(_ROUGH.fma(about, error, about)) for error in (-_ERROR, _ERROR))
    if (count, first) != other:  # Rounding decides, as beside a power of ten.
        digits = decimal_digits(value)
        count, first = len(digits), digits[:ENDS]
    return f"{first}...{value % 10**ENDS:0{ENDS}d} ({count:,} digits)"


def _leading(value: decimal.Decimal) -> tuple[int, str]:
    return value.adjusted() + 1, "".join(map(str, value.as_tuple().digits[:ENDS]))
