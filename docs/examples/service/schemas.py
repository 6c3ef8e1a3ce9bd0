"""What comes in and what goes out."""

import re
import sys
from typing import Annotated, Self

from fastapi import HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from .settings import settings

Index = Annotated[int, Field(ge=0, le=settings.max_n, description="F(0) is 0, F(1) is 1.")]


class Wanted(BaseModel):
    """Numbers to compute."""

    # Strict: 4.0, "4" and true are no numbers here.
    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [{"n": [4, 3, 8, 6, 10]}]})

    n: list[Index] = Field(min_length=1, max_length=settings.max_numbers)


class Fibonacci(BaseModel):
    """One Fibonacci number.

    It is text, because a JSON number above 2**53 is not exact in JavaScript. It is hexadecimal, because decimal digits
    take long: 0.3 ms for F(20,000), during which the event loop does nothing else, against 5 µs. Read it with
    `int(value, 16)` in Python, and with `BigInt(value)` in JavaScript.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 10, "value": "0x37"}]})

    n: int
    value: str = Field(pattern="^0x[0-9a-f]+$")

    @classmethod
    def of(cls, n: int, value: int) -> Self:
        return cls(n=n, value=hex(value))


class Fibonaccis(BaseModel):
    """Fibonacci numbers, in the order in which they were asked for."""

    results: list[Fibonacci]


SPAN = re.compile(r"(\d+)(?:-(\d+)(?:/(\d+))?)?", re.ASCII)


async def expand(
    n: Annotated[
        list[str], Query(description="Numbers `8`, ranges with both their ends `0-100`, or in steps `0-20000/500`.")
    ],
) -> list[int]:
    """Make numbers of the `n` of a query."""
    try:
        spans = [read_span(text) for text in n]
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    if (count := sum(map(len, spans))) > settings.max_numbers:
        raise HTTPException(400, f"At most {settings.max_numbers:,} numbers at a time, not {count:,}.")
    return [number for span in spans for number in span]


def read_span(text: str) -> range:
    found = SPAN.fullmatch(text)
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    if found is None:
        raise ValueError(f"“{shown}” is neither a number nor a range such as 0-100 or 0-20000/500.")
    # Python makes no number of more than 4,300 digits.
    digits = (found[1], found[2] or found[1], found[3] or "1")
    first, last, step = (int(each) if len(each) < 19 else sys.maxsize for each in digits)
    if max(first, last) > settings.max_n:
        raise ValueError(f"{shown} is too large. The largest n is {settings.max_n:,}.")
    if first > last or step == 0:
        raise ValueError(f"{shown} has no numbers in it.")
    return range(first, last + 1, step)
