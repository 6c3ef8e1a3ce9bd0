"""Whether a worker stores the result of a task, by how it declares the task: what its answer says of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import virtual

from fibo_client.celery import Cause, CeleryClient, CeleryConfig
from fibo_client.celery.diagnose import _declared
from fibo_client.celery.inspect import Inspect
from fibo_client.celery.result_settings import stored_elsewhere
from fibo_client.testing import FakeCelery

OURS = CeleryConfig(broker_url="redis://localhost/0")


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: " [" not in name), st.booleans()))
def test_what_celery_writes_of_each_task_is_read(declared):
    tasks = [f"{name} [ignore_result={ignored}]" for name, ignored in declared.items()]  # As in celery.worker.control.
    assert {name: _declared(tasks, name) for name in declared} == declared


def test_a_declaration_that_the_answer_lacks_is_unknown():
    tasks = ["a", "b [rate_limit=10/s]", "c [ignore_result=1]", "d [ignore_result=True", None, 5, ["e"], {"f": 1}]
    assert [_declared(tasks, task) for task in ("a", "b", "c", "d", "e", "f", "g", None)] == [None] * 8


@pytest.mark.parametrize("answer", [None, "a [ignore_result=True]", 5, {"error": "KeyError('registered')"}])
def test_an_answer_that_is_not_a_list_declares_nothing(answer):
    assert _declared(answer, "a") is None


@pytest.mark.parametrize("conf", [{}, None, {"error": "KeyError('conf')"}])
def test_the_declaration_is_told_whatever_the_worker_says_of_its_settings(conf):
    assert "it declares the task with ignore_result=True" in stored_elsewhere(conf, OURS, True)
    for declared in (False, None):
        assert stored_elsewhere(conf, OURS, declared) is None


def test_the_setting_of_the_app_is_told_unless_the_task_is_declared_to_have_a_result():
    conf = {"task_ignore_result": True, "broker_url": "redis://localhost/0", "result_backend": "redis://localhost/0"}
    for declared in (True, None):  # Of a task that is declared neither way, a worker tells its app's setting.
        assert "task_ignore_result is set" in stored_elsewhere(conf, OURS, declared)
    assert stored_elsewhere(conf, OURS, False) is None


async def over(celery, task, **options):
    handle = await celery.send_task(task, **options)
    assert await celery.call("proj.add", (1, 2)) == 3  # The worker has one process: the first task is over.
    return await celery.diagnose(handle)


@pytest.fixture
def fake():
    fake = FakeCelery(concurrency=1)
    fake.task("proj.add", lambda x, y: x + y)
    fake.task("proj.forgetful", returns=5, ignore_result=True)
    return fake


@virtual
async def test_a_task_that_is_over_and_is_declared_to_have_no_result_is_not_called_gone(fake):
    async with CeleryClient(transport=fake) as celery:
        diagnosis = await over(celery, "proj.forgetful")
        assert (diagnosis.cause, set(diagnosis.elsewhere)) == (Cause.STORED_ELSEWHERE, {"celery@fake"})
        assert "celery@fake: it declares the task with ignore_result=True" in str(diagnosis)
        assert (await over(celery, "proj.forgetful", ignore_result=False)).cause is Cause.FINISHED


@virtual
async def test_while_it_runs_it_is_said_that_no_result_may_come(fake):
    fake.task("proj.forgetful", returns=5, ignore_result=True, delay=100)
    async with CeleryClient(transport=fake) as celery:
        diagnosis = await celery.diagnose(await celery.send_task("proj.forgetful"))
    assert diagnosis.cause is Cause.RUNNING
    assert "Its result may not come here: celery@fake: it declares the task" in str(diagnosis)


@virtual
async def test_a_worker_that_does_not_say_how_it_declares_a_task_is_not_blamed(fake, monkeypatch):
    ask = Inspect.registered
    monkeypatch.setattr(Inspect, "registered", lambda self, *_: ask(self))
    async with CeleryClient(transport=fake) as celery:
        diagnosis = await over(celery, "proj.forgetful")
    assert (diagnosis.cause, diagnosis.registered, diagnosis.elsewhere) == (Cause.GONE, ("celery@fake",), {})
