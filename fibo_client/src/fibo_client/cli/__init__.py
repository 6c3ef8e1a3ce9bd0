"""The command line ``fibo``: the extra ``cli``. Nothing else in fibo_client imports typer or rich.

`app` declares the commands and imports nothing heavy: help, completion and usage errors must be quick. A command hands
a *job*, a coroutine over an open client, to `runner`, which turns signals and errors into messages and an exit status.
A job prints through its `console`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from fibo_client._version import __version__

__all__ = ["main"]


def main() -> None:
    """Run the command line, and end the process with its exit status."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler
    if ours:
        # Until `runner` sets its own: a KeyboardInterrupt in an import would show a traceback, or get lost.
        signal.signal(signal.SIGINT, _end_at_once)
    try:
        _main()
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _end_at_once(number: int, _frame: object) -> NoReturn:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # There may be no reader, or the stream is closed.
            os.write(sys.stderr.fileno(), b"Stopped.\n")  # The stream itself may be in use.
    os._exit(128 + number)


def _main() -> None:
    try:
        from fibo_client.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"fibo {__version__}\n")
            sys.exit(0)
        sys.stderr.write("Error: the command line needs typer and rich: pip install 'fibo-client[cli]'\n")
        sys.exit(2)
    app(prog_name="fibo")
