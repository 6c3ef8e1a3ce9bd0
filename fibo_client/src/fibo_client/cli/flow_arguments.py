"""Reads the flow that ``fibo call`` is to run: from ``--then``, or from JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery import RemoteTask, chain, group
from fibo_client.cli.usage_errors import usage_error
from fibo_client.errors import MessageError
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery import Flow, Signature

__all__ = ["composed", "flow_of", "read_flow", "step_of"]

_FIELDS: Final = frozenset({"task", "args", "kwargs", "options", "immutable"})

_FORM: Final = (
    'a flow is a task, as "proj.add" or {"task": "proj.add", "args": [2], "kwargs": {}, "options": {}, "immutable": '
    'false}, or {"chain": [...]} or {"group": [...]} of flows'
)


def composed(
    task: str | None, args: Sequence[Any], kwargs: dict[str, Any], then: Sequence[str], path: str | None
) -> Flow[Any]:
    """Compose the flow of a command line. Usage errors end the command.

    Args:
        task: The first task.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        then: The values of ``--then``.
        path: The value of ``--flow``, which stands in place of all these: a file of JSON, or ``-`` for standard input.

    Returns:
        The flow: a signature where it is a single task.
    """
    if path is not None:
        if task is not None or args or kwargs or then:
            usage_error("--flow says all that is run: no TASK, no --args, no --kwargs, no --then")
        try:
            return read_flow(_text(path))
        except OSError as error:
            usage_error(f"--flow {path} cannot be read: {error.strerror or error}")
        except ValueError as error:
            usage_error(f"--flow {path}: {error}")
    if task is None:
        usage_error("say which TASK to call, or give a flow by --flow")
    try:
        first = RemoteTask[..., Any](task)(*args, **kwargs)
        return chain(first, *map(step_of, then)) if then else first
    except ValueError as error:
        usage_error(str(error))


def _text(path: str) -> str:
    if path == "-":
        if sys.stdin is None:
            usage_error("there is no input to read --flow from")
        return sys.stdin.read()
    return Path(path).read_text(encoding="utf-8")


def step_of(text: str) -> Signature[Any]:
    """Read a value of ``--then``: a task's name, then a JSON list or object with its arguments.

    Args:
        text: The value, such as ``proj.add [2]``.

    Returns:
        The step.

    Raises:
        ValueError: It is not that.
    """
    name, _, arguments = text.strip().partition(" ")
    try:
        given = json.loads(arguments) if arguments.strip() else []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--then {name}: what follows the name is not JSON: {error}") from None
    if not isinstance(given, (list, dict)):
        raise ValueError(f"--then {name}: the arguments are a list or an object, as in --then '{name} [2]'")
    args, kwargs = (given, {}) if isinstance(given, list) else ([], given)
    return RemoteTask[..., Any](name)(*args, **kwargs)


def read_flow(text: str) -> Flow[Any]:
    """Read a flow from JSON.

    Args:
        text: The JSON.

    Returns:
        The flow.

    Raises:
        ValueError: It is no flow.
    """
    try:
        return flow_of(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def flow_of(value: Any) -> Flow[Any]:
    """Make a flow from decoded JSON.

    Args:
        value: A task, a chain or a group.

    Returns:
        The flow.

    Raises:
        ValueError: It is no flow.
    """
    match value:
        case str():
            return RemoteTask[..., Any](value)()
        case {"chain": list(steps), **rest} if not rest:
            return chain(*map(flow_of, steps))
        case {"group": list(members), **rest} if not rest:
            return group(map(flow_of, members))
        case {"task": str(name), **rest} if rest.keys() < _FIELDS:
            return _task(name, rest)
    raise ValueError(f"{_FORM}; not {short_repr(value)}")


def _task(name: str, given: Mapping[Any, Any]) -> Flow[Any]:
    args, kwargs, options = given.get("args", []), given.get("kwargs", {}), given.get("options", {})
    immutable = given.get("immutable", False)
    for what, value, kind in (("args", args, list), ("kwargs", kwargs, dict), ("options", options, dict)):
        if not isinstance(value, kind):
            wanted = "a list" if kind is list else "an object"
            raise ValueError(f"{name}: {what} must be {wanted}, not {short_repr(value)}")
    if not isinstance(immutable, bool):
        raise ValueError(f"{name}: immutable must be true or false, not {short_repr(immutable)}")
    try:
        task = RemoteTask[..., Any](name)(*args, **kwargs).with_options(**options)
    except (TypeError, MessageError) as error:
        raise ValueError(f"{name}: {error}") from None
    return task.immutable() if immutable else task
