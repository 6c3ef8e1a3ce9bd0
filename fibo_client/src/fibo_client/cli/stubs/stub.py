"""What a stub says of a task: a value, and the name that its module is known by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import inspect
    from collections.abc import Mapping, Sequence

__all__ = ["LINE_LENGTH", "MARK", "Stub"]

LINE_LENGTH: Final = 120

MARK: Final = "Written by fibo stubs"
"""Stands in the first line of what the command wrote, and so may overwrite."""


@dataclass(frozen=True, kw_only=True)
class Stub:
    """What a stub says of a task. Types, defaults and options are Python's text.

    Attributes:
        task: The task's name.
        function: The name of the stub.
        parameters: The task's parameters. Their annotations and defaults are text.
        returns: The type of the result.
        options: What each call is sent with, by Celery's names.
        doc: The first line of the task's docstring.
    """

    task: str
    function: str
    parameters: Sequence[inspect.Parameter] = ()
    returns: str = "Any"
    options: Mapping[str, str] = field(default_factory=dict)
    doc: str = ""
