"""Environments of their own under `.venvs`, for programs, made anew only when their pins change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venvs"
PROBE = "import ssl, sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.version.split()[0])"


class SetupError(Exception):
    """An environment could not be made."""


def environment(name: str, interpreter: Path, packages: Sequence[str], pinned_by: Sequence[str]) -> Path:
    """Make an environment, unless it exists and is up to date.

    Args:
        name: That of its folder.
        interpreter: What it is made of.
        packages: The arguments of ``uv pip install``, which runs in the repository.
        pinned_by: The files that say what is in it, by their paths in the repository.

    Returns:
        Its interpreter.

    Raises:
        SetupError: It could not be made.
    """
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    wanted = fingerprint(interpreter, packages, pinned_by)
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests may run in several processes, and any may be the first to need it.
        if stamp.exists() and stamp.read_text() == wanted and output([str(python), "-c", PROBE]):
            return python
        print(f"Making {folder.relative_to(ROOT)} ...", flush=True)
        uv = find_uv()
        quietly(uv, "venv", "--clear", "--python", str(interpreter), str(folder))
        quietly(uv, "pip", "install", "--python", str(python), *packages)
        stamp.write_text(wanted)
    return python


def fingerprint(interpreter: Path, packages: Sequence[str], pinned_by: Sequence[str]) -> str:
    """Give a fingerprint of what an environment is made from.

    Args:
        interpreter: What it is made of.
        packages: The arguments of ``uv pip install``.
        pinned_by: The files that say what is in it.

    Returns:
        Text that differs when any of it does.
    """
    content = hashlib.sha256("\n".join([output([str(interpreter), "-c", PROBE]), *packages]).encode())
    for each in pinned_by:
        content.update((ROOT / each).read_bytes())
    return content.hexdigest()


def find_uv() -> str:
    """Find uv: beside this interpreter, or on the PATH.

    Returns:
        The program.

    Raises:
        SetupError: It was not found.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if uv := shutil.which("uv", path=path):
        return uv
    raise SetupError("uv is needed; `make setup` installs it")


def output(command: Sequence[str], **env: str) -> str:
    """Run a program.

    Args:
        command: The program and its arguments.
        **env: Variables to add to its environment.

    Returns:
        What it printed; nothing if it failed.
    """
    try:
        ran = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def quietly(*command: str) -> None:
    """Run a program in the repository, and show what it printed only if it fails.

    Args:
        *command: The program and its arguments.

    Raises:
        SetupError: It failed.
    """
    env: Mapping[str, str] = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(ran.stdout + ran.stderr)
        raise SetupError(f"{' '.join(command[1:3])} ended with status {ran.returncode}")
