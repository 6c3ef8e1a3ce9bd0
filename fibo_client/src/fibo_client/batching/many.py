"""Many numbers at once: chunks that are sent together and owned by one call."""

from __future__ import annotations

import asyncio
import copy
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from fibo_client.batching.chunk import async_result, decode, is_bulky, send_options, signature
from fibo_client.batching.packing import pack
from fibo_client.celery.jobs import EXPIRY_MARGIN
from fibo_client.celery.result import collect, value_of
from fibo_client.errors import FiboError, ResultTimeoutError
from fibo_client.validation import check_index, check_indexes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from fibo_client.batching.chunk import Answer, BatchOptions
    from fibo_client.batching.packing import Chunk
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.session import Session
    from fibo_client.telemetry.tracer import SendSpan

_PORTION: Final = 2500
"""How many numbers are looked at before the event loop gets its turn."""


async def compute_many(
    session: Session,
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
        session: The client's running parts.
        ns: Their indexes.
        options: How they are sent.
        max_n: The largest index that is allowed.
        chunk_size: The most numbers in one chunk.
        timeout: Seconds for all of it. None is no limit.
        return_exceptions: Whether to put the error of a number that failed in its place.

    Returns:
        The numbers, in order.

    Raises:
        TypeError: One of them is not an integer, or they are not iterable.
        ValueError: One of them is negative, or larger than `max_n`.
        ResultTimeoutError: Not all came in time. Its `finished` has what did, by index.
        TaskError: One of them failed.
        ResultDecodeError: What is stored is not a result.
        TransportError: Not all was sent.
        MessageError: The queue's name cannot be one.
        ClientStateError: The client is not open here, or was closed meanwhile.
        FiboError: Whatever else a chunk may end with.
    """
    began = session.check().time()
    numbers = [check_index(n, max_n) async for portion in _portions(check_indexes(ns)) for n in portion]
    if not numbers:
        return []
    chunks = await _pack(numbers, chunk_size)
    expires = None if timeout is None else timeout + EXPIRY_MARGIN
    span = session.start_send(
        send_options(chunks[0], options, session.broker.last_priority, expires), batch=len(chunks) > 1
    )
    messages = await _encode(session, chunks, options, expires, span)
    sent = {
        message.id: (chunk, async_result(session, chunk, options, message.id))
        for chunk, message in zip(chunks, messages, strict=True)
    }
    answers: dict[int, Answer] = {}

    def arrived(task_id: str, answer: TaskMeta | Exception) -> None:
        # Turning text into numbers takes time, too: it is done while others are still computed.
        chunk, result = sent[task_id]
        try:
            items = value_of(answer, result.task, result.decode)
        except FiboError:
            return  # For `collect`, which knows more.
        answers.update(zip(chunk.numbers, [decode(item, task_id) for item in items], strict=True))

    outcome = await session.run(
        messages,
        span,
        timeout=timeout,
        retry=True,
        bulky=any(map(is_bulky, chunks)),
        end_on_failure=not return_exceptions,
        on_answer=arrived,
        began=began,
    )
    late: list[ResultTimeoutError] = []
    for chunk, result in sent.values():
        if chunk.numbers[0] in answers:
            continue
        try:
            collect(outcome, [result], expiry_is_timeout=True)
        except ResultTimeoutError as error:
            late.append(error)
        except FiboError as error:
            if not return_exceptions:
                raise
            answers |= {n: copy.copy(error) for n in chunk.numbers}
    finished = await _in_order(numbers, answers, return_exceptions=return_exceptions)
    if late:
        raise ResultTimeoutError(
            task=late[0].task,
            task_ids=[task_id for error in late for task_id in error.task_ids],
            queue=late[0].queue,
            state=late[0].state,
            waited=late[0].waited,
            total=len(numbers),
            finished=finished,
            reason=late[0].reason,
            published=late[0].published,
            looks=late[0].looks,
            unread=late[0].unread,
            no_worker=late[0].no_worker,
            ignored=late[0].ignored,
            decoded=late[0].decoded,
        )
    return list(finished.values())


async def _portions(values: Iterable[int]) -> AsyncIterator[list[int]]:
    """Give some numbers at a time, and the event loop its turn in between."""
    left = iter(values)
    while portion := list(islice(left, _PORTION)):
        yield portion
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


async def _encode(
    session: Session, chunks: Sequence[Chunk], options: BatchOptions, expires: float | None, span: SendSpan
) -> list[TaskMessage]:
    """Encode the messages of all chunks, in their order."""
    messages: list[TaskMessage] = []
    for large in (False, True):
        alike = [chunk for chunk in chunks if chunk.large is large]
        if alike:
            chosen = send_options(alike[0], options, session.broker.last_priority, expires)
            messages += await session.encoder.many([signature(chunk) for chunk in alike], chosen, span)
    return messages


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
