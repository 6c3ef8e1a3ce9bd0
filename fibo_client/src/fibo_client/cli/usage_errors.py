"""Errors of usage: what is wrong with how a command was called, on lines that are broken at words on a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

import typer

from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.wrapping import columns, wrapped
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["usage_error", "wrapped_errors"]

_PREFIX = "Error: "


def usage_error(message: str) -> NoReturn:
    """End the command before it has begun, because it was called wrongly.

    Args:
        message: What is wrong, and what to write instead.

    Raises:
        Exit: Always.
    """
    typer.echo(wrapped(f"{_PREFIX}{printable(message)}", columns(sys.stderr)), err=True)
    raise typer.Exit(ExitCode.USAGE)


@runtime_checkable
class _ClickError(Protocol):
    """An error of click, whose classes are typer's own in some versions."""

    format_message: Callable[[], str]


@contextlib.contextmanager
def wrapped_errors() -> Iterator[None]:
    """Break the lines of click's own errors at words.

    Yields:
        None.

    Raises:
        Exception: Whatever is raised inside.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, _ClickError):
            text = wrapped(f"{_PREFIX}{error.format_message()}", columns(sys.stderr)).removeprefix(_PREFIX)
            error.format_message = lambda: text
        raise
