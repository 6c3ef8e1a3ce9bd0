"""``fibo stubs`` as a program of its own, and calls of a real worker by what it wrote."""

import importlib.util
import sys
from pathlib import Path

import pytest
from support.examples import EXAMPLES
from support.programs import run

from fibo_client.celery import CeleryClient

FIBO = Path(sys.executable).with_name("fibo")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A module of stubs, written in the folder from which the worker is started."""
    path = tmp_path_factory.mktemp("service") / "remote.py"
    done = run(FIBO, "stubs", "proj.tasks", "--out", path, cwd=EXAMPLES, PYTHONDONTWRITEBYTECODE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"Wrote {path}: 3 tasks.\n")
    return path


async def test_a_worker_is_called_by_the_stubs_of_its_tasks(path, proj):
    spec = importlib.util.spec_from_file_location("remote", path)
    remote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(remote)
    async with CeleryClient(proj.url) as celery:
        assert await celery.call(remote.add(2, y=3), timeout=20) == 5
        assert await celery.call_many([remote.divide(1, 4), remote.resize(1)], timeout=20) == [
            0.25,
            "1 pictures resized",
        ]
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        remote.add(2)


def test_the_stubs_need_nothing_of_celery_nor_of_the_app(path):
    code = "import remote, sys; print({'celery', 'kombu', 'proj'} & set(sys.modules))"
    done = run(sys.executable, "-c", code, cwd=path.parent, PYTHONDONTWRITEBYTECODE="1")
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_drift_ends_a_job_of_continuous_integration_with_a_line_for_each_change(path, tmp_path):
    older = tmp_path / "remote.py"
    older.write_text(path.read_text().replace("x: int, y: int", "x: int"))
    done = run(FIBO, "stubs", "proj.tasks", "--out", older, "--check", cwd=EXAMPLES, PYTHONDONTWRITEBYTECODE="1")
    assert (done.returncode, done.stdout) == (1, "proj.tasks.add: there is a new parameter: y: int\n")
