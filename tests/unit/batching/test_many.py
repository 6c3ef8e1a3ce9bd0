"""Many numbers in one call: how they are packed, and what comes of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.worker import NOTHING, leftovers, memory_client, value

from fibo_client.celery.redis.options import RedisOptions
from fibo_client.errors import MessageError, PublishError, ResultDecodeError, ResultTimeoutError, TaskFailedError

BIG = 1_000_000


async def settle(rounds=10):
    for _ in range(rounds):
        await asyncio.sleep(0)


@virtual
async def test_many_numbers_travel_in_few_tasks():
    async with memory_client() as (client, worker):
        assert await client.fibonacci_many(range(1500)) == [value(n) for n in range(1500)]
        assert [len(job.numbers) for job in worker.jobs] == [1000, 500]
        assert len(worker.broker.commands) == 1


@virtual
async def test_equal_numbers_are_computed_once_and_answered_each():
    async with memory_client() as (client, worker):
        numbers = [5, 0, 5, BIG, 0, 5]
        assert await client.fibonacci_many(numbers) == [value(n) for n in numbers]
        assert sorted(n for job in worker.jobs for n in job.numbers) == [0, 5, BIG]


@virtual
async def test_nothing_is_sent_for_no_numbers():
    async with memory_client() as (client, worker):
        assert await client.fibonacci_many([]) == []
        assert worker.jobs == []


@virtual
async def test_large_numbers_go_to_the_last_priority():
    async with memory_client(redis=RedisOptions(priority_steps=(0, 2, 5))) as (client, worker):
        await client.fibonacci_many([5, BIG, 6])
        assert [(job.numbers, job.priority) for job in worker.jobs] == [([5, 6], 0), ([BIG], 5)]
        await client.fibonacci_many([5, BIG], priority=2, queue="other")
        assert [(job.priority, job.queue) for job in worker.jobs[2:]] == [(2, "other"), (2, "other")]


@virtual
async def test_one_number_a_task_where_the_chunk_size_says_so():
    async with memory_client() as (client, worker):
        assert await client.fibonacci_many([1, 2, 3], chunk_size=1) == [value(1), value(2), value(3)]
        assert [(job.numbers, job.alone) for job in worker.jobs] == [([1], True), ([2], True), ([3], True)]
        await client.fibonacci_many(range(10), chunk_size=4)
        assert [len(job.numbers) for job in worker.jobs[3:]] == [4, 4, 2]


@pytest.mark.parametrize(
    ("chunk_size", "error"), [(0, ValueError), (1001, ValueError), (True, TypeError), ("5", TypeError)]
)
def test_a_chunk_size_that_is_none_is_refused(chunk_size, error):
    @virtual
    async def run():
        async with memory_client() as (client, worker):
            with pytest.raises(error, match="chunk_size"):
                await client.fibonacci_many([1], chunk_size=chunk_size)
            assert worker.jobs == []

    run()


@virtual
async def test_bad_numbers_and_options_are_refused_before_anything_is_sent():
    async with memory_client() as (client, worker):
        with pytest.raises(ValueError, match="0 or more"):
            await client.fibonacci_many([1, -1])
        with pytest.raises(MessageError, match="queue"):
            await client.fibonacci_many([1], queue="\n")
        assert worker.jobs == []


@virtual
async def test_a_number_that_fails_raises_its_error_which_names_it():
    async with memory_client() as (client, worker):
        worker.refused = {6}
        with pytest.raises(TaskFailedError) as caught:
            await client.fibonacci_many([5, 6, 7])
        assert caught.value.__notes__ == ["n = 6"]
        assert caught.value.task_id == worker.jobs[0].task_id


@virtual
async def test_a_number_that_fails_fails_alone_where_exceptions_are_asked_for():
    async with memory_client() as (client, worker):
        worker.refused = {6}
        first, second, third, fourth = await client.fibonacci_many([5, 6, 7, 6], return_exceptions=True)
        assert (first, third) == (value(5), value(7))
        assert isinstance(second, TaskFailedError)
        assert isinstance(fourth, TaskFailedError)


@virtual
async def test_a_task_that_fails_fails_its_numbers_alone_where_exceptions_are_asked_for():
    async with memory_client() as (client, worker):
        worker.delay = None
        call = asyncio.create_task(client.fibonacci_many(range(4), chunk_size=2, return_exceptions=True))
        await settle()
        worker.fail(worker.jobs[0])
        worker.store.put(worker.jobs[1].task_id, result=["1", "2", "3"])
        errors = await call
        assert [type(error) for error in errors] == [TaskFailedError] * 2 + [ResultDecodeError] * 2
        assert len({id(error) for error in errors}) == 4


@virtual
async def test_a_task_that_fails_ends_the_call_at_once_and_revokes_the_others():
    async with memory_client() as (client, worker):
        worker.delay = None
        call = asyncio.create_task(client.fibonacci_many(range(4), chunk_size=2))
        await settle()
        worker.fail(worker.jobs[1])
        with pytest.raises(TaskFailedError):
            await call
        await settle()
        assert worker.revoked == [worker.jobs[0].task_id]


@virtual
async def test_a_timeout_tells_what_did_finish():
    async with memory_client() as (client, worker):
        worker.delay = lambda job: 0.1 if 0 in job.numbers else None
        with pytest.raises(ResultTimeoutError, match="4 of 6 results") as caught:
            await client.fibonacci_many([0, 2, 1, 3, 0, 2], chunk_size=2, timeout=1)
        # 0 and 2 share a task, as do 1 and 3.
        assert caught.value.finished == {0: value(0), 1: value(2), 4: value(0), 5: value(2)}
        assert caught.value.total == 6
        assert caught.value.task_ids == (worker.jobs[1].task_id,)
        assert leftovers(client) == NOTHING


@virtual
async def test_a_cancelled_call_revokes_what_is_unanswered():
    async with memory_client() as (client, worker):
        worker.delay = lambda job: 0.1 if 0 in job.numbers else None
        call = asyncio.create_task(client.fibonacci_many(range(4), chunk_size=2))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await settle()
        assert worker.revoked == [worker.jobs[1].task_id]
        await asyncio.sleep(2)
        assert worker.jobs[0].task_id in worker.deleted


@virtual
async def test_what_is_not_sent_is_said():
    async with memory_client() as (client, worker):
        worker.broker.outcomes.append(PublishError("no", refused=True))
        with pytest.raises(PublishError):
            await client.fibonacci_many(range(10))


NUMBERS = st.lists(
    st.one_of(st.integers(0, 20), st.sampled_from([0, 9_999, 199_999, 200_000, BIG, 10_000_000])), max_size=60
)


@given(
    numbers=NUMBERS,
    chunk_size=st.sampled_from([1, 2, 3, 1000]),
    delays=st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.6]), min_size=1, max_size=6),
    lost=st.sets(st.integers(0, 20), max_size=3),
    refused=st.sets(st.integers(0, 20), max_size=3),
    return_exceptions=st.booleans(),
    cancel_after=st.sampled_from([None, None, 0.0, 0.1]),
    push=st.booleans(),
)
def test_any_numbers_give_what_a_loop_over_them_would(
    numbers, chunk_size, delays, lost, refused, return_exceptions, cancel_after, push
):
    def expected(n):
        return "refused" if n in refused else value(n)

    def seen(answer):
        if isinstance(answer, ResultTimeoutError):
            return "late"
        return "refused" if isinstance(answer, TaskFailedError) else answer

    async def main():
        async with memory_client(chunk_size=chunk_size, push=push) as (client, worker):
            worker.refused = refused
            coming = iter(delays * 1000)
            worker.delay = lambda job: None if lost & set(job.numbers) else next(coming)
            call = asyncio.create_task(client.fibonacci_many(numbers, timeout=5, return_exceptions=return_exceptions))
            if cancel_after is not None:
                asyncio.get_running_loop().call_later(cancel_after, call.cancel)
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                assert cancel_after is not None
            elif isinstance(outcome, ResultTimeoutError):
                finished = {index: seen(each) for index, each in outcome.finished.items()}
                assert finished == {index: expected(numbers[index]) for index in finished}
                assert not return_exceptions
                assert any(n in lost for n in numbers)
                assert not any(numbers[index] in lost for index in finished)
            elif isinstance(outcome, TaskFailedError):
                assert not return_exceptions
                assert outcome.exc_args[0] in {f"no {n}" for n in numbers if n in refused}
            else:
                answers = [seen(each) for each in outcome]
                late = {n for n, answer in zip(numbers, answers, strict=True) if answer == "late"}
                assert answers == ["late" if n in late else expected(n) for n in numbers]
                assert return_exceptions or not refused & set(numbers) | late
                assert bool(late) == bool(lost & set(numbers))
            assert leftovers(client) == NOTHING

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
