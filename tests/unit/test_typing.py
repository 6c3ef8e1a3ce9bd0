import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed here; it comes with the dependency group lint")

ROOT = Path(__file__).parents[2]
ACCEPTED = Path("tests", "typing", "accepted.py")
REJECTED = Path("tests", "typing", "rejected.py")


@pytest.fixture(scope="module")
def reported(request, tmp_path_factory):
    """The lines of the two files about which mypy complains, with what it says."""
    # What mypy has learnt is kept from run to run, where pytest keeps anything.
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("mypy") if cache else tmp_path_factory.mktemp("mypy")
    command = [
        sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty", "--hide-error-context",
        "--cache-dir", folder, ACCEPTED, REJECTED,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    said = {ACCEPTED: {}, REJECTED: {}}
    for path, line, message in re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        said[Path(path)].setdefault(int(line), []).append(message)
    return said


def test_what_users_write_has_the_type_that_it_should_have(reported):
    assert reported[ACCEPTED] == {}


def test_what_is_wrong_is_refused_line_by_line_and_nothing_else_is(reported):
    lines = enumerate((ROOT / REJECTED).read_text().splitlines(), 1)
    marked = {number for number, line in lines if "# error: " in line}
    assert len(marked) > 40
    passed = marked - reported[REJECTED].keys()
    assert not passed, f"mypy lets these lines pass: {sorted(passed)}"
    unmarked = {number: said for number, said in reported[REJECTED].items() if number not in marked}
    assert unmarked == {}
