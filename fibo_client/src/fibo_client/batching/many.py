"""Many numbers at once: chunks that are sent together and owned by one call."""

from __future__ import annotations

import asyncio
import copy
from itertools import islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from fibo_client.batching.chunk import signature
from fibo_client.batching.packing import pack
from fibo_client.errors import FiboError, ResultTimeoutError
from fibo_client.validation import check_index, check_indexes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from fibo_client.batching.chunk import Answer, BatchOptions
    from fibo_client.batching.packing import Chunk
    from fibo_client.celery.client import CeleryClient

_PORTION: Final = 2500
"""How many numbers are looked at before the event loop gets its turn."""


async def compute_many(
    celery: CeleryClient,
    ns: Iterable[int],
    options: BatchOptions,
    *,
    max_n: int,
    chunk_size: int,
    timeout: float | None,
    return_exceptions: bool,
) -> list[Any]:
    """Compute many numbers. Equal ones are computed once.

    Args:
        celery: The client.
        ns: Their indexes.
        options: How they are sent.
        max_n: The largest index that is allowed.
        chunk_size: The most numbers in one chunk.
        timeout: Seconds for all of it. None is no limit.
        return_exceptions: Whether to put the error of a number that failed, or gave no answer in time, in its place.

    Returns:
        The numbers, in order.

    Raises:
        TypeError: One of them is not an integer, or they are not iterable.
        ValueError: One of them is negative, or larger than `max_n`.
        ResultTimeoutError: Not all came in time. Its `finished` has what did, by index.
        FiboError: Whatever else a chunk may end with. See `CeleryClient.call_many`.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    numbers = [check_index(n, max_n) async for portion in _portions(check_indexes(ns)) for n in portion]
    if not numbers:
        return []
    chunks = await _pack(numbers, chunk_size)
    signatures = [signature(chunk, options, celery.last_priority, decoded=True) for chunk in chunks]
    answers: dict[int, Answer] = {}
    late: ResultTimeoutError | None = None
    try:
        outcomes: Iterable[tuple[int, Any]] = enumerate(
            await celery.call_many(
                signatures,
                timeout=None if timeout is None else max(0.0, timeout - (clock() - began)),
                retry=True,
                return_exceptions=return_exceptions,
            )
        )
    except ResultTimeoutError as error:
        late, outcomes = error, error.finished.items()
    for place, outcome in outcomes:
        ns_of_chunk = chunks[place].numbers
        each = repeat(outcome, len(ns_of_chunk)) if isinstance(outcome, FiboError) else outcome
        answers.update(zip(ns_of_chunk, each, strict=True))
    finished = await _in_order(numbers, answers, return_exceptions=return_exceptions)
    if late is not None:
        raise late.replace(total=len(numbers), finished=finished, waited=clock() - began) from None
    return list(finished.values())


async def _portions(values: Iterable[int]) -> AsyncIterator[list[int]]:
    """Give some numbers at a time, and the event loop its turn in between."""
    left = iter(values)
    while portion := list(islice(left, _PORTION)):
        yield portion
        if len(portion) == _PORTION:
            await asyncio.sleep(0)


async def _pack(numbers: Sequence[int], chunk_size: int) -> list[Chunk]:
    """Pack distinct numbers into chunks: those of the first cost class, then those of the other."""
    distinct: dict[int, None] = {}
    chunks: list[Chunk] = []
    async for portion in _portions(numbers):
        new = [n for n in dict.fromkeys(portion) if n not in distinct]
        distinct |= dict.fromkeys(new)
        chunks += pack(new, chunk_size=chunk_size)
    return sorted(chunks, key=attrgetter("large"))


async def _in_order(
    numbers: Sequence[int], answers: dict[int, Answer], *, return_exceptions: bool
) -> dict[int, Answer]:
    """Sort what came by its place in the request. The first failure is raised, unless they are asked for."""
    finished: dict[int, Answer] = {}
    start = 0
    async for portion in _portions(numbers):
        for index, n in enumerate(portion, start):
            if n in answers:
                answer = answers[n]
                if isinstance(answer, Exception):
                    answer = copy.copy(answer)
                    if not return_exceptions:
                        answer.add_note(f"n = {n}")
                        raise answer
                finished[index] = answer
        start += len(portion)
    return finished
