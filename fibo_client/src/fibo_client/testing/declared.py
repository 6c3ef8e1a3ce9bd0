"""Compare declared tasks with functions: those of a worker, and those that a test scripts. No Celery is imported."""

from __future__ import annotations

import inspect
from inspect import Parameter
from types import ModuleType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from fibo_client.celery.signature import RemoteTask
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["check_declared"]

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
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
            if said := _misfits(task.parameters, takes, strict=True):
                wrong.append(f"{task!r} does not fit {takes}: {'; '.join(said)}")
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
    if said := _misfits(task.parameters, takes, strict=False):
        raise TypeError(f"the function {takes} does not fit {task!r}: {'; '.join(said)}")


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


def _misfits(declared: inspect.Signature, takes: inspect.Signature, *, strict: bool) -> list[str]:
    """Say which calls that are declared a function would not take. If strict, with names and defaults."""
    sends, has = list(declared.parameters.values()), list(takes.parameters.values())
    kinds = {each.kind for each in has}
    places = [each for each in has if each.kind in _POSITIONAL]
    names = {each.name: each for each in has if each.kind in _NAMED}
    said: list[str] = []
    filled: set[str] = set()
    for index, each in enumerate(each for each in sends if each.kind in _POSITIONAL):
        place = places[index] if index < len(places) else None
        if place is None and Parameter.VAR_POSITIONAL not in kinds:
            said.append(f"it takes no {each.name} by position")
        elif place is not None:
            filled.add(place.name)
            said += _defaults(each, place, strict=strict)
        if strict and each.kind is Parameter.POSITIONAL_OR_KEYWORD:
            said += _name(each, place, names, open_names=Parameter.VAR_KEYWORD in kinds)
    for each in sends:
        if each.kind is Parameter.KEYWORD_ONLY:
            if each.name in names:
                filled.add(each.name)
                said += _defaults(each, names[each.name], strict=strict)
            elif Parameter.VAR_KEYWORD not in kinds:
                said.append(f"it takes no {each.name} by keyword")
        elif each.kind not in _POSITIONAL and each.kind not in kinds:
            said.append(f"it takes no {'*' if each.kind is Parameter.VAR_POSITIONAL else '**'}{each.name}")
    needed = [each.name for each in has if each.kind in (*_POSITIONAL, Parameter.KEYWORD_ONLY) and _is_needed(each)]
    return said + [f"it needs {name}, which is not declared" for name in needed if name not in filled]


def _name(sent: Parameter, place: Parameter | None, names: Mapping[str, Parameter], *, open_names: bool) -> list[str]:
    """Say why an argument that may be sent by its name, too, does not arrive by that at its place."""
    if place is not None and place.name != sent.name:
        return [f"it has {place.name} in the place of {sent.name}"]
    if sent.name in names or (place is None and open_names):
        return []
    return [f"it takes {sent.name} by position only"]


def _defaults(sent: Parameter, taken: Parameter, *, strict: bool) -> list[str]:
    """Say what is wrong with the default of an argument. A declared ``...`` is a default that only the worker knows."""
    if _is_needed(sent):
        return []
    if _is_needed(taken):
        return [f"it needs {taken.name}, which is declared with a default"]
    if strict and sent.default is not ... and sent.default != taken.default:
        return [f"its default of {taken.name} is {short_repr(taken.default)}"]
    return []


def _is_needed(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty


def _return_annotation(task: RemoteTask[..., Any]) -> Any:
    """Tell what a task is declared to return. Any, where that is not known."""
    stub = inspect.unwrap(task)
    try:
        return get_type_hints(stub).get("return", Any) if inspect.isfunction(stub) else Any
    except Exception:  # noqa: BLE001 - evaluating annotations may raise anything: names that only type checkers import
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
