"""How answers of tasks, and their errors, are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fibo_client.cli.console import escaped, json_default
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.runner import report_error
from fibo_client.errors import TaskError, TaskFailedError

if TYPE_CHECKING:
    from fibo_client.cli.console import Console
    from fibo_client.errors import ResultDecodeError

__all__ = ["write_error", "write_value"]


async def write_value(console: Console, task_id: str, value: Any) -> None:
    """Write what a task answered: text as it is, all else as JSON."""
    if console.as_json:
        await console.write_json(id=task_id, value=value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=json_default, ensure_ascii=False)
        await console.write(f"{escaped(text) if console.terminal else text}\n")


async def write_error(
    console: Console, task_id: str, error: TaskError | ResultDecodeError, *, traceback: bool, **more: Any
) -> ExitCode:
    """Write how a task failed.

    Args:
        console: Where to write.
        task_id: The id of what was asked for.
        error: What was raised.
        traceback: Whether to show the remote traceback.
        **more: More fields of the line of JSON.

    Returns:
        The exit status.
    """
    if not console.as_json:
        return report_error(console, error, traceback=traceback)
    fields: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, TaskError):
        fields["info"] = error.info
        if error.task_id != task_id:
            fields |= {"task": error.task, "task_id": error.task_id}
        if error.step is not None:
            fields["step"] = error.step
    fields |= more
    if isinstance(error, TaskFailedError):
        fields |= {"exc_type": error.exc_type, "exc_args": error.exc_args, "traceback": error.traceback}
    await console.write_json(id=task_id, **fields)
    return ExitCode.FAILED
