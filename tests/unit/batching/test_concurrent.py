"""Concurrent calls that share chunks: when they leave, who may join, and who is told what."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.worker import NOTHING, leftovers, memory_client, value

from fibo_client.batching.chunk import BatchOptions
from fibo_client.batching.concurrent import MAX_DELAY, MAX_IN_FLIGHT, SLICE
from fibo_client.celery.config import EXPIRY_MARGIN
from fibo_client.celery.protocol.meta import TaskMeta
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.errors import (
    ClientStateError,
    MessageError,
    PublishError,
    ResultDecodeError,
    ResultTimeoutError,
    TaskFailedError,
)

BIG = 1_000_000


def now() -> float:
    return asyncio.get_running_loop().time()


def calls(client, numbers, **options):
    return [asyncio.create_task(client.fibonacci(n, **options)) for n in numbers]


async def ended(tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


def told(tasks):
    """Count, by iterations of the loop, those that end in it."""
    turns = Counter()
    loop = asyncio.get_running_loop()
    for task in tasks:
        task.add_done_callback(lambda _: turns.update([loop.turn]))
    return turns


async def settle(rounds=10):
    for _ in range(rounds):
        await asyncio.sleep(0)


# Sent together.


@virtual
async def test_calls_of_one_iteration_of_the_loop_share_a_task():
    async with memory_client() as (client, worker):
        assert await asyncio.gather(*map(client.fibonacci, [4, 3, 8, 6])) == [value(n) for n in (4, 3, 8, 6)]
        assert [job.numbers for job in worker.jobs] == [[4, 3, 8, 6]]
        assert leftovers(client) == NOTHING


@virtual
async def test_callers_are_told_when_somebody_cancels_the_task_that_waits_for_them():
    async with memory_client() as (client, worker):
        worker.delay = 0.5
        (call,) = calls(client, [10], timeout=5)
        await asyncio.sleep(0.1)
        for task in asyncio.all_tasks():
            if task.get_name() == "fibo_client.batch":
                task.cancel()
        (error,) = await ended([call])
        assert isinstance(error, ClientStateError)
        assert await client.fibonacci(10, timeout=5) == value(10)
        assert leftovers(client) == NOTHING


@virtual
async def test_a_lone_call_leaves_without_delay():
    async with memory_client() as (client, worker):
        for n in range(20):
            asked = now()
            await client.fibonacci(n)
            assert worker.jobs[-1].at == asked
            assert worker.jobs[-1].alone


@virtual
async def test_equal_numbers_are_computed_once():
    async with memory_client() as (client, worker):
        assert await asyncio.gather(*map(client.fibonacci, [5] * 1000)) == [value(5)] * 1000
        assert [job.numbers for job in worker.jobs] == [[5]]


@virtual
async def test_a_number_that_is_under_way_is_not_sent_again():
    async with memory_client() as (client, worker):
        worker.delay = 1.0
        first = calls(client, [5, 6])
        await asyncio.sleep(0.5)
        second = calls(client, [5, 7])
        assert await ended(first + second) == [value(5), value(6), value(5), value(7)]
        assert [job.numbers for job in worker.jobs] == [[5, 6], [7]]
        assert now() == pytest.approx(1001.5, abs=0.1)


@virtual
async def test_a_number_that_is_answered_is_sent_again():
    async with memory_client() as (client, worker):
        await client.fibonacci(5)
        await client.fibonacci(5)
        assert [job.numbers for job in worker.jobs] == [[5], [5]]


@virtual
async def test_while_many_chunks_are_in_flight_numbers_wait_for_one_to_settle():
    async with memory_client() as (client, worker):
        worker.delay = None
        first = []
        for n in range(MAX_IN_FLIGHT):
            first += calls(client, [n])
            await settle()
        held = calls(client, range(100, 150))
        await settle()
        assert len(worker.jobs) == MAX_IN_FLIGHT
        began = now()
        worker.answer(worker.jobs[0])
        await first[0]
        await settle()
        assert worker.jobs[-1].numbers == list(range(100, 150))
        assert now() - began < MAX_DELAY
        for job in worker.jobs[1:]:
            worker.answer(job)
        assert await ended(first + held) == [value(n) for n in [*range(MAX_IN_FLIGHT), *range(100, 150)]]


@virtual
async def test_numbers_are_held_back_for_a_few_milliseconds_at_most():
    async with memory_client() as (client, worker):
        worker.delay = None
        for n in range(MAX_IN_FLIGHT):
            calls(client, [n], timeout=1)
            await settle()
        began = now()
        held = calls(client, [100], timeout=1)
        await asyncio.sleep(MAX_DELAY * 1.01)
        assert worker.jobs[-1].numbers == [100]
        assert worker.jobs[-1].at == pytest.approx(began + MAX_DELAY, abs=1e-6)
        await ended(held)


@virtual
async def test_large_numbers_go_to_the_last_priority_and_hold_no_small_one_up():
    async with memory_client(redis=RedisOptions(priority_steps=(0, 2, 5))) as (client, worker):
        worker.delay = None
        large = calls(client, range(BIG, BIG + 2 * MAX_IN_FLIGHT), timeout=1)
        await settle()
        asked = now()
        small = calls(client, [7], timeout=1)
        await settle()
        (job,) = [job for job in worker.jobs if job.numbers == [7]]
        assert (job.at, job.priority) == (asked, 0)
        assert {each.priority for each in worker.jobs if each is not job} == {5}
        await ended(large + small)


@virtual
async def test_a_priority_of_ones_own_holds_for_large_and_small():
    async with memory_client() as (client, worker):
        await asyncio.gather(*calls(client, [7, BIG], priority=4, queue="other"))
        assert [(job.numbers, job.priority, job.queue) for job in worker.jobs] == [
            ([7], 4, "other"),
            ([BIG], 4, "other"),
        ]


@virtual
async def test_calls_with_other_options_do_not_share():
    async with memory_client() as (client, worker):
        await asyncio.gather(
            client.fibonacci(5),
            client.fibonacci(5, priority=0),
            client.fibonacci(5, queue="other"),
            client.fibonacci(5),
        )
        assert Counter((job.queue, job.priority) for job in worker.jobs) == {("celery", 0): 2, ("other", 0): 1}


@virtual
async def test_a_bad_queue_or_priority_is_refused_before_anything_is_sent():
    async with memory_client() as (client, worker):
        with pytest.raises(MessageError, match="priority"):
            await client.fibonacci(5, priority=10)
        with pytest.raises(MessageError, match="queue"):
            await client.fibonacci(5, queue="")
        assert worker.jobs == []
        assert leftovers(client) == NOTHING


@virtual
async def test_a_thousand_large_numbers_leave_over_several_iterations():
    async with memory_client() as (client, worker):
        tasks = calls(client, range(BIG, BIG + 1000))
        commands = []
        while len(worker.jobs) < 1000:
            before = len(worker.jobs)
            await asyncio.sleep(0)
            commands.append(len(worker.jobs) - before)
        assert max(commands) <= 10
        assert await ended(tasks) == [value(n) for n in range(BIG, BIG + 1000)]


@virtual
async def test_thousands_of_numbers_fill_chunks_whatever_the_order():
    numbers = [n * 7919 % 20_000 for n in range(3000)]
    async with memory_client() as (client, worker):
        assert await ended(calls(client, numbers)) == [value(n) for n in numbers]
        assert sorted(n for job in worker.jobs for n in job.numbers) == sorted(numbers)
        assert min(len(job.numbers) for job in worker.jobs[:-1]) > 100
        assert leftovers(client) == NOTHING


@virtual
async def test_numbers_that_were_held_back_when_the_client_closed_tell_their_callers_so():
    async with memory_client() as (client, worker):
        worker.delay = None
        sent = []
        for n in range(MAX_IN_FLIGHT):
            sent += calls(client, [n])
            await settle()
        held = calls(client, [100])
        await settle()
        await client.aclose()
        assert [type(error) for error in await ended(sent + held)] == [ClientStateError] * (MAX_IN_FLIGHT + 1)
        assert len(worker.jobs) == MAX_IN_FLIGHT


@virtual
async def test_one_number_a_task_where_the_chunk_size_says_so():
    async with memory_client(chunk_size=1) as (client, worker):
        assert await ended(calls(client, [1, 2, 3])) == [value(1), value(2), value(3)]
        assert [(job.numbers, job.alone) for job in worker.jobs] == [([1], True), ([2], True), ([3], True)]


# Leaving.


@virtual
async def test_one_who_is_cancelled_disturbs_nobody():
    async with memory_client() as (client, worker):
        worker.delay = 1.0
        first, second, third = calls(client, [5, 5, 6])
        await asyncio.sleep(0.5)
        first.cancel()
        assert [type(each) for each in await ended([first])] == [asyncio.CancelledError]
        assert await ended([second, third]) == [value(5), value(6)]
        assert worker.revoked == []


@virtual
async def test_when_the_last_one_is_cancelled_the_work_is_revoked():
    async with memory_client() as (client, worker):
        worker.delay = None
        tasks = calls(client, [5, 5, 6])
        await asyncio.sleep(0.5)
        for task in tasks:
            assert worker.revoked == []
            task.cancel()
            await ended([task])
            await settle()
        await asyncio.sleep(0.5)
        assert worker.revoked == [worker.jobs[0].task_id]
        assert leftovers(client) == NOTHING


@virtual
@pytest.mark.parametrize("timeout", [None, 3600])
async def test_one_who_leaves_before_the_last_deadline_has_the_work_revoked_when_the_others_time_out(timeout):
    async with memory_client() as (client, worker):
        worker.delay = None
        (patient,) = calls(client, [5], timeout=timeout)
        others = calls(client, [5, 6], timeout=1)
        await asyncio.sleep(0.5)
        patient.cancel()
        await ended([patient, *others])
        await asyncio.sleep(0.5)
        assert worker.revoked == [worker.jobs[0].task_id]


@virtual
async def test_a_number_whose_task_was_revoked_is_sent_again():
    async with memory_client() as (client, worker):
        worker.delay = None
        (task,) = calls(client, [5])
        await asyncio.sleep(0.1)
        task.cancel()
        await ended([task])
        worker.delay = 0.1
        assert await client.fibonacci(5) == value(5)
        assert len(worker.jobs) == 2


@virtual
async def test_nothing_is_sent_for_those_who_leave_in_the_same_iteration():
    async with memory_client() as (client, worker):
        request = client._batcher.join(5, BatchOptions(), now() + 1, pytest.fail)
        stays = calls(client, [6])
        client._batcher.leave(request)
        client._batcher.leave(request)
        assert await ended(stays) == [value(6)]
        assert [job.numbers for job in worker.jobs] == [[6]]
        assert leftovers(client) == NOTHING


@virtual
async def test_one_whose_time_is_up_disturbs_nobody():
    async with memory_client() as (client, worker):
        worker.delay = 2.0
        short, long = calls(client, [5], timeout=1) + calls(client, [5], timeout=3)
        began = now()
        with pytest.raises(ResultTimeoutError, match=r"fibo\.fibonacci\[.*within 1 s"):
            await short
        assert now() - began == pytest.approx(1, abs=0.06)
        assert await long == value(5)
        assert len(worker.jobs) == 1


@virtual
async def test_a_timeout_revokes_nothing():
    async with memory_client() as (client, worker):
        worker.delay = None
        errors = await ended(calls(client, [5, 5, 6], timeout=1))
        assert [type(error) for error in errors] == [ResultTimeoutError] * 3
        assert len({id(error) for error in errors}) == 3
        await asyncio.sleep(1)
        assert worker.revoked == []
        assert leftovers(client) == NOTHING


@virtual
async def test_no_timeout_is_raised_over_an_answer_that_is_there():
    async with memory_client() as (client, worker):
        worker.delay = None
        tasks = calls(client, [5], timeout=1) + calls(client, [5], timeout=1.8)
        await asyncio.sleep(0.94)
        worker.answer(worker.jobs[0], push=False)  # A push that is lost, between two polls.
        assert await ended(tasks) == [value(5), value(5)]


@virtual
@pytest.mark.parametrize("chunk_size", [1000, 5])
async def test_many_whose_time_is_up_together_are_told_in_slices(chunk_size):
    async with memory_client(chunk_size=chunk_size) as (client, worker):
        worker.delay = None
        tasks = calls(client, range(3 * SLICE), timeout=1)
        turns = told(tasks)
        assert {type(error) for error in await ended(tasks)} == {ResultTimeoutError}
        assert max(turns.values()) <= SLICE


@virtual
async def test_one_who_joins_while_others_are_told_that_time_is_up_gets_an_answer():
    async with memory_client() as (client, worker):
        worker.delay = None
        tasks = calls(client, [5] * (8 * SLICE), timeout=1)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in tasks)
        worker.delay = 0.1
        assert await client.fibonacci(5) == value(5)
        await ended(tasks)
        assert leftovers(client) == NOTHING


# Who may join.


@virtual
async def test_one_whose_deadline_is_after_the_expiry_gets_a_task_of_its_own():
    async with memory_client() as (client, worker):
        worker.delay = None
        first = calls(client, [5], timeout=1)
        await asyncio.sleep(0.5)
        fits = calls(client, [5], timeout=0.5 + EXPIRY_MARGIN)
        await settle()
        assert len(worker.jobs) == 1
        later = calls(client, [5], timeout=0.5 + EXPIRY_MARGIN + 0.01)
        await settle()
        assert [job.numbers for job in worker.jobs] == [[5], [5]]
        worker.answer(worker.jobs[1])
        assert await ended(later) == [value(5)]
        await asyncio.sleep(1)
        worker.answer(worker.jobs[0])
        assert await ended(fits) == [value(5)]
        assert [type(each) for each in await ended(first)] == [ResultTimeoutError]


@virtual
async def test_one_without_a_deadline_joins_only_what_never_expires():
    async with memory_client() as (client, worker):
        worker.delay = 1.0
        tasks = calls(client, [5], timeout=5)
        await asyncio.sleep(0.1)
        tasks += calls(client, [5], timeout=None)
        await asyncio.sleep(0.1)
        tasks += calls(client, [5], timeout=None) + calls(client, [5], timeout=5)
        assert await ended(tasks) == [value(5)] * 4
        assert [job.expires is None for job in worker.jobs] == [False, True]


@virtual
async def test_a_task_expires_after_the_last_deadline_of_those_who_shared_its_start():
    async with memory_client() as (client, worker):
        shared = calls(client, [5, 6], timeout=1) + calls(client, [7], timeout=100)
        await ended(shared)
        await ended(calls(client, [5], timeout=1))
        assert worker.jobs[0].expires > worker.jobs[1].expires


# Failures.


@virtual
async def test_a_number_that_fails_fails_alone_with_an_error_of_its_own():
    async with memory_client() as (client, worker):
        worker.refused = {6}
        first, *failed, last = await ended(calls(client, [5, 6, 6, 7]))
        assert (first, last) == (value(5), value(7))
        assert failed[0] is not failed[1]
        for error in failed:
            assert isinstance(error, TaskFailedError)
            assert (error.task_id, error.exc_type, error.exc_args) == (worker.jobs[0].task_id, "ValueError", ("no 6",))
            assert worker.jobs[0].task_id in str(error)


@virtual
async def test_a_chunk_that_fails_fails_each_of_its_numbers():
    async with memory_client() as (client, worker):
        worker.delay = None
        tasks = calls(client, [5, 6])
        await settle()
        worker.fail(worker.jobs[0])
        errors = await ended(tasks)
        assert [type(error) for error in errors] == [TaskFailedError] * 2
        assert errors[0] is not errors[1]
        assert leftovers(client) == NOTHING


@pytest.mark.parametrize("result", [["1"], ["1", "2", "3"], "1", None])
def test_an_answer_that_is_none_fails_the_calls_and_nothing_else(result):
    @virtual
    async def run():
        async with memory_client() as (client, worker):
            worker.delay = None
            tasks = calls(client, [5, 6])
            await settle()
            worker.store.put(worker.jobs[0].task_id, result=result)
            assert [type(error) for error in await ended(tasks)] == [ResultDecodeError] * 2
            worker.delay = 0.1
            assert await client.fibonacci(5) == value(5)
            assert leftovers(client) == NOTHING

    run()


@virtual
@pytest.mark.parametrize("item", [2, None, "0x1", "", {}, {"error": "no"}, {"error": ["ValueError", 1]}, ["1"]])
async def test_an_item_that_is_none_fails_alone(item):
    async with memory_client() as (client, worker):
        worker.delay = None
        tasks = calls(client, [5, 6])
        await settle()
        worker.store.put(worker.jobs[0].task_id, result=["f", item])
        good, bad = await ended(tasks)
        assert good == 15
        assert isinstance(bad, ResultDecodeError)
        assert bad.task_id == worker.jobs[0].task_id


@virtual
async def test_what_is_not_sent_fails_each_call_of_the_chunk():
    async with memory_client() as (client, worker):
        worker.broker.outcomes.append(PublishError("no", refused=True))
        errors = await ended(calls(client, [5, 6]))
        assert [type(error) for error in errors] == [PublishError] * 2
        assert await client.fibonacci(5) == value(5)
        assert leftovers(client) == NOTHING


@virtual
async def test_one_who_comes_while_others_are_told_of_a_failure_has_an_attempt_of_its_own():
    async with memory_client() as (client, worker):
        worker.broker.outcomes.append(PublishError("no", refused=True))
        tasks = calls(client, range(7 * SLICE))  # One chunk.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert not tasks[-1].done()
        assert await client.fibonacci(7 * SLICE - 1) == value(7 * SLICE - 1)
        assert {type(error) for error in await ended(tasks)} == {PublishError}
        assert leftovers(client) == NOTHING


@virtual
async def test_a_time_limit_beyond_all_dates_is_refused_and_disturbs_nobody():
    async with memory_client() as (client, _):
        good = calls(client, [5])
        (bad,) = await ended(calls(client, [6], timeout=1e12))
        assert isinstance(bad, ValueError)
        assert await ended(good) == [value(5)]


@virtual
async def test_an_expired_task_tells_each_how_long_it_waited_itself():
    async with memory_client() as (client, worker):
        worker.delay = None
        first = calls(client, [5], timeout=3)
        await asyncio.sleep(1)
        second = calls(client, [5], timeout=3)
        await asyncio.sleep(0.5)
        error = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
        worker.store.put(worker.jobs[0].task_id, "REVOKED", error)
        errors = await ended(first + second)
        assert [type(error) for error in errors] == [ResultTimeoutError] * 2
        assert [error.waited for error in errors] == [pytest.approx(1.5, abs=0.01), pytest.approx(0.5, abs=0.01)]


@virtual
async def test_a_client_that_closes_tells_everybody():
    async with memory_client() as (client, worker):
        worker.delay = None
        sent = calls(client, [5])
        await settle()
        pending = calls(client, [6])
        await asyncio.sleep(0)
        await client.aclose()
        assert [type(error) for error in await ended(sent + pending)] == [ClientStateError] * 2
        assert len(worker.jobs) == 1
        with pytest.raises(ClientStateError):
            await client.fibonacci(5)


@virtual
async def test_answers_are_told_in_slices():
    async with memory_client() as (client, worker):
        tasks = calls(client, range(3 * SLICE))
        turns = told(tasks)
        await ended(tasks)
        assert len(worker.jobs) == 1
        assert max(turns.values()) <= SLICE


@virtual
async def test_a_program_may_use_any_number_of_queues():
    async with memory_client() as (client, _):
        for number in range(300):
            await client.fibonacci(5, queue=f"queue-{number}")
        assert len(client._batcher._buckets) < 100


# All of it.

CALLS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 3, 5, 8, 9999, BIG]),
        st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.1]),  # when it is made, after the one before
        st.sampled_from([None, 0.0, 0.05, 1.0, 30.0]),  # its timeout
        st.sampled_from([None, None, None, 0.0, 0.02, 0.2]),  # when it is cancelled, after it was made
    ),
    max_size=30,
)


def check(answer, n, is_refused):
    if isinstance(answer, TaskFailedError):
        assert is_refused
        assert answer.exc_args == (f"no {n}",)
    elif not isinstance(answer, (asyncio.CancelledError, ResultTimeoutError)):
        assert not is_refused
        assert answer == value(n)


def check_time(answer, took, timeout, cancel_after):
    if isinstance(answer, asyncio.CancelledError):
        assert took == pytest.approx(cancel_after, abs=0.001)
    if isinstance(answer, ResultTimeoutError):
        assert took >= timeout - 0.001
    if timeout is not None:
        assert took <= timeout + 0.06


@given(
    plans=CALLS,
    delays=st.lists(st.sampled_from([0.0, 0.001, 0.03, 0.5, None]), min_size=1, max_size=5),
    refused=st.sets(st.sampled_from([1, 5, BIG])),
    chunk_size=st.sampled_from([1, 2, 1000]),
    push=st.booleans(),
)
def test_every_call_gets_what_it_would_get_alone(plans, delays, refused, chunk_size, push):
    async def one(client, n, timeout, cancel_after):
        call = asyncio.create_task(client.fibonacci(n, timeout=timeout))
        if cancel_after is not None:
            asyncio.get_running_loop().call_later(cancel_after, call.cancel)
        began = now()
        (answer,) = await ended([call])
        return answer, now() - began

    async def main():
        async with memory_client(chunk_size=chunk_size, push=push) as (client, worker):
            worker.refused = refused
            coming = iter(delays * 1000)
            worker.delay = lambda _: next(coming)
            made = []
            for n, pause, timeout, cancel_after in plans:
                await asyncio.sleep(pause)
                made.append(asyncio.create_task(one(client, n, timeout, cancel_after)))
            async with asyncio.timeout(60):
                if any(timeout is None for _, _, timeout, _ in plans) and None in delays:
                    await asyncio.sleep(10)
                    for job in worker.jobs:  # Somebody waits for ever, for a worker that is slow.
                        if job.expires is None:
                            worker.answer(job)
                results = await asyncio.gather(*made)
            for (n, _, timeout, cancel_after), (answer, took) in zip(plans, results, strict=True):
                check(answer, n, n in refused)
                check_time(answer, took, timeout, cancel_after)
            assert leftovers(client) == NOTHING
            await asyncio.sleep(40)
            expiring = {job.task_id for job in worker.jobs if job.expires is not None}
            assert not worker.store.values.keys() & expiring

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


@virtual
async def test_the_text_of_an_answer_is_free_at_once_and_not_when_the_garbage_collector_comes():
    async with memory_client() as (client, _):
        gc.collect()
        gc.disable()
        others = [each for each in gc.get_objects() if type(each) is TaskMeta]
        try:
            await client.fibonacci(BIG)
            await settle()
            metas = [each for each in gc.get_objects() if type(each) is TaskMeta]
            assert not [each for each in metas if not any(each is other for other in others)]
        finally:
            gc.enable()
