"""What CONTRIBUTING.md, SECURITY.md and the README say there is, is there: targets, paths and links."""

import re
from pathlib import Path

import pytest
from support.programs import run

ROOT = Path(__file__).parents[2]
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "README.md"]
CLIENT = ROOT / "fibo_client" / "src" / "fibo_client"
WORKER = ROOT / "fibo_worker" / "src" / "fibo_worker"

# Made by a command that the page tells of, and not kept.
MADE = {".venv"}


def text(page):
    return (ROOT / page).read_text()


def prose(page):
    """All but the programs in Python, which are tested elsewhere."""
    return re.sub(r"^```python\n.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def code(page):
    """What is set as code: between backticks, and in blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", prose(page), re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose(page)) + re.findall(r"^    (.*)$", prose(page), re.MULTILINE) + blocks


def paths(page):
    for each in code(page):
        if re.fullmatch(r"[\w.*/-]+", each) and ("/" in each or re.search(r"\.(md|toml|txt|py)$", each)):
            yield each


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_is_one(page):
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(code(page))))
    assert named
    done = run("make", "--dry-run", *sorted(named), cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page):
    named = sorted(paths(page))
    missing = []
    for path in named:
        inner = path.removeprefix(".../")
        places = (ROOT / inner, CLIENT / inner, WORKER / inner, ROOT / "docs" / inner)
        if path not in MADE and not any(place.exists() for place in places):
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", prose(page)) if not link.startswith("https://")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
