"""The example programs of the documentation, and their promised output."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from support.pages import EXAMPLES
from support.programs import run

if TYPE_CHECKING:
    from pathlib import Path

_PRINTS = "\n# Prints:\n"


def promised(program: str) -> str:
    """The output that a program's last comment promises. Three dots match anything."""
    _, mark, lines = program.partition(_PRINTS)
    assert mark, "the program does not end in a comment '# Prints:'"
    return re.sub(r"^# ?", "", lines, flags=re.MULTILINE)


def matches(expected: str, seen: str) -> bool:
    """Whether a text matches the expected one, in which three dots match anything, newlines too."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, seen.strip(), re.DOTALL) is not None


def run_program(path: Path, *, python: str | Path = sys.executable, strict: bool = True, **env: str) -> str:
    """Run an example to its end and give what it printed.

    Args:
        path: Its file.
        python: The interpreter.
        strict: Whether warnings are errors, and nothing may be written to stderr. Other libraries are not held to it.
        **env: Variables to add to its environment.
    """
    env = {"PYTHONPATH": str(EXAMPLES), "PYTHONDONTWRITEBYTECODE": "1", **env}
    done = run(python, *(("-W", "error") if strict else ()), path.name, cwd=path.parent, **env)
    assert (done.returncode, done.stderr if strict else "") == (0, ""), done.stderr
    return done.stdout
