"""What `fibo stubs` writes: type checkers accept all of it and refuse wrong calls, and ruff leaves it as it is."""

import os
import re
import sys

import pytest
from support.pages import ROOT
from support.programs import run
from support.signatures import SIGNATURES, App, Task, function

from fibo_client.cli.stubs.tasks import stubs_of
from fibo_client.cli.stubs.writing import module_text

CHECKERS = {
    "mypy": ("mypy", "--strict", "--no-pretty", "--cache-dir", ".mypy_cache"),
    "basedpyright": ("basedpyright", "--pythonpath", sys.executable),
}
for program in (*CHECKERS, "ruff"):
    pytest.importorskip(program, reason=f"{program} is not installed here; it comes with the dependency group lint")

LONG = "abcdefghijklmnopqrstuvwxyz"
CHOICES = ", ".join(repr(letter * 25) for letter in "abcd")
LAYOUTS = [
    "(" + ", ".join(f"{LONG}{n}: int" for n in range(count)) + ending
    for count in range(1, 7)
    for ending in (")", ", /)", ", *, more: str = 'x')", ", **kwargs: dict[str, int])", ") -> tuple[int, list[str]]")
]
LAYOUTS += [
    f"(a: Literal[{CHOICES}])",
    f"(a: Literal[{CHOICES}], {'b' * 15} = 5)",
    f"({LONG * 3}: int = 5, {LONG}=('{'x' * 70}',), {LONG * 2}=('{'x' * 60}',))",
    f"() -> Literal[{CHOICES}]",
]
DOCS = [
    "Do it.",
    '"quoted"',
    'it says "hi"',
    'a """ b',
    '"',
    '""""',
    "\\",
    '\\"',
    "it's \\x1b",
    "x" * 100,
    "words " * 40,
]
CALLS = """\
from typing import assert_type

from fibo_client.celery import CeleryClient
from remote import total


async def right(celery: CeleryClient) -> None:
    assert_type(await celery.call(total([1])), float)
    assert_type(await celery.call(total([1], rebate=5)), float)
    total(["1"])  # error
    total()  # error
    total([1], "5")  # error
    total([1], rebat=5)  # error
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with stubs of every kind, and with calls."""
    runs = [function(signature) for signature, _ in SIGNATURES] + [function(signature) for signature in LAYOUTS]
    tasks = {f"shop.tasks.task_{number}": Task(run) for number, run in enumerate(runs)}
    tasks |= {f"documented.task_{number}": Task(runs[number], doc=doc) for number, doc in enumerate(DOCS)}
    tasks |= {f"{'l' * length}.n{length}": Task(runs[0], queue="media", priority=3) for length in range(60, 110)}
    tasks |= {name: Task(runs[0]) for name in ("it's", 'say "hi"', "both \"'", "\\ \n", "é", "class", "a.b-c", "a.b_c")}
    tasks["total"] = Task(function("(prices: list[int], rebate: int = 5) -> float"))
    found, _ = stubs_of(App(tasks))
    path = tmp_path_factory.mktemp("typed")
    (path / "remote.py").write_text(module_text(found, "shop.tasks:app"))
    (path / "calls.py").write_text(CALLS)
    return path


def asked(folder, *command):
    # Installed for editing, the package is where basedpyright does not look for its py.typed.
    sources = os.pathsep.join([str(ROOT / "fibo_client" / "src"), str(folder)])
    return run(sys.executable, "-m", *command, cwd=folder, timeout=110, PYTHONPATH=sources)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_finds_nothing_in_stubs_and_warns_of_nothing(folder, checker):
    done = asked(folder, *CHECKERS[checker], "remote.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_refuses_wrong_calls_by_stubs_and_no_others(folder, checker):
    out = asked(folder, *CHECKERS[checker], "calls.py").stdout
    refused = {int(line) for line in re.findall(r"calls\.py:(\d+):.*\berror: ?", out)}
    marked = {number for number, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# error")}
    assert refused == marked, out


def test_ruff_leaves_stubs_as_they_are(folder):
    formatted = asked(folder, "ruff", "format", "--isolated", "--line-length", "120", "--diff", "remote.py")
    assert (formatted.returncode, formatted.stdout) == (0, "")
    sorted_ = asked(folder, "ruff", "check", "--isolated", "--select", "F,I,UP", "remote.py")
    assert sorted_.returncode == 0, sorted_.stdout
