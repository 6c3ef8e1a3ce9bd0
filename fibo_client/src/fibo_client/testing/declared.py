"""Compare declared tasks with functions: those of a worker, and those that a test scripts. No Celery is imported."""

from __future__ import annotations

import inspect
from inspect import Parameter
from types import ModuleType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["check_declared"]

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_STARS: Final[Mapping[Any, str]] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_PLAIN: Final = (bool, int, float, str, bytes, list, dict, tuple, NoneType)
"""The types of a declared result that are compared. What stands for others in JSON is the affair of ``decode``."""


def check_declared(
    tasks: ModuleType | Iterable[RemoteTask[..., Any]], functions: Mapping[str, Callable[..., Any]]
) -> None:
    """Assert that a worker's functions take what declared tasks send them.

    ::

        def test_our_stubs_fit_the_worker():
            check_declared(stubs, app.tasks)

    A function that needs more, or takes less, than the declaration says does not fit, nor does one with another order,
    another name or another default. Options, results and annotations are not compared.

    Args:
        tasks: The declared tasks, or the module that has them as its attributes. A task whose parameters are not known
            only has to be there.
        functions: The worker's functions by their tasks' names, such as ``app.tasks`` of a Celery app whose modules are
            imported.

    Raises:
        AssertionError: Some do not fit. The message lists them.
        TypeError: There is no declared task, or one of them is none.
        ValueError: A function is written in C, and does not tell its parameters.
    """
    __tracebackhide__ = True  # Has pytest show the test's line.
    if isinstance(tasks, ModuleType):
        tasks = [each for each in vars(tasks).values() if isinstance(each, RemoteTask)]
    declared = list(tasks)
    if not declared:
        raise TypeError("there is no RemoteTask to compare")
    wrong = []
    for task in declared:
        if not isinstance(task, RemoteTask):
            raise TypeError(f"a RemoteTask is wanted, not {short_repr(task)}")
        if task.name not in functions:
            wrong.append(f"{task!r} is not there")
        elif task.parameters is not None:
            function = functions[task.name]
            takes = inspect.signature(getattr(function, "run", function))  # Celery's Task calls run.
            if said := _misfit(task.parameters, takes, strict=True):
                wrong.append(f"{task!r} does not fit {takes}: {said}")
    if wrong:
        lines = "\n".join(f"    {each}" for each in wrong)
        raise AssertionError(f"{len(wrong)} of {len(declared)} declared tasks do not fit the worker's:\n{lines}")


def check_function(task: RemoteTask[..., Any], function: Callable[..., Any], *, bind: bool) -> None:
    """Check that a function takes what is sent to a declared task. How it names its arguments does not matter.

    Args:
        task: The task.
        function: The function.
        bind: Whether the function's first argument is the running task.

    Raises:
        TypeError: It does not.
    """
    if task.parameters is None:
        return
    try:
        takes = inspect.signature(function)
    except (TypeError, ValueError):  # Some that are written in C do not tell.
        return
    parameters = list(takes.parameters.values())
    if bind and parameters and parameters[0].kind in _POSITIONAL:
        takes = takes.replace(parameters=parameters[1:])
    if said := _misfit(task.parameters, takes, strict=False):
        raise TypeError(f"the function {takes} does not fit {task!r}: {said}")


