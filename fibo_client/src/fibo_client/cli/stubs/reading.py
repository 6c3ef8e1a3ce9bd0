"""Reads stubs from the text of a module. No code of it is run. Pure."""

from __future__ import annotations

import ast
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from fibo_client.cli.stubs.stub import MARK, Stub

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_written_here", "read_stubs"]


def is_written_here(text: str) -> bool:
    """Tell whether the command wrote a text, and so may overwrite it. An empty one is nobody's."""
    return not text.strip() or MARK in text.partition("\n")[0]


def read_stubs(text: str) -> list[Stub]:
    """Read the stubs of a module, however it is laid out.

    Args:
        text: The module.

    Returns:
        The stubs, in their order.

    Raises:
        SyntaxError: It is no Python.
    """
    found = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            match call:
                case ast.Call(ast.Name("remote_task"), [ast.Constant(str(task)), *_], keywords):
                    found.append(_stub(node, task, keywords))
    return found


def _stub(node: ast.FunctionDef, task: str, keywords: list[ast.keyword]) -> Stub:
    return Stub(
        task=task,
        function=node.name,
        parameters=tuple(_parameters(node.args)),
        returns=_text(node.returns),
        options={each.arg: ast.unparse(each.value) for each in keywords if each.arg is not None},
    )


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    for index, (each, default) in enumerate(zip(positional, defaults, strict=True)):
        only = index < len(arguments.posonlyargs)
        yield _parameter(each, Parameter.POSITIONAL_ONLY if only else Parameter.POSITIONAL_OR_KEYWORD, default)
    if arguments.vararg:
        yield _parameter(arguments.vararg, Parameter.VAR_POSITIONAL)
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(each, Parameter.KEYWORD_ONLY, default)
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, Parameter.VAR_KEYWORD)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None = None) -> Parameter:
    return Parameter(
        argument.arg,
        kind,
        default=Parameter.empty if default is None else ast.unparse(default),
        annotation=_text(argument.annotation),
    )


def _text(annotation: ast.expr | None) -> str:
    return "Any" if annotation is None else ast.unparse(annotation)
