"""One server process that does not outlive this program, whatever ends this program."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Child", "StartError"]

_WATCHDOG: Final = """
read -r word && [ "$word" = done ] && exit 0
kill -s TERM -- "-$1"
for _ in 1 2 3 4 5; do kill -s 0 -- "-$1" || break; sleep 1; done
kill -s KILL -- "-$1"
rm -rf -- "$2"
"""
"""A shell script that waits for a word from this program. If the end of file comes instead, this program is
gone, be it by SIGKILL, and the script ends the process group and removes the directory."""


class StartError(RuntimeError):
    """A server could not be started. The message says why, and what to do about it."""


class Child:
    """A process in a session of its own, with a directory of its own that holds its log.

    Attributes:
        directory: The process's directory. It is removed with the process.
        log: The file with what the process writes.
        pid: The process's id, which is also that of its group.
    """

    def __init__(self, arguments: Sequence[str], *, name: str, env: Mapping[str, str]) -> None:
        """Start a process.

        Args:
            arguments: The program's path and its arguments. ``{directory}`` in one stands for the directory.
            name: What to call it in messages and in the names of files.
            env: Its environment.

        Raises:
            StartError: The program cannot be run.
        """
        self._name = name
        self.directory: Final = Path(tempfile.mkdtemp(prefix=f"fibo-{name}-"))
        self.log: Final = self.directory / f"{name}.log"
        command = [each.replace("{directory}", str(self.directory)) for each in arguments]
        try:
            with self.log.open("wb") as log:
                # A session of its own: a Ctrl-C in the terminal reaches only this program, which stops it.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(env),
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise StartError(f"{command[0]} cannot be run: {error.strerror}") from error
        self.pid: Final = self._process.pid
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "fibo-watchdog", str(self.pid), str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self._end_group(signal.SIGTERM, 0)
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until the process is ready.

        Args:
            ready: Tells whether it is. It is asked often.
            timeout: The most seconds to wait.

        Raises:
            StartError: The process ended, or was not ready in time. The message has the end of its log.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise StartError(f"{self._name} ended at once, {self._ending()}.{self._shown_log()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self._name} was not ready after {timeout:g} seconds.{self._shown_log()}")
            time.sleep(0.01)

    def check(self) -> None:
        """See that the process is still there.

        Raises:
            StartError: It is not. The message has the end of its log.
        """
        if not self.running:
            raise StartError(f"{self._name} has ended by itself, {self._ending()}.{self._shown_log()}")

    def stop(self, sig: signal.Signals = signal.SIGTERM, *, timeout: float = 5.0) -> None:
        """Stop the process and whatever it started, and remove its directory. Doing it twice is harmless.

        Args:
            sig: What tells the process to stop.
            timeout: Seconds after which its group is killed.
        """
        try:
            self._end_group(sig, timeout)
        finally:
            self._dismiss_watchdog()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _end_group(self, sig: signal.Signals, timeout: float) -> None:
        if self._process.returncode is not None:
            return
        try:
            # To the process alone: a Celery worker stops its own pool, after the tasks that run.
            self._process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        finally:
            # An empty group is what we want to find here; macOS reports one that is dying as not permitted.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def _dismiss_watchdog(self) -> None:
        pipe = self._watchdog.stdin
        if pipe is None or pipe.closed:
            return
        with contextlib.suppress(BrokenPipeError), pipe:
            pipe.write(b"done\n")
        self._watchdog.wait()

    def _ending(self) -> str:
        code = self._process.returncode
        return f"by signal {-code}" if code < 0 else f"with status {code}"

    def _shown_log(self, lines: int = 25) -> str:
        try:
            text = self.log.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""
        if not text:
            return " It wrote nothing."
        return "\nThe end of its log:\n" + "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
