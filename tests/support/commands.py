"""Commands that pages tell readers to type: each is held to what it names, as far as that can be done without doing it.

A program that is not known here is an error: whoever shows one says here how it is checked.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import yaml

from support.pages import DOCS, EXAMPLES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEPLOY = EXAMPLES / "deploy"
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)

SYSTEM_PACKAGES = {"redis-server", "redis", "valkey", "valkey-server", "chromium", "faketime", "systemd", "gmpy2"}
"""Names of Debian, Fedora and Homebrew that the pages have."""

ALSO_KNOWN = {"PORT", "BENCH", "FUZZ", "PIP_FIND_LINKS", "PYTHONINTMAXSTRDIGITS"}
"""Variables that are not of the packages: make's, pip's and Python's own."""


def commands(text: str) -> list[str]:
    """Give the commands of a block: in one with prompts the lines behind them, else all lines."""
    lines = re.sub(r"\\\n *", "", text).splitlines()
    if any(line.startswith("$ ") for line in lines):
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def check(command: str) -> None:
    """See that a command can be what it says. An AssertionError says why it cannot."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if re.fullmatch(r"[&|;]+", word):
            if words:
                _check_words(words, command)
            words = []
        else:
            words.append(word)


def _check_words(words: list[str], command: str) -> None:
    while words and ((assigned := VARIABLE.fullmatch(words[0])) or words[0] == "sudo"):
        if assigned:
            _check_variable(assigned[1])
        words = words[1:]
    words = _without_redirections(words)
    if words:
        program = words[0].rpartition("/")[2]
        assert program in CHECKS, f"{program} in {command!r}: say in support.commands how it is checked"
        CHECKS[program](words[1:])


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if re.fullmatch(r"[<>]+", word):
            next(rest)
        else:
            kept.append(word)
    return kept


@functools.cache
def known_variables() -> frozenset[str]:
    """The variables of the environment that the reference has."""
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    return frozenset(re.findall(r"^\| `([A-Z][A-Z_]+)` ", pages, re.MULTILINE)) | ALSO_KNOWN


def _check_variable(name: str) -> None:
    assert name in known_variables(), f"{name} is in no table of docs/reference"


def _export(words: Sequence[str]) -> None:
    for word in words:
        assigned = VARIABLE.fullmatch(word)
        assert assigned, word
        _check_variable(assigned[1])


@functools.cache
def _help(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _asks_for_help(module: str) -> Callable[[Sequence[str]], None]:
    """Check by the program itself: with ``--help`` it parses what stands before, and refuses what it does not know."""

    def check_by_help(words: Sequence[str]) -> None:
        before = list(words)
        if "--" in before:  # What comes after it goes to another program.
            before = before[: before.index("--")]
        status, said = _help(module, *before)
        assert status == 0, said

    return check_by_help


def _pip(words: Sequence[str]) -> None:
    assert words[0] == "install", words
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for word in words[1:]:
        if word.startswith("-"):
            assert word in ("--upgrade", "--no-cache-dir"), word
            continue
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", word).groups()
        folder = ROOT / name.replace("-", "_")
        if name in ("fibo-client", "fibo-worker"):
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            assert set((extras or "").split(",")) - {""} <= set(project["optional-dependencies"]), word
        else:
            assert name.lower() in pinned, f"{name} is not in constraints.txt"


def _packages(words: Sequence[str]) -> None:
    assert words[0] == "install", words
    assert set(words[1:]) <= SYSTEM_PACKAGES, words


def _make(words: Sequence[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for word in words:
        if assigned := VARIABLE.fullmatch(word):
            _check_variable(assigned[1])
        else:
            assert word in targets, f"there is no make {word}"


def _python(words: Sequence[str]) -> None:
    if words[:1] == ["-m"]:
        assert words[1] in ("venv", "fibo_worker", "fibo_client"), words
        if words[1] != "venv":
            _asks_for_help(words[1])(words[2:])
        return
    (program,) = words
    assert list(EXAMPLES.rglob(program)), f"{program} is not among the examples"


def _systemctl(words: Sequence[str]) -> None:
    verb, *rest = words
    assert verb in ("daemon-reload", "enable", "restart", "stop", "status"), words
    for word in rest:
        assert word == "--now" or (DEPLOY / re.sub(r"@.*", "@.service", word)).exists(), words


def _journalctl(words: Sequence[str]) -> None:
    option, unit = words
    assert option == "-u"
    _systemctl(["status", unit])


def _copy(words: Sequence[str]) -> None:
    files = [word for word in words if not word.startswith(("/", "-")) and not word.isdigit()]
    assert files
    assert all((DEPLOY / name).exists() for name in files), words


def _docker(words: Sequence[str]) -> None:
    compose, verb, *rest = words
    assert compose == "compose", words
    assert verb in ("up", "down", "ps", "logs"), words
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for word in rest:
        assert word in ("--build", "--detach", "--scale") or word.partition("=")[0] in services, words


def _cd(words: Sequence[str]) -> None:
    (folder,) = words
    assert (ROOT / folder).is_dir(), words


def _activate(words: Sequence[str]) -> None:
    assert list(words) == ["env/bin/activate"], words


def _is_run(words: Sequence[str]) -> None:
    """Nothing to do here: `test_the_tutorial_is_typed_as_it_stands` runs it."""


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    ".": _activate,
    "apt": _packages,
    "brew": _packages,
    "cd": _cd,
    "celery": _asks_for_help("celery"),
    "cp": _copy,
    "curl": _is_run,
    "dnf": _packages,
    "docker": _docker,
    "export": _export,
    "fibo": _asks_for_help("fibo_client"),
    "fibo-worker": _asks_for_help("fibo_worker"),
    "install": _copy,
    "journalctl": _journalctl,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "systemctl": _systemctl,
    "uvicorn": _asks_for_help("uvicorn"),
}
