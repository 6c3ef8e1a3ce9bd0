"""A chunk as a task: what is sent for its numbers, and how its answer is read: a value or an error for each number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.batching.packing import reply_bytes
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.signature import SendOptions
from fibo_client.contract import FIBONACCI, FIBONACCI_CHUNK, decode_item
from fibo_client.errors import ResultDecodeError

if TYPE_CHECKING:
    from fibo_client.batching.packing import Chunk
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Signature

Answer = int | Exception
"""One number's value or error."""

BULKY: Final = 32 * 1024
"""An answer of so many bytes or more is polled rather than pushed."""


class BatchOptions(NamedTuple):
    """How numbers are sent. Those with equal options may share chunks.

    Attributes:
        queue: The queue. None is the client's.
        priority: 0 to 9. None is the first priority for small numbers and the last one for large ones.
        stream: Whether a stream asks for them: it may hold its numbers back, and must not hold back others.
    """

    queue: str | None = None
    priority: int | None = None
    stream: bool = False


def signature(chunk: Chunk) -> Signature[Any]:
    """Make the task that computes a chunk. A number alone has the plain task, whose errors tell more.

    Args:
        chunk: The numbers.

    Returns:
        The task with its arguments.
    """
    return FIBONACCI(chunk.numbers[0]) if len(chunk.numbers) == 1 else FIBONACCI_CHUNK(chunk.numbers)


def send_options(chunk: Chunk, options: BatchOptions, last_priority: int, expires: float | None) -> SendOptions:
    """Make the options that a chunk is sent with.

    Args:
        chunk: The numbers.
        options: How they are sent.
        last_priority: The priority that the broker serves last.
        expires: Seconds until the task is not to be begun any more. None is never.

    Returns:
        The options.
    """
    priority = (last_priority if chunk.large else 0) if options.priority is None else options.priority
    chosen = SendOptions(priority=priority, ignore_result=False)
    if options.queue is not None:
        chosen["queue"] = options.queue
    if expires is not None:
        chosen["expires"] = expires
    return chosen


def is_bulky(chunk: Chunk) -> bool:
    """Tell whether the answer of a chunk is better polled than pushed.

    Args:
        chunk: The numbers.

    Returns:
        Whether it is.
    """
    return sum(map(reply_bytes, chunk.numbers)) > BULKY


def async_result(session: Session, chunk: Chunk, options: BatchOptions, task_id: str) -> AsyncResult[list[Any]]:
    """Make the result handle of a chunk that was sent.

    Args:
        session: The client's running parts.
        chunk: The numbers.
        options: How they were sent.
        task_id: The id of its task.

    Returns:
        The handle. Its value has an item for each number, which `decode` turns into the number or its error.
    """

    def items(result: Any) -> list[Any]:
        if len(chunk.numbers) == 1:
            return [result]
        if not isinstance(result, list) or len(result) != len(chunk.numbers):
            raise ValueError(f"it must be a list of {len(chunk.numbers)} items")
        return result

    queue = session.config.queue if options.queue is None else options.queue
    return AsyncResult(session, task_id, task=signature(chunk).task, queue=queue, decode=items, ignored=False)


def decode(item: Any, task_id: str) -> Answer:
    """Turn an item of a chunk's answer into a number or its error. This takes time in proportion to its length.

    Args:
        item: The item.
        task_id: The id of the task.

    Returns:
        The number; or the error with which it failed alone, or ResultDecodeError where the item is invalid.
    """
    try:
        return decode_item(item, task_id)
    except ValueError as error:
        return ResultDecodeError(str(error), task_id)
