"""``fibo call`` of several tasks, on the double."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from support.clock import virtual

from fibo_client import FiboClient, MessageError
from fibo_client.celery import RemoteTask, chain, chord, group
from fibo_client.cli import flows, tasks, workers
from fibo_client.cli.bar import Bar
from fibo_client.cli.console import Console
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.testing import FakeCelery

add = RemoteTask[..., int]("proj.add")
fail = RemoteTask[..., int]("proj.fail")
slow = RemoteTask[..., int]("proj.slow")
total = RemoteTask[..., int]("proj.total")


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    """Answers are written at once: for a thread, virtual time does not wait."""

    async def at_once(function, *args):
        return function(*args)

    monkeypatch.setattr("fibo_client.cli.console.to_daemon_thread", at_once)


@pytest.fixture
def fake():
    fake = FakeCelery(queues=["celery"])
    fake.task(add, lambda x=0, y=0: x + y)
    fake.task(fail, raises=ValueError("no"))
    fake.task(slow, lambda *_: 1, delay=math.inf)
    fake.task(total, sum)
    return fake


@pytest.fixture
def output(tmp_path):
    return tmp_path / "answers"


async def called(fake, output, flow, timeout=10.0, options=None, *, as_json=False):
    console = Console(as_json=as_json, output=str(output))
    async with FiboClient(transport=fake) as client:
        return await flows.call(client, console, flow, options or {}, timeout=timeout, traceback=False)


@pytest.mark.parametrize(
    ("flow", "answer"),
    [(chain(add(1, 2), add(3)), 6), (group(add(1), add(2)), [1, 2]), (chord([add(1), add(2)], total()), 3)],
)
@virtual
async def test_the_result_of_the_whole_is_written(fake, output, flow, answer):
    assert await called(fake, output, flow, options={"priority": 3}) is ExitCode.OK
    assert json.loads(output.read_text()) == answer
    assert {each.priority for each in fake.sent} == {3}


@virtual
async def test_a_step_that_fails_is_named(fake, output, capsys):
    assert await called(fake, output, chain(add(1), fail.s(), add(2))) is ExitCode.FAILED
    named = f"proj.fail[{fake.sent[1].task_id}], step 2 of 3,"
    assert capsys.readouterr().err.startswith(f"Error: {named} raised ValueError('no')")
    assert await called(fake, output, chain(add(1), fail.s(), add(2)), as_json=True) is ExitCode.FAILED
    told = json.loads(output.read_text())
    assert (told["task"], told["task_id"], told["exc_type"]) == ("proj.fail", fake.sent[3].task_id, "ValueError")
    assert told["step"] == "step 2 of 3"
    assert told["id"] not in (told["task_id"], fake.sent[2].task_id)


@virtual
async def test_a_timeout_says_which_step_is_waited_for(fake, output, capsys):
    flow = chain(add(1), slow.s(), add(2))
    assert await called(fake, output, flow, timeout=5.0) is ExitCode.NO_ANSWER
    first, second, *_ = capsys.readouterr().err.splitlines()
    step = f"proj.slow[{fake.sent[1].task_id}], step 2 of 3"
    assert first == f"Error: no answer within 5 s from {step}"
    assert second.startswith(f"{step}, is PENDING: celery@fake holds it (active)")


@virtual
async def test_what_is_stopped_is_revoked_whole(fake, output):
    console = Console(output=str(output))
    async with FiboClient(transport=fake) as client:
        job = asyncio.create_task(
            flows.call(client, console, chain(slow(), add(1), add(2)), {}, timeout=10.0, traceback=False)
        )
        await asyncio.sleep(1)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    assert len(fake.revoked) == 3
    said = console.stop_message(client.stats().revocations)
    assert said == "workers were told to revoke its tasks. What a worker has begun goes on."


@virtual
async def test_a_group_that_is_sent_is_asked_for_by_its_id(fake, output, capsys):
    waiting = RemoteTask[..., int]("proj.waiting")
    fake.task(waiting, lambda: 5, delay=3.0)
    console = Console(output=str(output))
    async with FiboClient(transport=fake) as client:
        assert await flows.send(client, console, group(add(1), waiting()), {}) is ExitCode.OK
        group_id = output.read_text().strip()
        await asyncio.sleep(1)
        assert await tasks.stored(client, console, group_id, traceback=False) is ExitCode.NO_ANSWER
        assert capsys.readouterr().err.startswith("1 of 2 members of this group have ended.\nWait for it: fibo result")
        assert await tasks.wait(client, console, group_id, timeout=10, traceback=False) is ExitCode.OK
        assert await tasks.stored(client, console, group_id, traceback=False) is ExitCode.OK
    assert output.read_text().splitlines()[1:] == ["[1, 5]", "[1, 5]"]


@virtual
async def test_a_group_whose_member_failed_says_which(fake, output, capsys):
    console = Console(output=str(output))
    async with FiboClient(transport=fake) as client:
        await flows.send(client, console, group(add(1), fail(), slow()), {})
        group_id = output.read_text().strip()
        await asyncio.sleep(1)
        assert await tasks.stored(client, console, group_id, traceback=False) is ExitCode.FAILED
    assert capsys.readouterr().err.startswith(f"Error: task[{fake.sent[1].task_id}], member 2 of 3, raised")


@virtual
async def test_what_has_no_single_id_is_sent_only_to_be_waited_for(fake, output):
    async with FiboClient(transport=fake) as client:
        with pytest.raises(MessageError, match="cannot be asked for by one id: let a task follow"):
            await flows.send(client, Console(output=str(output)), group(add(1) | add(2)), {})
    fake.assert_nothing_sent()


@virtual
async def test_a_flow_that_is_sent_tells_all_its_ids(fake, output):
    console = Console(as_json=True, output=str(output))
    async with FiboClient(transport=fake) as client:
        assert await flows.send(client, console, chain(add(1), add(2)), {"queue": "celery"}) is ExitCode.OK
        told = json.loads(output.read_text())
        assert [each["task"] for each in told["tasks"]] == ["proj.add", "proj.add"]
        assert told["id"] == told["tasks"][1]["id"]
        assert await client.celery.result(told["id"]).get(5) == 3


@virtual
async def test_a_group_of_nothing_has_no_results(fake, output):
    assert await called(fake, output, group()) is ExitCode.OK
    assert output.read_text() == "[]\n"


@pytest.fixture
def told(monkeypatch):
    """What the bar shows, as it changes: how many are done, of how many, and its text."""
    told = []

    class Told(Bar):
        def update(self, done, total, description=None):
            told.append((done, total, description))
            super().update(done, total, description)

    monkeypatch.setattr("fibo_client.cli.console.Bar", Told)
    return told


def stages(fake):
    """A task that tells how far it is, then that it rests."""
    task = RemoteTask[..., int]("proj.stages")

    async def run(request, *_):
        for meta in ({"current": 10, "total": 40}, {"done": 20}):
            request.update_state(state="PROGRESS", meta=meta)
            await asyncio.sleep(1)
        request.update_state(state="RESTING")
        await asyncio.sleep(1)
        return 5

    fake.task(task, run, bind=True)
    return task


@virtual
async def test_the_bar_shows_how_many_tasks_have_ended_and_what_one_that_runs_tells(fake, output, told):
    flow = chain(add(1), stages(fake)(), add(2))
    assert await called(fake, output, flow) is ExitCode.OK
    names = "proj.add | proj.stages | proj.add"
    assert told == [
        (1, 3, names),
        (1, 3, "proj.stages: 10/40"),
        (1, 3, "proj.stages: 20"),
        (1, 3, "proj.stages: RESTING"),
        (2, 3, names),
        (3, 3, names),
    ]


@virtual
async def test_the_bar_goes_on_with_a_group_that_was_saved(fake, output, told):
    members = [RemoteTask[..., int](f"proj.after_{seconds}")() for seconds in (1, 2)]
    for seconds, member in enumerate(members, 1):
        fake.task(member.task, lambda: 5, delay=float(seconds))
    console = Console(output=str(output))
    async with FiboClient(transport=fake) as client:
        await flows.send(client, console, group(members), {})
        group_id = output.read_text().strip()
        assert await tasks.wait(client, console, group_id, timeout=10, traceback=False) is ExitCode.OK
    assert told == [(1, 2, "a group of 2"), (2, 2, "a group of 2")]


@virtual
async def test_a_hint_at_the_wrong_queue_ends_with_the_first_sign_of_life(fake, output, capsys):
    flow = chain(add(1), add(2).with_options(queue="nobodys"))
    assert await called(fake, output, flow, options={"queue": "celery"}) is ExitCode.NO_ANSWER
    assert "Still waiting" not in capsys.readouterr().err
    assert await called(fake, output, flow.with_options(queue="nobodys")) is ExitCode.NO_ANSWER
    assert "Still waiting: no worker takes tasks from 'nobodys'" in capsys.readouterr().err


async def saved(client, output, *members, options=None):
    """Send a group by the command; its id, and those of its members."""
    console = Console(as_json=True, output=str(output))
    assert await flows.send(client, console, group(members), options or {}) is ExitCode.OK
    told = json.loads(output.read_text())
    return told["id"], [each["id"] for each in told["tasks"]]


@pytest.mark.parametrize("as_json", [True, False])
@virtual
async def test_a_saved_group_is_diagnosed_by_the_member_that_is_waited_for(fake, output, capsys, as_json):
    async with FiboClient(transport=fake) as client:
        group_id, (_, second, _) = await saved(client, output, add(1), slow(), slow())
        console = Console(as_json=as_json, output=str(output))
        assert await workers.diagnose(client, console, group_id, task=None, queue=None, timeout=1) is ExitCode.OK
    if as_json:
        told = json.loads(output.read_text())
        assert (told["task_id"], told["step"], told["cause"]) == (second, "member 2 of 3", "running")
    else:
        assert output.read_text().startswith(f"task[{second}], member 2 of 3, is PENDING: celery@fake holds it")
    assert capsys.readouterr().err == ""


@virtual
async def test_what_is_said_of_a_group_goes_for_its_members(fake, output):
    async with FiboClient(transport=fake) as client:
        group_id, _ = await saved(client, output, add(1), add(2), options={"queue": "nobodys"})
        console = Console(output=str(output))
        given = {"task": "proj.add", "queue": "nobodys", "timeout": 1}
        assert await workers.diagnose(client, console, group_id, **given) is ExitCode.OK
    assert "member 1 of 2, is PENDING: no worker takes tasks from 'nobodys'" in output.read_text()
    assert output.read_text().startswith("proj.add[")


@virtual
async def test_of_an_id_of_which_nothing_is_known_it_is_said_how_to_ask_about_a_group(fake, output, capsys):
    async with FiboClient(transport=fake) as client:
        unsaved = await client.celery.send(group(slow(), slow()))
        console = Console(output=str(output))
        asked = {"task": None, "queue": None, "timeout": 1}
        assert await workers.diagnose(client, console, unsaved.id, **asked) is ExitCode.OK
        assert "ask about its tasks by their own ids." in capsys.readouterr().err
        assert await workers.diagnose(client, console, unsaved[0].id, **asked) is ExitCode.OK
        assert capsys.readouterr().err == ""
        with pytest.raises(LookupError, match="Its tasks are found by their own ids"):
            await client.celery.group(unsaved.id)


@virtual
async def test_a_saved_group_is_revoked_by_revoking_its_members(fake, output, capsys):
    async with FiboClient(transport=fake) as client:
        members = add(1), slow(), add(3).with_options(countdown=60)
        group_id, (first, second, third) = await saved(client, output, *members)
        await asyncio.sleep(1)
        console = Console(as_json=True, output=str(output))
        ids = ["another", group_id]
        assert await tasks.revoke(client, console, ids, terminate=False, signal="SIGTERM") is ExitCode.OK
        assert set(fake.revoked) == {"another", first, second, third}
        told = json.loads(output.read_text())
        assert told["ids"] == ["another", first, second, third]
        assert told["running"] == {second: "celery@fake"}
        assert told["finished"] == {"another": "REVOKED", first: "SUCCESS", third: "REVOKED"}


@virtual
async def test_a_task_is_revoked_also_where_no_group_can_be_looked_for(fake, output):
    async with FiboClient(transport=fake) as client:
        silent = asyncio.Event()

        async def get(name):
            await silent.wait()

        client.celery._session.backend.get = get
        began = asyncio.get_running_loop().time()
        console = Console(output=str(output))
        assert await tasks.revoke(client, console, ["a"], terminate=False, signal="SIGTERM") is ExitCode.OK
        assert asyncio.get_running_loop().time() - began < 3
    assert fake.revoked == ["a"]
