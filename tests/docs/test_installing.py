"""What pages say to install, from what `make build` builds, into empty environments."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.built import VERSIONS, uv, wheel
from support.commands import typed
from support.examples import promised
from support.pages import DOCS, EXAMPLES, ROOT, blocks, shown_files
from support.programs import run

from fibo_worker.dev import find_redis_server


@pytest.fixture
def their_project(built, tmp_path):
    """What docs/how-to/test-your-code.md shows, and nothing else, with an environment of what it says to install."""
    page = DOCS / "how-to" / "test-your-code.md"
    folder = tmp_path / "project"
    for path in shown_files(page):
        copy = folder / path.relative_to(EXAMPLES / "testing")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (install,) = (block.text for block in blocks(page) if block.language == "console")
    wanted = [word for word in shlex.split(install)[3:] if word.replace("-", "_") not in VERSIONS]
    uv("venv", "--quiet", "--python", sys.executable, folder / ".venv")
    uv(
        *("pip", "install", "--quiet", "--python", folder / ".venv" / "bin" / "python"),
        *("--constraint", "constraints.txt", *wanted),
        *(wheel(built, name) for name in VERSIONS),
    )
    return folder


@pytest.mark.timeout(180)  # It installs all that Celery needs.
def test_a_project_in_an_empty_environment_is_tested_on_the_double_and_for_real(their_project):
    written = sum(path.read_text().count("async def test_") for path in their_project.glob("tests/test_*.py"))
    done = subprocess.run(
        [their_project / ".venv" / "bin" / "python", "-I", "-m", "pytest", "-q"],
        cwd=their_project,
        env={"PATH": os.defpath, "FIBO_REDIS_SERVER": str(find_redis_server())},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{written} passed" in done.stdout
    assert written == 9


@pytest.fixture
def reader(built, tmp_path):
    """Run lines in a shell as a reader of the tutorial does, who has a copy of the repository after `make build`."""
    copy, folder = tmp_path / "copy", tmp_path / "reader"
    copy.mkdir()
    folder.mkdir()
    (copy / "dist").symlink_to(built)
    python = str(Path(sys.executable).parent)
    env = {"PATH": os.pathsep.join((python, os.environ["PATH"])), "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    env |= {"PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # It is sooner done.

    def read(in_copy, in_folder, *programs):
        for path in programs:
            shutil.copy(path, folder)
        lines = ["set -e", f"cd {copy}", *in_copy, f"cd {folder}", *in_folder]
        done = run("bash", "-c", "\n".join(lines), timeout=280, VIRTUAL_ENV="", **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return read


@pytest.mark.timeout(300)  # It installs all that Celery needs, by pip.
def test_the_tutorial_begins_with_what_was_built(reader, worker):
    building, installing = ([each.command for each in typed(block.text)] for block in blocks(DOCS / "tutorial.md")[:2])
    assert building.pop(0) == "make build"
    assert installing.pop() == "fibo-worker dev"
    program = EXAMPLES / "tutorial" / "first.py"
    using = ["fibo-worker --version", f"export CELERY_BROKER_URL={worker.url}", "python first.py"]
    said = reader(building, [*installing, *using], program)
    assert said.endswith(f"{VERSIONS['fibo_worker']}\n{promised(program.read_text())}")
