"""A chunk as a task: what is sent for its numbers, and how its answer is read: a value or an error for each number."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from fibo_client.celery.signature import Signature
from fibo_client.contract import FIBONACCI, FIBONACCI_CHUNK, decode_item
from fibo_client.errors import ResultDecodeError

if TYPE_CHECKING:
    from fibo_client.batching.packing import Chunk

Answer = int | Exception
"""One number's value or error."""


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


def signature(chunk: Chunk, options: BatchOptions, last_priority: int, *, decoded: bool) -> Signature[list[Any]]:
    """Make the task that computes a chunk. A number alone has the plain task, whose errors tell more.

    Args:
        chunk: The numbers.
        options: How they are sent.
        last_priority: The priority that the broker serves last.
        decoded: Whether its value has an `Answer` for each number, rather than an item for `decode`.

    Returns:
        The task with its arguments.
    """
    task_id = str(uuid.uuid4())  # Chosen here, for the errors of single numbers.
    priority = (last_priority if chunk.large else 0) if options.priority is None else options.priority
    chosen = {"task_id": task_id, "priority": priority}
    if options.queue is not None:
        chosen["queue"] = options.queue
    alone = len(chunk.numbers) == 1
    name, args = (FIBONACCI.name, (chunk.numbers[0],)) if alone else (FIBONACCI_CHUNK.name, (chunk.numbers,))
    return Signature(name, args, None, partial(_items, len(chunk.numbers), task_id if decoded else None), chosen)


def _items(count: int, task_id: str | None, result: Any) -> list[Any]:
    """Read the result of a chunk of so many numbers."""
    if count == 1:
        items = [result]
    elif isinstance(result, list) and len(result) == count:
        items = result
    else:
        raise ValueError(f"it must be a list of {count} items")
    if task_id is None:
        return items
    try:
        return [decode_item(item, task_id) for item in items]
    except ValueError:  # One is no number. It fails alone.
        return [decode(item, task_id) for item in items]


def decode(item: Any, task_id: str) -> Answer:
    """Turn an item of a chunk's result into a number or its error. This takes time in proportion to its length.

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
