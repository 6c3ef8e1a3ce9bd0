"""A call whose `await` was forgotten says so, and is else what every coroutine is."""

import asyncio
import inspect
from unittest import mock

import anyio
import anyio.lowlevel
import pytest

from fibo_client import FIBONACCI, FiboClient
from fibo_client.celery import CeleryClient
from fibo_client.celery.result import AsyncResult
from fibo_client.testing import FakeFibo

CALLS = {
    "submit": (lambda client: client.submit(5), "handle = await client.submit(...)"),
    "submit_many": (lambda client: client.submit_many([5]), "handles = await client.submit_many(...)"),
    "send_task": (lambda client: client.celery.send_task(FIBONACCI(5)), "result = await client.send_task(...)"),
    "send_many": (lambda client: client.celery.send_many(FIBONACCI, [(5,)]), "results = await client.send_many(...)"),
}
each_call = pytest.mark.parametrize(("call", "spelling"), CALLS.values(), ids=CALLS)


@pytest.fixture
async def client():
    async with FiboClient(transport=FakeFibo()) as client:
        yield client


@each_call
async def test_what_is_asked_of_a_call_that_was_not_awaited_is_refused_with_how_to_write_it(client, call, spelling):
    for ask in (
        lambda given: given.get(),
        lambda given: given.id,
        lambda given: given.append(1),
        lambda given: given[0],
        lambda given: list(given),
    ):
        given = call(client)
        with pytest.raises((AttributeError, TypeError), match="this is a coroutine, not its answer; write: ") as caught:
            ask(given)
        assert str(caught.value).endswith(spelling)
        assert repr(given).endswith(f"{spelling}>")
        given.close()


@each_call
async def test_a_call_that_is_never_awaited_is_named_by_python(client, call, spelling):
    name = spelling.split("client.")[1].removesuffix("(...)")
    with pytest.warns(RuntimeWarning, match=rf"coroutine '\w+\.{name}' was never awaited"):
        call(client)


@each_call
async def test_whatever_takes_a_coroutine_takes_a_call(client, call, spelling):
    del spelling
    answers = [await call(client), await asyncio.create_task(call(client)), *await asyncio.gather(call(client))]
    answers.append(await asyncio.wait_for(call(client), 5))
    answers.append(await asyncio.ensure_future(call(client)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call(client))
    answers.append(task.result())
    handles = [each for answer in answers for each in (answer if isinstance(answer, list) else [answer])]
    assert len(handles) == len(answers)
    assert all(isinstance(each, AsyncResult) for each in handles)
    assert await client.celery.gather(handles) == [5] * len(handles)


@each_call
async def test_a_task_of_a_call_is_shown_by_its_name_and_can_be_cancelled(client, call, spelling):
    task = asyncio.create_task(call(client))
    assert spelling.split("client.")[1].removesuffix("(...)") in repr(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CLOSED


async def test_a_task_group_of_anyio_starts_a_call_and_cancels_it(client):
    with anyio.move_on_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(client.submit, 5)
            group.start_soon(client.submit, 6)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()


def test_a_call_can_be_run_by_asyncio():
    async def main():
        async with FiboClient(transport=FakeFibo()) as client:
            loop = asyncio.get_running_loop()
            there = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(client.submit(5), loop).result(20))
            assert await there.get() == 5

    asyncio.run(main())


@pytest.mark.parametrize("kind", [FiboClient, CeleryClient])
async def test_a_mock_of_a_client_answers_with_coroutines(kind):
    name = "submit" if kind is FiboClient else "send_task"
    double = mock.create_autospec(kind, instance=True)
    getattr(double, name).return_value = 5
    assert await getattr(double, name)(4) == 5
    getattr(double, name).assert_awaited_once_with(4)
