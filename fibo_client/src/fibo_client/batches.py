"""Many numbers at once: chunks that are sent together and owned by one call."""

from __future__ import annotations

import asyncio
import copy
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.result import collect
from fibo_client.celery.work import EXPIRY_MARGIN
from fibo_client.chunks import decode, handle, is_bulky, options, signature
from fibo_client.errors import FiboError, ResultTimeoutError
from fibo_client.packing import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.engine import Engine, Outcome
    from fibo_client.celery.transport.base import Parcel
    from fibo_client.chunks import Answer, Lane
    from fibo_client.packing import Chunk

_SLICE: Final = 256
"""How many small chunks are read before the event loop gets its turn."""

_PORTION: Final = 2500
"""How many numbers are packed before it does."""


async def compute_many(
    engine: Engine,
    numbers: Sequence[int],
    lane: Lane,
    *,
    chunk_size: int,
    timeout: float | None,
    return_exceptions: bool,
) -> list[Any]:
    """Compute many numbers. Equal ones are computed once.

    Args:
        engine: The client's running parts.
        numbers: Their indexes, checked before.
        lane: How they are sent.
        chunk_size: The most numbers in one chunk.
        timeout: Seconds for all of it. None is no limit.
        return_exceptions: Whether to put the error of a number that failed in its place.

    Returns:
        The numbers, in order.

    Raises:
        ResultTimeoutError: Not all came in time. Its `finished` has what did, by index.
        TaskError: One of them failed.
        ResultDecodeError: What is stored is not a result.
        TransportError: Not all was sent.
        MessageError: The queue's name cannot be one.
        ClientStateError: The client is not open here, or was closed meanwhile.
    """
    began = engine.check().time()
    if not numbers:
        return []
    chunks = await _pack(numbers, chunk_size)
    parcels = await _compose(engine, chunks, lane, None if timeout is None else timeout + EXPIRY_MARGIN)
    outcome = await engine.run(
        parcels,
        timeout=None if timeout is None else max(0.0, timeout - (engine.check().time() - began)),
        retry=True,
        bulky=any(map(is_bulky, chunks)),
        end_on_failure=not return_exceptions,
    )
    answers: dict[int, Answer] = {}
    late: list[ResultTimeoutError] = []
    for index, (chunk, parcel) in enumerate(zip(chunks, parcels, strict=True)):
        if is_bulky(chunk) or index % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)  # Turning text into numbers takes time, too.
        try:
            answers |= zip(chunk.numbers, _answers(engine, outcome, chunk, parcel), strict=True)
        except ResultTimeoutError as error:
            late.append(error)
        except FiboError as error:
            if not return_exceptions:
                raise
            answers |= {n: copy.copy(error) for n in chunk.numbers}
    finished = _in_order(numbers, answers, return_exceptions=return_exceptions)
    if late:
        raise ResultTimeoutError(
            task=late[0].task,
            task_ids=[task_id for error in late for task_id in error.task_ids],
            state=late[0].state,
            waited=late[0].waited,
            total=len(numbers),
            finished=finished,
            reason=late[0].reason,
        )
    return list(finished.values())


async def _pack(numbers: Sequence[int], chunk_size: int) -> list[Chunk]:
    """Pack distinct numbers into chunks: those of the first cost class, then those of the other."""
    distinct = iter(dict.fromkeys(numbers))
    chunks: list[Chunk] = []
    while portion := list(islice(distinct, _PORTION)):
        if chunks:
            await asyncio.sleep(0)
        chunks += pack(portion, chunk_size=chunk_size)
    return sorted(chunks, key=attrgetter("large"))


async def _compose(engine: Engine, chunks: Sequence[Chunk], lane: Lane, expires: float | None) -> list[Parcel]:
    """Build the messages of all chunks, in their order."""
    parcels: list[Parcel] = []
    for large in (False, True):
        alike = [chunk for chunk in chunks if chunk.large is large]
        if alike:
            chosen = options(alike[0], lane, engine.config.priority_steps, expires)
            parcels += await engine.composer.many([signature(chunk) for chunk in alike], chosen)
    return parcels


def _answers(engine: Engine, outcome: Outcome, chunk: Chunk, parcel: Parcel) -> list[Answer]:
    (items,) = collect(outcome, [handle(engine, chunk, parcel.task_id)], expiry_is_timeout=True)
    return [decode(item, parcel.task_id) for item in items]


def _in_order(numbers: Sequence[int], answers: dict[int, Answer], *, return_exceptions: bool) -> dict[int, Answer]:
    """Sort what came by its place in the request. The first failure is raised, unless they are asked for."""
    finished = {}
    for index, n in enumerate(numbers):
        if n in answers:
            answer = answers[n]
            if isinstance(answer, Exception) and not return_exceptions:
                answer.add_note(f"n = {n}")
                raise answer
            finished[index] = answer
    return finished
