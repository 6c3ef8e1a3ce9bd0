"""The programs in the READMEs and in the documentation are run as they stand, and print what their comments say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fibo_client import errors

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "fibo_client" / "README.md", ROOT / "fibo_worker" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("**/*.md"))


def programs():
    for page in PAGES:
        if page.exists():
            text = page.read_text()
            for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
                line = text.count("\n", 0, block.start()) + 2
                yield pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}")


def printed(program):
    """What the comments behind calls of print say."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


@pytest.mark.parametrize("program", list(programs()))
def test_a_program_in_a_readme_does_what_it_says(program, worker):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "CELERY_BROKER_URL": worker.admin_url},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == printed(program)


@pytest.mark.parametrize("name", ["fibo_client", "fibo_worker"])
def test_a_readme_for_the_package_index_has_no_link_that_works_only_in_the_repository(name):
    prose = re.sub(r"^```.*?^```$", "", (ROOT / name / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_readme_of_the_client_lists_every_error():
    table = re.findall(r"^\| `(\w+)` +\|", (ROOT / "fibo_client" / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(errors.__all__)
