"""A question whose `await` was forgotten says so, and is else what every coroutine is."""

import asyncio
import inspect
import re

import pytest

from fibo_client import FiboClient
from fibo_client.testing import FakeFibo

QUESTIONS = {
    "result.ready": (lambda _, result: result.ready(), False),
    "result.state": (lambda _, result: result.state(), "PENDING"),
    "client.ready": (lambda client, result: client.ready([result]), [False]),
}
each_question = pytest.mark.parametrize(("ask", "answer"), QUESTIONS.values(), ids=QUESTIONS)


@pytest.fixture
async def client():
    async with FiboClient(transport=FakeFibo()) as client:
        yield client


@pytest.fixture
def result(client):
    return client.celery.result("nobody-sent-this")


@each_question
async def test_whatever_takes_a_coroutine_takes_a_question(client, result, ask, answer):
    answers = [await ask(client, result), await asyncio.create_task(ask(client, result))]
    answers += await asyncio.gather(ask(client, result))
    answers.append(await asyncio.wait_for(ask(client, result), 5))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask(client, result))
    answers.append(task.result())
    assert answers == [answer] * 5


@each_question
async def test_a_task_that_is_shown_before_or_while_it_runs_goes_on(client, result, ask, answer):
    task = asyncio.create_task(ask(client, result))
    for _ in range(3):
        assert re.match(r"<Task pending .* coro=<\w", repr(task))
        await asyncio.sleep(0)  # A step further.
    assert await task == answer


@each_question
async def test_a_question_that_was_begun_is_not_closed_by_who_takes_it_for_its_answer(client, result, ask, answer):
    question = ask(client, result)
    task = asyncio.create_task(question)
    await asyncio.sleep(0)  # It begins.
    with pytest.raises(TypeError, match="this is a coroutine, not its answer; write: await "):
        question == "SUCCESS"  # noqa: B015 # what is tested
    assert await task == answer


@pytest.mark.parametrize("name", ["submit", "submit_many", "fibonacci", "fibonacci_many"])
def test_what_sends_is_a_coroutine_function_for_those_who_look(name):
    # As Starlette does before it runs a background task: in a thread, if it is none.
    assert inspect.iscoroutinefunction(getattr(FiboClient(), name))
