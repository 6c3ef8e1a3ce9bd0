"""``fibo stubs``: loads an app, and writes its stubs or compares them with those that were written."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from fibo_client.cli.console import Console, escaped
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.stubs.drift import differences
from fibo_client.cli.stubs.loading import AppError, load_app
from fibo_client.cli.stubs.reading import is_written_here, read_stubs
from fibo_client.cli.stubs.tasks import stubs_of
from fibo_client.cli.stubs.writing import module_text
from fibo_client.cli.usage_errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.cli.stubs.stub import Stub

__all__ = ["stubs"]


def stubs(app: str, output: str | None, *, check: bool, debug: bool) -> int:
    """Write the stubs of an app's tasks, or compare them. Usage errors end the command.

    Args:
        app: The app, as ``module:attribute``.
        output: The file. None is the standard output.
        check: Whether to compare the file with the app, and leave it as it is.
        debug: Whether to show the traceback of an import that fails.

    Returns:
        The exit status.
    """
    if check and output is None:
        usage_error("--check compares a file with the app; say --out FILE")
    written = "" if output is None else _read(output, check=check)
    name, found, notes = _loaded(app, debug=debug)
    try:
        console = Console()
    except OSError as error:
        usage_error(f"the stubs cannot be written: {error}")
    for note in notes:
        console.info(note)
    try:
        if check and output is not None:
            return _compare(console, name, output, written, found)
        text = module_text(found, name)
        if output is None:
            console.write_blocking(text)
        else:
            Path(output).write_text(text, encoding="utf-8", newline="\n")
            console.info(f"Wrote {output}: {_count(len(found))}.")
    except BrokenPipeError:
        return 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        console.error(f"the stubs cannot be written: {error}")
        return ExitCode.FAILED
    return ExitCode.OK


def _read(output: str, *, check: bool) -> str:
    """Read what is in the file now. One that somebody else wrote is compared, but not overwritten."""
    try:
        text = Path(output).read_text(encoding="utf-8")
    except FileNotFoundError:
        if check:
            usage_error(f"there is no {output} to compare; write it first, without --check")
        return ""
    except OSError as error:
        usage_error(f"{output} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        usage_error(f"{output} is no text in UTF-8, and stays as it is; name another file")
    if not check and not is_written_here(text):
        usage_error(f"{output} was not written by fibo stubs, and stays as it is; name another file")
    return text


def _loaded(app: str, *, debug: bool) -> tuple[str, list[Stub], list[str]]:
    try:
        # What the app prints meanwhile is no part of the stubs.
        with contextlib.redirect_stdout(sys.stderr):
            name, loaded = load_app(app)
            found, notes = stubs_of(loaded)
    except AppError as error:
        hint = ""
        if error.__cause__ is not None:
            if debug:
                traceback.print_exception(error.__cause__)
            else:
                hint = ". --debug shows the traceback"
        usage_error(f"{error}{hint}")
    if not found:
        usage_error(f"{name} has no tasks of its own; does it import the modules of its tasks (imports, include)?")
    return name, found, notes


def _compare(console: Console, name: str, output: str, written: str, found: Sequence[Stub]) -> ExitCode:
    try:
        drifted = differences(read_stubs(written), found)
    except SyntaxError as error:
        usage_error(f"{output} is no Python: {error}")
    if not drifted:
        console.info(f"{output} is as {name} has it: {_count(len(found))}.")
        return ExitCode.OK
    console.write_blocking("".join(f"{escaped(each.task)}: {escaped(each.text)}\n" for each in drifted))
    tasks = len({each.task for each in drifted})
    console.error(f"{output} has drifted from {name}, in {_count(tasks)}; write it again, without --check")
    return ExitCode.FAILED


def _count(tasks: int) -> str:
    return "1 task" if tasks == 1 else f"{tasks} tasks"
