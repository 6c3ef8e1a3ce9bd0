"""What type checkers make of the public face: of each checker the same, and everything in it with a type."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from support.pages import ROOT
from support.programs import run

CHECKERS = ["mypy", "basedpyright"]
for checker in CHECKERS:
    pytest.importorskip(checker, reason=f"{checker} is not installed here; it comes with the dependency group lint")

ACCEPTED, REJECTED, REVEALED = (Path("tests", "typing", f"{name}.py") for name in ("accepted", "rejected", "revealed"))
FILES = (ACCEPTED, REJECTED, REVEALED)

Said = dict[Path, dict[int, list[str]]]


def check(*command: str | Path) -> str:
    # Installed for editing, the packages are where basedpyright does not look for their py.typed.
    sources = os.pathsep.join(str(ROOT / name / "src") for name in ("fibo_client", "fibo_worker"))
    done = run(sys.executable, "-m", *command, cwd=ROOT, timeout=110, PYTHONPATH=sources)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def by_line(said: list[tuple[str, int, str]]) -> Said:
    lines: Said = {path: {} for path in FILES}
    for path, line, message in said:
        lines[Path(path)].setdefault(line, []).append(message)
    return lines


def ask_mypy(cache: Path) -> tuple[Said, Said]:
    out = check(
        "mypy",
        "--strict",
        "--enable-error-code=truthy-bool",
        "--no-error-summary",
        "--no-pretty",
        "--hide-error-context",
        "--cache-dir",
        cache,
        *FILES,
    )
    errors = re.findall(r"^(.+?):(\d+): error: (.*)$", out, re.MULTILINE)
    shown = re.findall(r"^(.+?):(\d+): note: Revealed type is \"(.*)\"$", out, re.MULTILINE)
    return tuple(by_line([(path, int(line), text) for path, line, text in each]) for each in (errors, shown))


def ask_basedpyright() -> tuple[Said, Said]:
    found = json.loads(check("basedpyright", "--pythonpath", sys.executable, "--outputjson", *FILES))
    errors, shown = [], []
    for each in found["generalDiagnostics"]:
        path = os.path.relpath(each["file"], ROOT)
        place = (path, each["range"]["start"]["line"] + 1)
        # The rule that sees a forgotten await in an `if` is a warning, unless a project says otherwise.
        if each["severity"] == "error" or "references coroutine" in each["message"]:
            errors.append((*place, each["message"]))
        elif revealed := re.fullmatch(r"Type of \".*\" is \"(.*)\"", each["message"]):
            shown.append((*place, revealed[1]))
    return by_line(errors), by_line(shown)


@pytest.fixture(scope="module")
def answers(request, tmp_path_factory):
    """Of each checker: the errors, and the revealed types, by file and line."""
    # What mypy has learnt is kept from run to run, where pytest keeps anything.
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("mypy") if cache else tmp_path_factory.mktemp("mypy")
    return {"mypy": ask_mypy(folder), "basedpyright": ask_basedpyright()}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_users_write_has_the_type_that_it_should_have(answers, checker):
    errors, _ = answers[checker]
    assert errors[ACCEPTED] == {}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_wrong_is_refused_line_by_line_and_nothing_else_is(answers, checker):
    errors, _ = answers[checker]
    lines = enumerate((ROOT / REJECTED).read_text().splitlines(), 1)
    marked = {number for number, line in lines if "# error: " in line}
    assert len(marked) > 50
    passed = marked - errors[REJECTED].keys()
    assert not passed, f"{checker} lets these lines pass: {sorted(passed)}"
    unmarked = {number: said for number, said in errors[REJECTED].items() if number not in marked}
    assert unmarked == {}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_types_that_are_shown_are_those_in_the_comments(answers, checker):
    errors, shown = answers[checker]
    assert errors[REVEALED] == {}
    wanted = {}
    for number, line in enumerate((ROOT / REVEALED).read_text().splitlines(), 1):
        if "reveal_type(" in line:
            wanted[number] = line.partition("  # ")[2]
    assert len(wanted) > 30
    without_modules = {
        number: re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text) for number, (text,) in shown[REVEALED].items()
    }
    assert without_modules == wanted


@pytest.mark.timeout(120)
@pytest.mark.parametrize("package", ["fibo_client", "fibo_worker"])
def test_every_public_name_has_a_known_type(package):
    unknown = [each for each in completeness(package)["symbols"] if each["isExported"] and not each["isTypeKnown"]]
    assert [each["name"] for each in unknown if not derives_from_untyped(each)] == []
    assert package == "fibo_worker" or not unknown


def derives_from_untyped(symbol: dict) -> bool:
    """Tell whether nothing else is unknown of it: classes of the guard are made of Celery's, which has no types."""
    said = [each["message"] for each in symbol["diagnostics"]]
    return all(re.match("Type of (metaclass|base class) ", each) for each in said)


def completeness(package: str) -> dict:
    out = check(
        "basedpyright", "--pythonpath", sys.executable, "--verifytypes", package, "--ignoreexternal", "--outputjson"
    )
    return json.loads(out)["typeCompleteness"]
