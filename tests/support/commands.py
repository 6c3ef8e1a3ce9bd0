"""Commands that pages tell readers to type: which ones no test may run, why, and what is checked instead.

`test_documented_commands` runs all others. A command that can neither be run nor is listed here is an error.
"""

from __future__ import annotations

import functools
import re
import shlex
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from support.pages import DOCS, EXAMPLES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEPLOY = EXAMPLES / "deploy"

LANGUAGES = ("console", "sh", "bash")
"""What stands behind the fence of a block of commands."""

NOT_RUN = {
    "docker compose": "it takes a Docker daemon, and images from a registry; test_examples reads what it would",
    "journalctl": "it reads the log of a unit that no test may start",
    "make build": "test_installing types it, and installs from what it built as the tutorial says",
    "make bench": "it takes ten minutes and a machine with nothing else to do",
    "make check": "it is no test: continuous integration runs it beside these",
    "make test": "it is what runs the tests",
    "make test-all": "it is what runs this",
    "pip install": "it takes a package index; test_installing installs what is built here",
    "sudo": "it changes the machine; test_examples has systemd read the unit, and starts what it starts",
}
"""The first words of commands that are not run, and why. The names in them are compared with what is there."""

RUN_ELSEWHERE = {
    "fibo-worker demo": "test_cli, with a smaller batch",
    "fibo-worker start -- -E": "test_flower",
    "celery -A fibo_worker.app flower --address=127.0.0.1 --port=5555 --basic-auth=admin:change-me": "test_flower",
}
"""Commands, to the letter, that another test runs, and which."""

RUNNABLE = {".", "cd", "celery", "curl", "export", "fibo", "fibo-worker", "make", "python", "python3", "uvicorn"}
"""The programs that tests may run as a page says. All that they do stays on this machine, and ends with the test."""


ALSO_KNOWN = {"PIP_FIND_LINKS"}
"""Variables that are not of the packages: pip's."""


@dataclass(frozen=True)
class Typed:
    """A command as a page shows it.

    Attributes:
        command: What is typed, without the prompt and without a comment behind it.
        answer: What the page shows it to print.
    """

    command: str
    answer: str = ""

    @property
    def program(self) -> str:
        """Its first word."""
        return self.command.split()[0]

    @property
    def first_words(self) -> str | None:
        """The entry of `NOT_RUN` that it falls under, if any."""
        return next((words for words in NOT_RUN if f"{self.command} ".startswith(f"{words} ")), None)


def typed(text: str) -> list[Typed]:
    """Give the commands of a block. In one with prompts, what is not behind one is an answer."""
    text = re.sub(r"\\\n *", "", text)
    if re.search(r"^\$ ", text, re.MULTILINE):
        found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
        return [Typed(_without_comment(command), answer) for command, answer in found]
    lines = [_without_comment(line) for line in text.splitlines()]
    return [Typed(line) for line in lines if line]


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#.*", "", line).strip()


def check(command: str) -> None:
    """See that a command that is not run names what is there. An AssertionError says what is not."""
    words = shlex.split(command)
    if words[0] == "sudo":
        words = words[1:]
    program = words[0].rpartition("/")[2]
    assert program in CHECKS, f"{program} in {command!r}: say in support.commands how it is checked"
    CHECKS[program](words[1:])


@functools.cache
def known_variables() -> frozenset[str]:
    """The variables of the environment that the reference has."""
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    return frozenset(re.findall(r"^\| `([A-Z][A-Z_]+)` ", pages, re.MULTILINE)) | ALSO_KNOWN


def _pip(words: Sequence[str]) -> None:
    assert words[0] == "install", words
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for word in words[1:]:
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", word).groups()
        folder = ROOT / name.replace("-", "_")
        if name in ("fibo-client", "fibo-worker"):
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            assert set((extras or "").split(",")) - {""} <= set(project["optional-dependencies"]), word
        else:
            assert name.lower() in pinned, f"{name} is not in constraints.txt"


def _make(words: Sequence[str]) -> None:
    (target,) = words
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def _python(words: Sequence[str]) -> None:
    assert list(words[:2]) == ["-m", "venv"], words
    assert len(words) == 3, words


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


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "cp": _copy,
    "docker": _docker,
    "install": _copy,
    "journalctl": _journalctl,
    "make": _make,
    "pip": _pip,
    "python3": _python,
    "systemctl": _systemctl,
}
