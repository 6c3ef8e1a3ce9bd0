"""Writes stubs as a module, laid out as ``ruff format`` would leave it with 120 columns. Pure."""

from __future__ import annotations

import re
from inspect import Parameter
from typing import TYPE_CHECKING

from fibo_client.cli.stubs.annotations import MODULES, names
from fibo_client.cli.stubs.literals import quoted
from fibo_client.cli.stubs.stub import LINE_LENGTH, MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fibo_client.cli.stubs.stub import Stub

__all__ = ["module_text", "parameter_text"]

_INDENT = "    "


def module_text(stubs: Sequence[Stub], app: str) -> str:
    """Write a module.

    Args:
        stubs: The stubs, in their order.
        app: Where the app is, as ``module:attribute``.

    Returns:
        The text, with a newline at its end.
    """
    # A stub has no body: mypy would miss its result. What nobody annotated is Any, of which basedpyright warns.
    head = [f'"""The Celery tasks of {app}. {MARK}; do not edit."""', ""]
    head += ['# mypy: disable-error-code="empty-body"', "# pyright: basic", ""]
    imports = _imports(stubs)
    if imports:
        head += [*imports, ""]
    head.append("from fibo_client.celery import remote_task")
    return "\n\n\n".join(["\n".join(head), *map(_stub, stubs)]) + "\n"


def _imports(stubs: Iterable[Stub]) -> list[str]:
    used = {name for stub in stubs for text in _types(stub) for name in names(text)}
    found = {module: ", ".join(name for name in each if name in used) for module, each in MODULES.items()}
    return [f"from {module} import {each}" for module, each in found.items() if each]


def _types(stub: Stub) -> list[str]:
    return [stub.returns, *(each.annotation for each in stub.parameters)]


def _stub(stub: Stub) -> str:
    options = [f"{name}={value}" for name, value in stub.options.items()]
    decorator = _call("@remote_task(", [quoted(stub.task), *options], ")")
    ending = f") -> {stub.returns}:"
    if not stub.doc:
        return f"{decorator}\n{_call(f'def {stub.function}(', _parameters(stub.parameters), f'{ending} ...')}"
    definition = _call(f"def {stub.function}(", _parameters(stub.parameters), ending)
    return f'{decorator}\n{definition}\n{_INDENT}"""{_docstring(stub.doc)}"""\n{_INDENT}...'


def _call(begin: str, parts: Sequence[str], end: str) -> str:
    """Lay out what stands in parentheses: on one line, on one of its own, or on one for each part."""
    inner = ", ".join(parts)
    if not parts or len(begin) + len(inner) + len(end) <= LINE_LENGTH:
        return f"{begin}{inner}{end}"
    if len(_INDENT) + len(inner) <= LINE_LENGTH and not (len(parts) == 1 and begin.startswith("def ")):
        return f"{begin}\n{_INDENT}{inner}\n{end}"
    return "\n".join([begin, *(f"{_INDENT}{part}," for part in parts), end])


def _parameters(parameters: Sequence[Parameter]) -> list[str]:
    parts = []
    for index, each in enumerate(parameters):
        before = parameters[index - 1].kind if index else None
        if before is Parameter.POSITIONAL_ONLY is not each.kind:
            parts.append("/")
        if each.kind is Parameter.KEYWORD_ONLY and before not in (Parameter.KEYWORD_ONLY, Parameter.VAR_POSITIONAL):
            parts.append("*")
        parts.append(parameter_text(each))
    if parameters and parameters[-1].kind is Parameter.POSITIONAL_ONLY:
        parts.append("/")
    return parts


def parameter_text(parameter: Parameter) -> str:
    """Write a parameter, with its type and its default."""
    stars = (
        "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**" if parameter.kind is Parameter.VAR_KEYWORD else ""
    )
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    return text if parameter.default is Parameter.empty else f"{text} = {parameter.default}"


def _docstring(line: str) -> str:
    # Of the quotes only those that would end it.
    quotes = re.compile(r'"{3,}|^"+|"+$')
    return quotes.sub(lambda found: '\\"' * len(found[0]), line.replace("\\", "\\\\"))
