"""A diagnosis with workers before Celery 5.7: asked for a task by its id, they pass over those held for later."""

import asyncio
import dataclasses

import pytest
from support.clock import virtual

from fibo_client.celery import Cause, CeleryClient, Diagnosis
from fibo_client.celery.inspect import Inspect
from fibo_client.testing import FakeCelery


@pytest.fixture(autouse=True)
def older_worker(monkeypatch):
    """Let the double's worker answer as a worker before Celery 5.7."""
    ask = Inspect.query_task

    async def query_task(self, task_ids):
        replies = await ask(self, task_ids)
        return {
            node: {task_id: answer for task_id, answer in held.items() if answer[0] != "scheduled"}
            for node, held in replies.items()
        }

    monkeypatch.setattr(Inspect, "query_task", query_task)


@pytest.fixture
def fake():
    fake = FakeCelery(nodes=["one@host", "two@host"])
    fake.task("proj.slow", lambda: asyncio.sleep(100))
    fake.task("proj.flaky", lambda task: task.retry(countdown=50), bind=True)
    return fake


@virtual
async def test_a_task_for_later_is_scheduled(fake):
    async with CeleryClient(transport=fake) as celery:
        for_later = await celery.send_task("proj.slow", countdown=50)
        diagnosis = await celery.diagnose(for_later)
    assert (diagnosis.cause, diagnosis.held) == (Cause.SCHEDULED, {"one@host": "scheduled"})


@virtual
async def test_a_task_that_waits_for_its_next_try_is_scheduled(fake):
    async with CeleryClient(transport=fake) as celery:
        flaky = await celery.send_task("proj.flaky")
        await asyncio.sleep(1)
        diagnosis = await celery.diagnose(flaky)
    assert (diagnosis.state, diagnosis.cause) == ("RETRY", Cause.SCHEDULED)


@virtual
async def test_a_task_whose_time_comes_between_two_questions_is_not_lost(fake, monkeypatch):
    ask = Inspect.scheduled

    async def scheduled(self):
        await asyncio.sleep(50)
        return await ask(self)

    monkeypatch.setattr(Inspect, "scheduled", scheduled)
    async with CeleryClient(transport=fake) as celery:
        for_later = await celery.send_task("proj.slow", countdown=50)
        assert (await celery.diagnose(for_later)).cause is Cause.RUNNING


@virtual
async def test_of_a_task_that_is_over_nobody_is_asked_for_all_that_is_held_for_later(fake, monkeypatch):
    monkeypatch.delattr(Inspect, "scheduled")
    fake.task("proj.quick", lambda: 1)
    async with CeleryClient(transport=fake) as celery:
        handle = await celery.send_task("proj.quick")
        assert await handle == 1
        assert (await celery.diagnose(celery.result(handle.id))).cause is Cause.FINISHED


@virtual
async def test_an_answer_that_is_no_list_of_tasks_for_later_holds_none(fake, monkeypatch):
    async def scheduled(self):
        return {"one@host": {"error": "KeyError('scheduled')"}, "two@host": [None, {}, {"request": {"id": ["x"]}}]}

    monkeypatch.setattr(Inspect, "scheduled", scheduled)
    async with CeleryClient(transport=fake) as celery:
        for_later = await celery.send_task("proj.slow", countdown=50)
        assert (await celery.diagnose(for_later)).cause is Cause.GONE


FOUND = Diagnosis(
    task_id="id",
    task="proj.add",
    state="PENDING",
    cause=Cause.UNKNOWN_TASK,
    queue="q",
    guessed=False,
    depth=1,
    ahead=0,
    searched=True,
    sent=True,
    workers=("a", "b", "c", "d"),
    silent=0,
    listening=(),
    registered=(),
    unregistered=(),
    held={},
    since=None,
    elsewhere={},
)


@pytest.mark.parametrize(
    ("listening", "registered", "said"),
    [
        (("b",), ("a",), "b takes tasks from 'q' and knows none of that name; a does, but takes none from there: send"),
        (("b", "c"), ("a", "d"), "b, c take tasks from 'q' and know none of that name; a, d do, but take none from"),
        (("a", "b"), ("a", "d"), "b takes tasks from 'q', too, and knows none of that name, a does: give each kind of"),
        (("b",), (), "no worker that takes from its queue knows a task of that name: check the module"),
    ],
)
def test_of_a_task_that_no_worker_of_its_queue_knows_it_is_said_who_does(listening, registered, said):
    refusing = tuple(each for each in listening if each not in registered)
    found = dataclasses.replace(FOUND, listening=listening, registered=registered, unregistered=refusing)
    assert found.finding().startswith(said)


@pytest.mark.parametrize("cause", [Cause.NO_REPLY, Cause.NEVER_PUBLISHED])
def test_a_task_is_not_said_to_be_absent_from_a_queue_that_was_not_searched_to_the_end(cause):
    found = dataclasses.replace(FOUND, cause=cause, ahead=None, sent=False, silent=1)
    assert "it is not in the queue 'q'" in found.finding()
    partly = dataclasses.replace(found, searched=False, depth=3).finding()
    assert "it was not seen in the queue 'q', but not all of its 3 messages were looked at" in partly
