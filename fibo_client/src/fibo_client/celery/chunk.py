"""Many calls of a task in one message: Celery's own tasks, which every worker knows. Pure."""

from __future__ import annotations

from inspect import Parameter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fibo_client.celery.canvas import Group
from fibo_client.celery.signature import Signature
from fibo_client.errors import MessageError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fibo_client.celery.remote_tasks import RemoteTask

__all__ = [
    "MAP",
    "STARMAP",
    "called_by",
    "check_chunk_size",
    "check_chunkable",
    "chunk_of",
    "chunks_of",
    "map_of",
    "positional",
    "starmap_of",
]

R = TypeVar("R")

MAP: Final = "celery.map"
"""The task that calls another one with each of many values, one after the other."""

STARMAP: Final = "celery.starmap"
"""The task that calls another one with each of many lists of arguments, one after the other."""

_OF_ONE_CALL: Final = ("task_id", "argsrepr", "kwargsrepr", "shadow")
"""Options that cannot be those of several calls."""

_OF_MANY: Final = (MAP, STARMAP)


def check_chunk_size(size: object, name: str = "chunk_size") -> int:
    """Check how many calls may share a message.

    Args:
        size: The number.
        name: What the caller calls it.

    Returns:
        The number.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less than 1.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an integer, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"{name} must be 1 or more, not {size}")
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
            "progress or rely on limits of its own, and all calls of a failed chunk fail. group() or call_many() sends "
            "a message for each call"
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
    return _in_one(STARMAP, first.task, arguments, None, first.options)


def map_of(task: RemoteTask[..., R], values: Iterable[Any]) -> Signature[list[R]]:
    """Make one task of calls with one argument each. See `RemoteTask.map`."""
    check_chunkable(task)
    given = []
    for value in values:
        task.check_arguments((value,), {})
        given.append(value)
    return _in_one(MAP, task.name, given, task.decode, task.options)


def starmap_of(task: RemoteTask[..., R], calls: Iterable[Sequence[Any]]) -> Signature[list[R]]:
    """Make one task of calls with several arguments each. See `RemoteTask.starmap`."""
    check_chunkable(task)
    given = []
    for args in calls:
        if not isinstance(args, (list, tuple)):
            raise TypeError(
                f"the arguments of each call must be a list or a tuple, not {type(args).__name__}; "
                "map() is for values that are the only argument"
            )
        task.check_arguments(args, {})
        given.append(args)
    return _in_one(STARMAP, task.name, given, task.decode, task.options)


def chunks_of(task: RemoteTask[..., R], calls: Iterable[Sequence[Any]], size: int) -> Group[list[R]]:
    """Share calls among messages. See `RemoteTask.chunks`."""
    check_chunkable(task)
    check_chunk_size(size, "n")
    left = iter(calls)
    return Group(tuple(starmap_of(task, some) for some in iter(lambda: list(islice(left, size)), [])))


def called_by(signature: Signature[Any]) -> str:
    """Return the name of the task that is called. Of a chunk, that is not Celery's own task, which calls it."""
    name = signature.task
    if name in _OF_MANY and isinstance(called := (signature.kwargs or {}).get("task"), dict):
        found = called.get("task")
        return found if isinstance(found, str) else name
    return name


def _in_one(
    kind: str,
    task: str,
    calls: Sequence[Any],
    decode: Callable[[Any], R] | None,
    own_options: Mapping[str, Any],
) -> Signature[list[R]]:
    """Make Celery's own task that makes many calls. It takes no result of a step before it."""
    count = len(calls)

    def check(result: Any) -> list[R]:
        if not isinstance(result, list) or len(result) != count:
            raise ValueError(f"it must be a list of {count} items")
        return result if decode is None else [decode(each) for each in result]

    options = {name: value for name, value in own_options.items() if name not in _OF_ONE_CALL}
    # A log line with hundreds of arguments helps nobody, and they may be hidden.
    options["kwargsrepr"] = f"{{'task': {task!r}, 'it': <{count} calls>}}"
    called: dict[str, Any] = {
        "task": task,
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    return Signature(kind, (), {"task": called, "it": calls}, check, options, is_immutable=True)
