"""A server process that ends with this program, even if this program is killed."""

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
"""A shell script that waits for "done" on its standard input, from this program. End of file means that this program is
gone, perhaps by SIGKILL. Then the script ends the process group and removes the directory."""


class StartError(RuntimeError):
    """A server could not be started. The message says why, and what to do about it."""


class Child:
    """A process with its own session and its own directory, which holds its log.

    Attributes:
        directory: The process's directory. `stop` removes it.
        log: The file with the output of the process.
        pid: The id of the process, and of its process group.
    """

    def __init__(self, arguments: Sequence[str], *, name: str, env: Mapping[str, str]) -> None:
        """Start a process.

        Args:
            arguments: The program's path and its arguments. ``{directory}`` in one stands for the directory.
            name: Its name in messages and in file names.
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
                # Its own session: a Ctrl-C in the terminal reaches only this program, which then stops the child.
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
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until the process is ready.

        Args:
            ready: Tells whether it is; called every 10 ms.
            timeout: The most seconds to wait.

        Raises:
            StartError: The process ended, or was not ready in time. The message has the end of its log.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise StartError(f"{self._name} ended at once, {self._ending()}.{self._end_of_log()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self._name} was not ready after {timeout:g} seconds.{self._end_of_log()}")
            time.sleep(0.01)

    def check(self) -> None:
        """Check that the process still runs.

        Raises:
            StartError: It does not. The message has the end of its log.
        """
        if not self.running:
            raise StartError(f"{self._name} has ended by itself, {self._ending()}.{self._end_of_log()}")

    def stop(self, sig: signal.Signals = signal.SIGTERM, *, timeout: float = 5.0) -> None:
        """Stop the process and all that it started, and remove its directory. A second call does nothing.

        Args:
            sig: The signal that asks the process to stop.
            timeout: Seconds until its process group is killed.
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
            # Not to the group: a Celery worker stops its own pool, after the running tasks.
            self._process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        finally:
            # The group may be empty already. macOS reports a dying one as not permitted.
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

    def _end_of_log(self, lines: int = 25) -> str:
        try:
            text = self.log.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""
        if not text:
            return " It wrote nothing."
        return "\nThe end of its log:\n" + "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
