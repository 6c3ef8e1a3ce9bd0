"""Which numbers travel together: chunks of bounded cost. Pure.

A chunk keeps a worker's process busy for 10 ms at most, so that what waits behind it does not wait long, and its
reply is short enough for a client to decode between two events. Only a number that is more than that by itself is
an exception, and goes alone.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from fibo_client.contract import MAX_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COSTS", "LARGE_N", "MAX_COST", "MAX_REPLY", "Chunk", "cost", "is_large", "pack", "reply_bytes"]

MAX_COST: Final = 0.010
"""Seconds that the numbers of one chunk may cost a worker, by estimate."""

MAX_REPLY: Final = 256 * 1024
"""Bytes that the numbers of one chunk may add to its reply."""

LARGE_N: Final = 500_000
"""From this n on a number is large: by itself it costs a worker as much as running a task does, a millisecond."""

COSTS: Final = (
    (0, 6.0e-7),
    (1_000, 1.5e-6),
    (10_000, 1.0e-5),
    (100_000, 1.4e-4),
    (1_000_000, 2.6e-3),
    (10_000_000, 3.8e-2),
)
"""What a number costs a worker: n, and seconds, with straight lines between.

Measured by ``python -m tests.benchmarks.calibrate``, with Celery 5.7, gmpy2 2.3 and a Redis on the same machine,
a virtual one with two cores (AMD EPYC). While it was busy, all took half as long again: only the order of magnitude
matters.
"""

_NS: Final = tuple(n for n, _ in COSTS)
_SEGMENTS: Final = tuple((n, y, (z - y) / (m - n)) for (n, y), (m, z) in pairwise(COSTS))
_LAST: Final = len(_SEGMENTS)

# F(n) is phi**n / sqrt(5), rounded; its hexadecimal digits are a quarter of its bits.
_DIGITS_PER_N: Final = 0.1735604785  # log2((1 + sqrt(5)) / 2) / 4, rounded up
_DIGITS_LESS: Final = 0.2902  # log2(sqrt(5)) / 4, rounded down
_AROUND: Final = 5  # the digit before the point, two quotes, a comma and a space


class Chunk(NamedTuple):
    """Numbers that are computed by one task.

    Attributes:
        numbers: The numbers, in the order in which they were given.
        large: Whether they are large ones, which must not be in the way of small ones.
    """

    numbers: list[int]
    large: bool


def is_large(n: int) -> bool:
    """Tell to which of the two cost classes a number belongs.

    To run a task, whatever it does, costs a worker about a millisecond. A number below 500,000 costs less than that,
    and for its long reply shares a chunk with few of its like: what waits behind such a chunk waits about as long as
    behind any other task. From there on it would wait for the number, so these go to the lower of two priorities.

    Args:
        n: The index of a Fibonacci number.

    Returns:
        Whether it is large.
    """
    return n >= LARGE_N


def cost(n: int) -> float:
    """Estimate what a number costs a worker.

    Args:
        n: The index of a Fibonacci number.

    Returns:
        Seconds for which a worker's process is busy with it, the storing of the answer included. It never falls as n
        grows.
    """
    start, base, slope = _SEGMENTS[bisect_right(_NS, n, 1, _LAST) - 1]
    return base + slope * (n - start)


def reply_bytes(n: int) -> int:
    """Say how long the text of a number is in a reply.

    Args:
        n: The index of a Fibonacci number.

    Returns:
        Bytes of its hexadecimal digits in a JSON list, the quotes and the separator behind it included. It is never
        too few, and at most one too many.
    """
    return int(n * _DIGITS_PER_N - _DIGITS_LESS) + _AROUND


def pack(numbers: Iterable[int], *, chunk_size: int = MAX_CHUNK) -> list[Chunk]:
    """Put numbers into chunks that cost a worker no more than `MAX_COST`, with replies no longer than `MAX_REPLY`.

    Args:
        numbers: Indexes of Fibonacci numbers, in any order, with or without duplicates.
        chunk_size: The most numbers in a chunk, 1 to `MAX_CHUNK`.

    Returns:
        The chunks: those of small numbers, then those of large ones. Within each class the numbers keep their order. A
        number that is over a limit by itself is alone in its chunk.
    """
    given = list(numbers)
    small = [n for n in given if n < LARGE_N]
    chunks = [Chunk(some, large=False) for some in _split(small, chunk_size)] if small else []
    if len(small) < len(given):
        large = [n for n in given if n >= LARGE_N]
        chunks += [Chunk(some, large=True) for some in _split(large, chunk_size)]
    return chunks


def _split(numbers: list[int], size: int) -> list[list[int]]:
    top = max(numbers)
    if size * cost(top) <= MAX_COST and size * reply_bytes(top) <= MAX_REPLY:
        # The usual case: only their count limits them.
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]
    chunks: list[list[int]] = []
    chunk: list[int] = []
    seconds, length = 0.0, 0
    for n in numbers:
        # cost() and reply_bytes(), written out: this runs for each of 10,000 numbers while an event loop waits.
        start, base, slope = _SEGMENTS[bisect_right(_NS, n, 1, _LAST) - 1]
        seconds += (more_seconds := base + slope * (n - start))
        length += (more_length := int(n * _DIGITS_PER_N - _DIGITS_LESS) + _AROUND)
        if (seconds > MAX_COST or length > MAX_REPLY or len(chunk) == size) and chunk:
            chunks.append(chunk)
            chunk, seconds, length = [], more_seconds, more_length
        chunk.append(n)
    chunks.append(chunk)
    return chunks
