"""A chunk as a task: from its numbers to what is sent, and from the answer to a value or an error for each number."""

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
"""What became of one number."""

BULKY: Final = 32 * 1024
"""From so many bytes on an answer is polled rather than pushed."""


class Lane(NamedTuple):
    """How numbers are sent. Those in one lane may share chunks.

    Attributes:
        queue: The queue. None is the client's.
        priority: 0 to 9. None is the first priority for cheap numbers and the last one for dear ones.
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


def options(chunk: Chunk, lane: Lane, last_priority: int, expires: float | None) -> SendOptions:
    """Give the options that a chunk is sent with.

    Args:
        chunk: The numbers.
        lane: How they are sent.
        last_priority: The priority that the broker serves last.
        expires: Seconds until the task is not to be begun any more. None is never.

    Returns:
        The options.
    """
    priority = (last_priority if chunk.large else 0) if lane.priority is None else lane.priority
    chosen = SendOptions(priority=priority, ignore_result=False)
    if lane.queue is not None:
        chosen["queue"] = lane.queue
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


def handle(session: Session, chunk: Chunk, lane: Lane, task_id: str) -> AsyncResult[list[Any]]:
    """Make the handle of a chunk that is sent.

    Args:
        session: The client's running parts.
        chunk: The numbers.
        lane: How they were sent.
        task_id: The id of its task.

    Returns:
        The handle. Its answer has an item for each number, which `decode` turns into what became of it.
    """

    def items(result: Any) -> list[Any]:
        if len(chunk.numbers) == 1:
            return [result]
        if not isinstance(result, list) or len(result) != len(chunk.numbers):
            raise ValueError(f"it must be a list of {len(chunk.numbers)} items")
        return result

    queue = session.config.queue if lane.queue is None else lane.queue
    return AsyncResult(session, task_id, task=signature(chunk).task, queue=queue, decode=items, ignored=False)


def decode(item: Any, task_id: str) -> Answer:
    """Turn an item of a chunk's answer into what became of the number. It takes time in proportion to its length.

    Args:
        item: The item.
        task_id: The id of the task.

    Returns:
        The number; or the error with which it failed alone, be it that the item is none.
    """
    try:
        return decode_item(item, task_id)
    except ValueError as error:
        return ResultDecodeError(str(error), task_id)
