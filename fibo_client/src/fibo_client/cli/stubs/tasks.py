"""Makes stubs of an app's tasks. It knows Celery's app, router and task by the names of their attributes alone."""

from __future__ import annotations

import inspect
import math
import sys
import textwrap
import typing
from datetime import timedelta
from inspect import Parameter
from typing import Any, Final

from fibo_client.celery import RemoteTask
from fibo_client.cli.stubs.annotations import accepts, parameter_type, result_type
from fibo_client.cli.stubs.literals import literal, quoted
from fibo_client.cli.stubs.names import function_names
from fibo_client.cli.stubs.stub import LINE_LENGTH, Stub
from fibo_client.cli.stubs.writing import parameter_text
from fibo_client.errors import MessageError
from fibo_client.text import printable, short_repr

__all__ = ["stubs_of"]

_LONGEST_DOC: Final = 100
_DEFAULT_QUEUE: Final = "celery"
_ASKED: Final = ("queue", "exchange", "routing_key", "priority", "expires", "compression")
"""The attributes of a task that Celery sends each call with. Its worker knows the time limits, so a stub need not."""
_GZIP: Final = ("gzip", "application/x-gzip")
"""What kombu calls the one compression that the client has. Without it, a message is larger, and that is all."""
_UNRESOLVED: Final = (ArithmeticError, AttributeError, LookupError, NameError, SyntaxError, TypeError, ValueError)
"""What the evaluation of an annotation may raise: most often, its name is imported for type checkers only."""


def stubs_of(app: Any) -> tuple[list[Stub], list[str]]:
    """Make a stub of each task of an app that is not Celery's own.

    Args:
        app: The app, with all its tasks.

    Returns:
        The stubs, by their tasks' names, and what to tell the user.
    """
    tasks = {name: task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")}
    names = function_names(tasks)
    stubs, notes = [], []
    for name, task in tasks.items():
        options, note = _options(app, name, task)
        stub = _stub(name, names[name], task, options)
        reason = _why_none(stub)
        if reason:
            note = f"it has no stub, because {reason}"
        else:
            stubs.append(stub)
        if note:
            notes.append(f"{printable(name)}: {note}")
    return stubs, notes


def _why_none(stub: Stub) -> str:
    """Say why a stub cannot be declared: a module with it could not be imported. Empty if it can."""
    if stub.parameters and stub.parameters[0].name == "self":
        return "it takes `self` from its caller; is bind=True missing?"
    try:
        RemoteTask(stub.task)
    except MessageError as error:
        return str(error)
    return ""


def _stub(name: str, function: str, task: Any, options: dict[str, str]) -> Stub:
    signature = _signature(task.run)
    globals_ = getattr(inspect.unwrap(task.run), "__globals__", {})
    returns = result_type(_evaluated(signature.return_annotation, globals_))
    return Stub(
        task=name,
        function=function,
        parameters=[_parameter(each, globals_) for each in signature.parameters.values()],
        returns=returns if len(f"def {function}() -> {returns}: ...") <= LINE_LENGTH else "Any",
        options=options,
        doc=_first_line(task),
    )


def _signature(run: Any) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            return inspect.signature(run, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(run)
    except (TypeError, ValueError):  # A function in C may have none.
        return inspect.Signature(
            [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
        )


def _parameter(parameter: Parameter, globals_: dict[str, Any]) -> Parameter:
    text = parameter.replace(annotation=parameter_type(_evaluated(parameter.annotation, globals_)))
    if parameter.default is not Parameter.empty:
        if parameter.default is None and not accepts(text.annotation, None):
            text = text.replace(annotation=f"{text.annotation} | None")
        default = literal(parameter.default)
        known = default is not None and accepts(text.annotation, parameter.default)
        text = text.replace(default=default if known else "...")
    # What is longer than a line would have to be broken within.
    if _is_long(text) and text.default is not Parameter.empty:
        text = text.replace(default="...")
    return text.replace(annotation="Any") if _is_long(text) else text


def _is_long(parameter: Parameter) -> bool:
    return len(f"    {parameter_text(parameter)},") > LINE_LENGTH


def _evaluated(annotation: Any, globals_: dict[str, Any]) -> Any:
    """Evaluate an annotation that is text, and names in it that are."""
    if annotation is Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, globals_, include_extras=True)["it"]
    except _UNRESOLVED:
        return Any


def _first_line(task: Any) -> str:
    lines = inspect.cleandoc(task.run.__doc__ or task.__doc__ or "").splitlines()
    return printable(textwrap.shorten(lines[0], _LONGEST_DOC, placeholder=" ..."), None) if lines else ""


class _RouteError(Exception):
    """The app's router raised."""


def _options(app: Any, name: str, task: Any) -> tuple[dict[str, str], str]:
    """Ask what Celery would send each call with, and note what a stub cannot say of it."""
    own = {each: value for each in _ASKED if (value := getattr(task, each, None)) is not None}
    note = ""
    try:
        route = _route(app, name, task, own)
        if route.get("queue") is None and (route.get("exchange") or route.get("routing_key")):
            note = "its route names an exchange or a routing key, but no queue, and neither does its stub"
    except _RouteError as error:
        route = own
        note = f"its route depends on more than its name ({error}), and its stub has only what the task itself says"
    queue = route.get("queue") or (None if note else app.conf.task_default_queue)
    queue = getattr(queue, "name", queue)
    options = {} if queue in (None, _DEFAULT_QUEUE) else {"queue": quoted(queue)}
    for each in ("priority", "expires", "time_limit", "soft_time_limit"):
        number = _number(route.get(each))
        # Celery's client takes more priorities than there are, and makes the nearest of each.
        text = None if number is None or (each == "priority" and number not in range(10)) else literal(number)
        if text is not None:
            options[each] = text
    if route.get("compression") in _GZIP:
        options["compression"] = quoted("gzip")
    return options, note


def _route(app: Any, name: str, task: Any, given: dict[str, Any]) -> dict[str, Any]:
    try:
        route = app.amqp.router.route(dict(given), name, task_type=task)
    except Exception as error:
        raise _RouteError(short_repr(error)) from error
    return route if isinstance(route, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < math.inf else None
