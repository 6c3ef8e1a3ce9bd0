"""Many calls of a task in one message: Celery's own task ``celery.starmap``, which every worker knows. Pure."""

from __future__ import annotations

from inspect import Parameter
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.signature import Signature
from fibo_client.errors import MessageError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.signature import RemoteTask

__all__ = ["STARMAP", "check_chunk_size", "check_chunkable", "chunk_of", "positional"]

STARMAP: Final = "celery.starmap"
"""The task that calls another one with each of many lists of arguments, one after the other."""

_OF_ONE_CALL: Final = ("task_id", "argsrepr", "kwargsrepr", "shadow")
"""Options that cannot be those of several calls."""


def check_chunk_size(size: object) -> int:
    """Check how many calls may share a message.

    Args:
        size: The number.

    Returns:
        The number.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less than 1.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"chunk_size must be an integer, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"chunk_size must be 1 or more, not {size}")
    return size


def check_chunkable(task: str | RemoteTask[..., Any]) -> RemoteTask[..., Any]:
    """Check that a task may be called in chunks.

    Args:
        task: The task, or its name, where it is not declared.

    Returns:
        The task.

    Raises:
        MessageError: It is not declared as chunkable.
    """
    if isinstance(task, str) or not task.chunkable:
        name = task if isinstance(task, str) else task.name
        raise MessageError(
            f"{printable(name)} cannot be called in chunks unless it is declared for that, as "
            "RemoteTask(..., chunkable=True): in a chunk it must not use its own request, retry, raise Ignore, tell "
            "progress or rely on limits of its own, and all calls of a failed chunk fail"
        )
    return task


def positional(signature: Signature[Any]) -> Sequence[Any]:
    """Give the arguments of a call by their positions, as a chunk takes them.

    Args:
        signature: The call.

    Returns:
        The arguments.

    Raises:
        MessageError: Its task is not declared as chunkable, it has options of its own that a chunk cannot have, or its
            keyword arguments have no position.
        TypeError: The arguments do not fit the task's parameters.
    """
    declared = signature.remote_task
    if declared is not None and declared.chunkable and not (signature.kwargs or signature.options):
        return signature.args  # Nearly all are so.
    task = check_chunkable(signature.remote_task or signature.task)
    if "task_id" in signature.options:
        raise MessageError("a chunk has one id for all of its calls; with task_id, use chunk_size=1")
    if not signature.kwargs:
        return signature.args
    if task.parameters is None:
        raise MessageError(
            f"{signature.task} takes only positional arguments in a chunk: its parameters are not known. Declare it by "
            "a stub with @remote_task, or use chunk_size=1"
        )
    bound = task.parameters.bind(*signature.args, **signature.kwargs)
    given = list(bound.arguments)
    parameters = task.parameters.parameters
    keywords = [name for name in given if parameters[name].kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)]
    if keywords:
        raise MessageError(
            f"{signature.task} takes {', '.join(keywords)} by keyword only, and a chunk has positional arguments; "
            "use chunk_size=1"
        )
    if not bound.kwargs:
        return bound.args
    # Defaults fill the gaps before the last argument that was given. What comes after that is left to the worker.
    bound.apply_defaults()
    last = list(parameters).index(given[-1])
    missing = [name for name, value in list(bound.arguments.items())[:last] if value is ...]
    if missing:
        raise MessageError(
            f"{signature.task} needs {', '.join(missing)}, too, in a chunk, which has positional arguments: its stub "
            "says `...` for the default"
        )
    return bound.args[: last + 1]


def chunk_of(first: Signature[Any], arguments: Sequence[Sequence[Any]]) -> Signature[list[Any]]:
    """Make one task of many calls of the same task with the same options.

    Args:
        first: The first of the calls.
        arguments: The arguments of each, from `positional`.

    Returns:
        The task with its arguments. Its answer is a list of what each call returned.
    """
    count = len(arguments)

    def check(result: Any) -> list[Any]:
        if not isinstance(result, list) or len(result) != count:
            raise ValueError(f"it must be a list of {count} items")
        return result

    options = {name: value for name, value in first.options.items() if name not in _OF_ONE_CALL}
    # A log line with hundreds of arguments helps nobody, and they may be hidden.
    options["kwargsrepr"] = f"{{'task': {first.task!r}, 'it': <{count} calls>}}"
    called: dict[str, Any] = {
        "task": first.task,
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    return Signature(STARMAP, (), {"task": called, "it": arguments}, check, options)
