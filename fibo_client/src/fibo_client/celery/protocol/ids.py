"""Task ids, cut many at a time out of random bytes that are handed in."""

from __future__ import annotations

from typing import Final

ID_BYTES: Final = 16
"""How many random bytes make an id."""

_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DIGITS: Final = [place for place in range(_LENGTH) if place not in _DASHES]
_VERSION: Final = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))


def cut_ids(random: bytes) -> list[str]:
    """Cut ids out of random bytes.

    All of them are made together, column by column: one by one they would cost more than the messages around them.

    Args:
        random: Bytes that nobody can predict, `ID_BYTES` for each id.

    Returns:
        Version 4 UUIDs, as text.
    """
    data = bytearray(random)
    data[6::ID_BYTES] = data[6::ID_BYTES].translate(_VERSION)
    data[8::ID_BYTES] = data[8::ID_BYTES].translate(_VARIANT)
    digits = data.hex().encode()
    written = bytearray(b"-" * (len(data) // ID_BYTES * _LENGTH))
    for column, place in enumerate(_DIGITS):
        written[place::_LENGTH] = digits[column :: 2 * ID_BYTES]
    text = written.decode()
    return [text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH)]
