"""What is asked of workers, as the command line writes it: whatever they answer, it does nothing to a terminal."""

from __future__ import annotations

import json

import pytest
from support.hostile_text import acts

from fibo_client import FiboClient, TaskFailedError
from fibo_client.cli.console import Console
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.runner import report_error
from fibo_client.cli.workers import diagnose, ping, workers
from fibo_client.testing import FakeCelery

EVIL = "w\x1b[2J\u202e\r\nError:forged\x9b\u2028@h"
SAFE = r"w\x1b[2J\u202e\r\nError:forged\x9b\u2028@h"


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def console(request, tmp_path):
    console = Console(output=str(tmp_path / "answers"))
    console.terminal = request.param
    return console


@pytest.fixture
def written(tmp_path):
    return lambda: (tmp_path / "answers").read_text()


@pytest.fixture
def fake():
    fake = FakeCelery(nodes=[EVIL], queues=[EVIL])
    fake.task(EVIL)
    return fake


async def test_a_workers_name_stays_on_its_line(console, fake, written):
    async with FiboClient(transport=fake) as client:
        assert await ping(client, console, timeout=1) is ExitCode.OK
    assert written() == f"{SAFE}\n"


async def test_names_of_workers_queues_and_tasks_stay_in_their_places(console, fake, written):
    async with FiboClient(transport=fake) as client:
        assert await workers(client, console, timeout=1) is ExitCode.OK
    assert acts(written(), "\n\t") == []
    if not console.terminal:
        name, _, _, _, queues, tasks = written().rstrip("\n").split("\t")
        assert (name, queues, tasks) == (SAFE, SAFE, SAFE)


async def test_a_diagnosis_is_one_line(console, fake, written):
    async with FiboClient(transport=fake) as client:
        assert await diagnose(client, console, "an-id", task=EVIL, queue=None, timeout=1) is ExitCode.OK
    assert written().count("\n") == 1
    assert acts(written(), "\n") == []


async def test_as_json_names_are_what_they_are(fake, tmp_path, written):
    async with FiboClient(transport=fake) as client:
        assert await ping(client, Console(as_json=True, output=str(tmp_path / "answers")), timeout=1) is ExitCode.OK
    assert json.loads(written()) == {"worker": EVIL}
    assert acts(written(), "\n") == []


@pytest.mark.parametrize("traceback", [True, False, None])
def test_the_exception_of_a_task_does_nothing_to_the_terminal_and_has_an_end(console, capsys, traceback):
    error = TaskFailedError(
        task_id="a", task=EVIL, exc_type=EVIL * 500_000, exc_module=EVIL, exc_args=(EVIL,), traceback=EVIL * 500_000
    )
    assert report_error(console, error, traceback=traceback) is ExitCode.FAILED
    said = capsys.readouterr().err
    assert acts(said, "\n") == []
    assert len(said) < 100_000
    assert ("\nError:forged" in said) == bool(traceback)  # A traceback has lines.