def check_answer(task: RemoteTask[..., Any], value: Any) -> None:
    """Check that a fixed answer is one that a declared task may give.

    Args:
        task: The task.
        value: The answer, as a worker's function returns it.

    Raises:
        TypeError: It is not.
    """
    if task.decode is not None:
        try:
            task.decode(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{task!r} cannot decode returns={short_repr(value)}: {error}") from None
        return
    annotation = _return_annotation(task)
    if not _may_be(value, annotation):
        raise TypeError(f"{task!r} does not answer returns={short_repr(value)}; a function may answer anything")


def _misfit(declared: inspect.Signature, takes: inspect.Signature, *, strict: bool) -> str | None:
    """Say why a function would not take all calls that are declared. If strict, by keyword and with equal defaults."""
    places: dict[str, set[str]] = {}
    for args, kwargs in _calls(declared, by_name=strict, many=len(takes.parameters) + 1):
        try:
            bound = takes.bind(*args, **kwargs)
        except TypeError as error:
            said = ", ".join(
                [*dict.fromkeys(args), *(name if name.startswith("*") else f"{name}=..." for name in kwargs)]
            )
            return f"called with ({said}): {error}"
        for place, sent in bound.arguments.items():
            if takes.parameters[place].kind is Parameter.VAR_KEYWORD:
                for each in sent.values():
                    places.setdefault(each, set()).add("**")
            elif takes.parameters[place].kind is not Parameter.VAR_POSITIONAL:
                places.setdefault(sent, set()).add(place)
    if not strict:
        return None
    wrong = (_misplaced(each, takes, places.get(each.name, set())) for each in declared.parameters.values())
    return next((each for each in wrong if each is not None), None)


def _calls(declared: inspect.Signature, *, by_name: bool, many: int) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Give the calls that show whether all fit: with each number of arguments by position, all others, and no others.

    Each argument has its own name as its value.

    Args:
        declared: The parameters.
        by_name: Whether positional arguments are given by their names, too.
        many: How many arguments there are for ``*args``.

    Yields:
        Positional and keyword arguments.
    """
    parameters = declared.parameters.values()
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    keyword_only = [each for each in parameters if each.kind is Parameter.KEYWORD_ONLY]
    more = {each.kind: _STARS.get(each.kind, "") + each.name for each in parameters}
    for count in range(len(positional) + 1):
        args = [each.name for each in positional[:count]]
        left = [each for each in positional[count:] if by_name or _is_needed(each)]
        if any(each.kind is Parameter.POSITIONAL_ONLY or not by_name for each in left if _is_needed(each)):
            continue  # What is needed must be given by position.
        named = [*(each for each in left if each.kind is Parameter.POSITIONAL_OR_KEYWORD), *keyword_only]
        yield args, {each.name: each.name for each in named if _is_needed(each)}
        extra = {more[Parameter.VAR_KEYWORD]: "**"} if Parameter.VAR_KEYWORD in more else {}
        yield args, {each.name: each.name for each in named} | extra
    if Parameter.VAR_POSITIONAL in more:
        args = [each.name for each in positional] + [more[Parameter.VAR_POSITIONAL]] * many
        yield args, {each.name: each.name for each in keyword_only}


def _misplaced(sent: Parameter, takes: inspect.Signature, places: set[str]) -> str | None:
    """Say what is wrong with where an argument arrives, or with its default there. ``...`` stands for any default."""
    by_name = sent.kind is Parameter.POSITIONAL_OR_KEYWORD
    if by_name and (others := places - {sent.name, "**"}):
        return f"it has {others.pop()} in the place of {sent.name}"
    if by_name and len(places) > 1:
        return f"it takes {sent.name} by position only"
    for place in places - {"**"}:
        default = takes.parameters[place].default
        if not _is_needed(sent) and sent.default is not ... and sent.default != default:
            return f"its default of {place} is {short_repr(default)}"
    return None


def _is_needed(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty


def _return_annotation(task: RemoteTask[..., Any]) -> Any:
    """Tell what a task is declared to return. Any, where that is not known."""
    stub = inspect.unwrap(task)
    try:
        return get_type_hints(stub).get("return", Any) if inspect.isfunction(stub) else Any
    except (NameError, AttributeError, TypeError, SyntaxError):  # It may name what only type checkers import.
        return Any


def _may_be(value: Any, annotation: Any) -> bool:
    """Tell whether a value may be of a type, as far as that is one of JSON's."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (UnionType, Union):
        return any(_may_be(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    kind = origin or annotation
    if kind not in _PLAIN:
        return True
    if kind in (list, tuple):  # JSON has no tuples.
        fits = isinstance(value, (list, tuple))
        return fits and (kind is tuple or not arguments or all(_may_be(each, arguments[0]) for each in value))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
