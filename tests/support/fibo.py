"""The commands ``fibo`` and ``fibo-worker``, run in the test's own process.

``fibo`` gets descriptors 0, 1 and 2 of its own, as a program does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
from subprocess import CompletedProcess
from typing import TYPE_CHECKING
from unittest import mock

from click.testing import CliRunner

from fibo_client.cli import main
from fibo_worker.cli import main as worker_main
from support.terminal import HOW, NOT_HOW, Screen, terminal
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from click.testing import Result


def fibo(url: str, *arguments: str, stdin: str | None = None, **env: str) -> CompletedProcess[str]:
    """Run a command with files for its input and outputs.

    Args:
        url: What CELERY_BROKER_URL says.
        *arguments: Those of the command.
        stdin: What it can read. None is nothing.
        **env: Variables to add to its environment.

    Returns:
        Its status and output, as of a program.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write((stdin or "").encode())
        for file in files:
            file.seek(0)
        status = run(arguments, [file.fileno() for file in files], {"CELERY_BROKER_URL": url, **env})
        out, err = (_read(file) for file in files[1:])
    return CompletedProcess(("fibo", *arguments), status, out, err)


def fibo_worker(*arguments: str, **env: str) -> Result:
    """Run a command of ``fibo-worker``.

    Args:
        *arguments: Its arguments.
        **env: Variables to add to its environment.

    Returns:
        How it ended.
    """
    # `health` has it end a process that hangs, which here is that of the tests.
    with mock.patch("faulthandler.dump_traceback_later"):
        return CliRunner().invoke(worker_main, arguments, env=env)


def fibo_on_screen(
    url: str, *arguments: str, columns: int = 80, rows: int = 24, encoding: str = "utf-8", **env: str
) -> tuple[int, Screen]:
    """Run a command on a terminal.

    Args:
        url: What CELERY_BROKER_URL says.
        *arguments: Those of the command.
        columns: The width of the terminal.
        rows: Its height.
        encoding: What the interpreter takes the terminal's to be.
        **env: Variables to add to its environment.

    Returns:
        Its exit status, and its screen.
    """
    with terminal(columns, rows) as (descriptor, screen):
        env = {"CELERY_BROKER_URL": url, **HOW, **env}
        status = run(arguments, [descriptor] * 3, env, encoding=encoding)
    return status, screen


def run(
    arguments: Sequence[str], descriptors: Sequence[int], env: Mapping[str, str], *, encoding: str = "utf-8"
) -> int:
    """Run a command on these descriptors, and give its exit status."""
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.object(sys, "argv", ["fibo", *arguments]),
        mock.patch.object(sys, "excepthook", sys.excepthook),  # Typer sets one.
        _standard(descriptors, encoding),
    ):
        for name in NOT_HOW:
            if name not in env:
                os.environ.pop(name, None)
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    raise AssertionError("a command ends by SystemExit")


@contextlib.contextmanager
def signalled(sig: signal.Signals, when: Callable[[], object]) -> Iterator[None]:
    """Send this process a signal, once a command in the block handles it and `when` is true."""
    main_thread = threading.main_thread().ident
    over = threading.Event()
    sent = []

    def nobodys(*_: object) -> None:
        """Ignore a signal before or after the command."""

    def watch() -> None:
        while not over.wait(0.005):
            if signal.getsignal(sig) is not nobodys and when():
                sent.append(sig)
                signal.pthread_kill(main_thread, sig)
                return

    before = signal.signal(sig, nobodys)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        signal.signal(sig, before)
    assert sent, "the command was over before it could be stopped"


@contextlib.contextmanager
def revocation(log: Path) -> Iterator[list[str]]:
    """Wait, after the block, until a worker logs that it was told to revoke tasks: those put into the list, or any."""
    before = len(log.read_text(errors="replace"))
    task_ids: list[str] = []
    yield task_ids

    def arrived() -> bool:
        text = log.read_text(errors="replace")[before:]
        return all(re.search(f"revoked.*{task_id}", text) for task_id in task_ids or [""])

    until(arrived, "no revocation came")


@contextlib.contextmanager
def _standard(descriptors: Sequence[int], encoding: str) -> Iterator[None]:
    """Replace descriptors 0, 1 and 2, and the standard streams on them."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(number) for number in range(3)]
    streams = sys.stdin, sys.stdout, sys.stderr
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdin = os.fdopen(0, "r", encoding=encoding, closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
        yield
        sys.stdout.flush()
    finally:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(before):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _read(file) -> str:
    file.seek(0)
    return file.read().decode()
