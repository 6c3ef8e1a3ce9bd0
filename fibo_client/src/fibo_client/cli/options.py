"""The options that commands share."""

from __future__ import annotations

import math
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Backend",
    "Bare",
    "Broker",
    "Debug",
    "InspectTimeout",
    "Priority",
    "Queue",
    "Settings",
    "TaskId",
    "Timeout",
    "Traceback",
    "seconds",
]


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is no number of seconds")
    if value < 0:
        raise typer.BadParameter(f"{text} is less than 0 seconds")
    return value


def _seconds_or_inf(text: str) -> float:
    try:
        return math.inf if text == "inf" else seconds(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message}; 'inf' is no limit") from None


Broker = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--broker",
        metavar="URL",
        help="Where tasks are sent. Default: CELERY_BROKER_URL, else redis://localhost:6379/0.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--result-backend",
        metavar="URL",
        help="Where results are stored. Default: CELERY_RESULT_BACKEND, else the broker's URL.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting, such as redis.master_name=cache. Repeatable.",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="FIBO_DEBUG", help="Show the client's log, and Python's tracebacks.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write lines of JSON.")]
Bare = Annotated[bool, typer.Option("--bare", help="Write the answers alone.")]
Queue = Annotated[str | None, typer.Option("-Q", "--queue", metavar="NAME", help="The queue. Default: celery.")]
Priority = Annotated[
    int | None, typer.Option("--priority", min=0, max=9, metavar="0-9", help="0 is served first. Default: Celery's.")
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of a task that failed.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "-t",
        "--timeout",
        parser=_seconds_or_inf,
        metavar="SECONDS",
        help="How long to wait; 'inf' is no limit. Default: the setting timeout, 30.",
    ),
]
InspectTimeout = Annotated[
    float, typer.Option("-t", "--timeout", parser=seconds, metavar="SECONDS", help="How long workers may take.")
]
TaskId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of the task, or of a group that was saved.", show_default=False)
]
