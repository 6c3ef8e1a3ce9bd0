"""Programs as a user runs them, and the processes that they leave."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIBO_WORKER = (sys.executable, "-m", "fibo_worker")


def run(
    *command: str | Path, cwd: Path | None = None, timeout: float = 50, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout, check=False
    )


class Program:
    """A running program, and what it has written so far to both outputs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.text = ""
        self._ended = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, timeout: float = 50) -> str:
        """Wait until it has written a text. Gives all that it has written."""
        with self._more:
            self._more.wait_for(lambda: text in self.text or self._ended, timeout)
            assert text in self.text, f"{text!r} did not come in:\n{self.text}"
            return self.text

    def end(self, sig: int, timeout: float = 60) -> int:
        """Send it a signal and give its exit status."""
        self.process.send_signal(sig)
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def descendants(self) -> set[int]:
        """The ids of all its descendants."""
        return descendants(self.process.pid)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        for line in stream:
            with self._more:
                self.text += line
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


@contextlib.contextmanager
def started(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[Program]:
    """Start a program; kill it at the end if it is still there."""
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def descendants(pid: int) -> set[int]:
    """The ids of all descendants of a process."""
    children: dict[int, list[int]] = {}
    for child, (parent, _) in _processes().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        new = children.get(ahead.pop(), [])
        found.update(new)
        ahead += new
    return found


def alive(pids: set[int]) -> set[int]:
    """The processes among these that still run. Zombies do not."""
    return {pid for pid, (_, state) in _processes().items() if pid in pids and state != "Z"}


def wait_until_gone(pids: set[int], timeout: float) -> None:
    """Wait until none of these processes runs."""
    until(lambda: not alive(pids), lambda: f"the processes {alive(pids)} are still there", timeout=timeout)


def resident(pid: int) -> int:
    """How many bytes of memory a process has in use; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0  # The status of a zombie has no such line.


def _processes() -> dict[int, tuple[int, str]]:
    """The parent and the state of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(stat.parent.name)] = (int(fields[1]), fields[0])
    return found
