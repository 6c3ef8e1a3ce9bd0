"""Compares the stubs of a module with those that its app would have now. Pure."""

from __future__ import annotations

import ast
from inspect import Parameter
from typing import TYPE_CHECKING, NamedTuple

from fibo_client.cli.stubs.writing import parameter_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fibo_client.cli.stubs.stub import Stub

__all__ = ["Difference", "differences"]

_OPTIONS = ("queue", "priority", "expires", "time_limit", "soft_time_limit", "compression")
"""What an app says of a task. Others, such as ``decode``, somebody wrote who knows more."""


class Difference(NamedTuple):
    """What is not so any more, of a task."""

    task: str
    text: str


def differences(written: Sequence[Stub], now: Sequence[Stub]) -> list[Difference]:
    """Compare stubs.

    Args:
        written: Those of the module.
        now: Those of the app.

    Returns:
        What has changed, by the task's name.
    """
    before, after = ({stub.task: stub for stub in each} for each in (written, now))
    found = []
    for task in sorted({*before, *after}):
        if task not in after:
            found.append(Difference(task, "the app has no such task any more"))
        elif task not in before:
            found.append(Difference(task, "is a new task"))
        else:
            found += [Difference(task, text) for text in _changes(before[task], after[task])]
    return found


def _changes(before: Stub, after: Stub) -> Iterator[str]:
    if before.function != after.function:
        yield f"its stub is called {after.function}, and was {before.function}"
    yield from _parameter_changes(before.parameters, after.parameters)
    if not _same(before.returns, after.returns):
        yield f"the result is {after.returns}, and was {before.returns}"
    for option in _OPTIONS:
        yield from _value_changes(f"the option {option}", before.options.get(option), after.options.get(option))


def _parameter_changes(written: Sequence[Parameter], now: Sequence[Parameter]) -> Iterator[str]:
    before, after = ({each.name: each for each in parameters} for parameters in (written, now))
    renamed = _renamed(before, after)
    for old, new in renamed.items():
        yield f"the parameter {old} is called {new} now"
    for name in before:
        if name not in after and name not in renamed:
            yield f"the parameter {name} is gone"
    for name, parameter in after.items():
        if name in before:
            yield from _one_parameter(before[name], parameter)
        elif name not in renamed.values():
            yield f"there is a new parameter: {parameter_text(parameter)}"
    old_order = [renamed.get(name, name) for name in before]
    common = [name for name in after if name in old_order]
    if common != [name for name in old_order if name in after]:
        yield f"the parameters are in another order: {', '.join(common)}"


def _renamed(before: Mapping[str, Parameter], after: Mapping[str, Parameter]) -> dict[str, str]:
    """Find parameters that have another name, but their place and all else."""
    return {
        old.name: new.name
        for old, new in zip(before.values(), after.values(), strict=False)
        if old.name not in after and new.name not in before and not list(_one_parameter(old, new))
    }


def _one_parameter(before: Parameter, after: Parameter) -> Iterator[str]:
    name = after.name
    if before.kind is not after.kind:
        yield f"the parameter {name} is {after.kind.description} now, and was {before.kind.description}"
    if not _same(before.annotation, after.annotation):
        yield f"the type of {name} is {after.annotation}, and was {before.annotation}"
    yield from _value_changes(f"the default of {name}", _default(before), _default(after))


def _value_changes(what: str, before: str | None, after: str | None) -> Iterator[str]:
    if before is None and after is not None:
        yield f"{what} is new: {after}"
    elif before is not None and after is None:
        yield f"{what} is gone; it was {before}"
    elif before is not None and after is not None and not _same(before, after):
        yield f"{what} is {after}, and was {before}"


def _default(parameter: Parameter) -> str | None:
    return None if parameter.default is Parameter.empty else parameter.default


def _same(one: str, other: str) -> bool:
    """Compare Python's text, however it is written."""
    return one == other or ast.unparse(ast.parse(one)) == ast.unparse(ast.parse(other))
