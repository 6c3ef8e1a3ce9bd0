"""The page of supported versions names those that tests run on."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINS = [re.search(r"^celery==(.*)$", path.read_text(), re.MULTILINE)[1] for path in ROOT.glob("tests/versions/*.txt")]


def row(start):
    page = (ROOT / "docs" / "reference" / "versions.md").read_text()
    return re.search(rf"^\| {start} \|(.*)$", page, re.MULTILINE)[1]


def test_the_celery_versions_are_those_of_the_workers_environments():
    supported = {version for version in PINS if not version.startswith("5.2.")}
    assert set(re.findall(r"\d+\.\d+\.\d+", row("Celery of the workers that are called"))) == supported


def test_what_the_development_environment_has_is_what_is_said():
    pinned = dict(re.findall(r"^([\w-]+)==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned["celery"] in PINS
    assert pinned["celery"] in row("Celery of fibo-worker, and of apps that it protects")
    assert pinned["redis"] in row("redis-py of the client")
