"""Usage errors: wrong calls of a command, wrapped at words on a terminal."""

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
    """End the command with a message: it was called wrongly. Raises Exit."""
    typer.echo(wrapped(f"{_PREFIX}{printable(message)}", columns(sys.stderr)), err=True)
    raise typer.Exit(ExitCode.USAGE)


@runtime_checkable
class _ClickError(Protocol):
    """An error of click, whose classes some versions of typer bring themselves."""

    format_message: Callable[[], str]


@contextlib.contextmanager
def wrapped_errors() -> Iterator[None]:
    """Wrap the messages of click's own errors at words."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _ClickError):
            text = wrapped(f"{_PREFIX}{error.format_message()}", columns(sys.stderr)).removeprefix(_PREFIX)
            error.format_message = lambda: text
        raise
