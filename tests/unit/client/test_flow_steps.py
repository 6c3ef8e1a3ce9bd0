"""Which task of a chain, a group or a chord is waited for, or ended badly: what errors and diagnoses say of it."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle

import pytest
from support.clock import virtual

from fibo_client import ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import Cause, CeleryClient, RemoteTask, chain, chord, group
from fibo_client.testing import FakeCelery

add = RemoteTask[..., int]("shop.add")
slow = RemoteTask[..., int]("shop.slow")
fail = RemoteTask[..., int]("shop.fail")
total = RemoteTask[..., int]("shop.total")


@pytest.fixture
def fake() -> FakeCelery:
    fake = FakeCelery(queues=["celery"])
    fake.task(add, lambda x, y=0: x + y)
    fake.task(slow, lambda *_: 1, delay=math.inf)
    fake.task(fail, raises=ValueError("no"))
    fake.task(total, lambda numbers, more=0: sum(numbers) + more)
    return fake


@pytest.mark.parametrize(
    ("flow", "step", "task"),
    [
        (chain(slow(), add.s(1), add.s(2)), "step 1 of 3", "shop.slow"),
        (chain(add(1), slow.s(), add.s(2)), "step 2 of 3", "shop.slow"),
        (chain(add(1), add.s(2), slow.s()), "step 3 of 3", "shop.slow"),
        (group(add(1), slow(), slow()), "member 2 of 3", "shop.slow"),
        (chord([add(1), slow()], total()), "member 2 of 2 of the header", "shop.slow"),
        (chord([add(1), add(2)], slow.s()), "the body", "shop.slow"),
        (chord([add(1)], total() | slow.s()), "the body, step 2 of 2", "shop.slow"),
        (chain(add(1), group(add.s(1), slow.s())), "step 2 of 2, member 2 of 2", "shop.slow"),
        (group(add(1), add(2) | slow.s() | add.s(1)), "member 2 of 2, step 2 of 3", "shop.slow"),
        (add(1) | group(add.s(1), slow.s()) | total.s(), "step 2 of 2, member 2 of 2 of the header", "shop.slow"),
        (chain(add(1), add.s(2).with_options(queue="nobodys"), add.s(3)), "step 2 of 3", "shop.add"),
    ],
)
@virtual
async def test_a_timeout_names_the_task_that_is_waited_for_and_where_it_stands(fake, flow, step, task):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(flow)
        for ask in (result.get(3), client.call(flow, timeout=3), _last(result.updates(3))):
            with pytest.raises(ResultTimeoutError) as caught:
                await ask
            error = caught.value
            assert (error.step, error.task, error.waited) == (step, task, pytest.approx(3, abs=0.1))
            assert str(error).startswith(f"no answer from {task}[{error.task_ids[0]}], {step}, within 3 s")
        diagnosis = await client.diagnose(result)
        by_error = await client.diagnose(error)
        assert (diagnosis.task_id, diagnosis.step, diagnosis.sent) == (error.task_ids[0], step, True)
        assert (by_error.task_id, by_error.step, by_error.cause) == (diagnosis.task_id, step, diagnosis.cause)
        assert diagnosis.cause is (Cause.RUNNING if task == "shop.slow" else Cause.NOT_LISTENING)
        assert f"], {step}, is PENDING" in str(diagnosis)


async def _last(updates):
    async for _ in updates:
        pass


FAILING = [
    (chain(fail(), add.s(1), add.s(2)), "step 1 of 3"),
    (chain(add(1), fail.s(), add.s(2)), "step 2 of 3"),
    (chain(add(1), add.s(2), fail.s()), "step 3 of 3"),
    (group(add(1), add(2), fail()), "member 3 of 3"),
    (chord([add(1), fail(), add(2)], total()), "member 2 of 3 of the header"),
    (chord([add(1), add(2) | fail.s() | add.s(1)], total()), "member 2 of 2 of the header, step 2 of 3"),
    (chord([add(1), add(2)], fail.s()), "the body"),
    (chord([add(1)], total() | fail.s()), "the body, step 2 of 2"),
    (chain(add(1), group(add.s(1), fail.s())), "step 2 of 2, member 2 of 2"),
    (add(1) | group(add.s(1), fail.s()) | total.s(), "step 2 of 2, member 2 of 2 of the header"),
]


@pytest.mark.parametrize(("flow", "step"), FAILING)
@virtual
async def test_a_failure_says_where_the_task_that_failed_stands(fake, flow, step):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(flow)
        again = await client.send(flow)
        async with client.start(flow) as owned:
            for ask in (result.get(3), client.call(flow, timeout=3), owned.get(), client.gather([again], timeout=3)):
                with pytest.raises(TaskFailedError) as caught:
                    await ask
                error = caught.value
                assert (error.step, error.task) == (step, "shop.fail")
                assert str(error) == f"shop.fail[{error.task_id}], {step}, raised ValueError('no')"
                assert error.__notes__[0].startswith("Remote traceback:")
                assert len(error.__notes__) == 1
        (error,) = await client.call_many([flow], return_exceptions=True)
        assert error.step == step


@virtual
async def test_a_failure_says_where_its_task_stands_also_when_its_turn_comes_after_the_end_of_the_whole(fake):
    async with CeleryClient(transport=fake) as client:
        for flow, step in FAILING:
            result = await client.send(flow)
            await asyncio.sleep(5)  # The steps after it have failed, too.
            with pytest.raises(TaskFailedError) as caught:
                await result
            assert caught.value.step == step


@virtual
async def test_a_task_that_was_revoked_says_where_it_stands(fake):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chord([add(1), add(2).with_options(countdown=2), add(3)], total()))
        await client.revoke(result.header[1].id)
        with pytest.raises(TaskRevokedError) as caught:
            await result.get(5)
        error = caught.value
        assert (error.step, error.task_id) == ("member 2 of 3 of the header", result.header[1].id)
        assert str(error) == f"shop.add[{error.task_id}], member 2 of 3 of the header, has no answer: it was revoked"
        assert (pickle.loads(pickle.dumps(error)).step, str(copy.copy(error))) == (error.step, str(error))


@virtual
async def test_a_task_alone_stands_nowhere(fake):
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(TaskFailedError) as caught:
            await client.call(fail())
        assert caught.value.step is None
        linked = fail().with_options(link=add.s(1))
        with pytest.raises(TaskFailedError) as caught:
            await client.call(linked)
        assert caught.value.step is None


@virtual
async def test_a_task_whose_successor_has_run_is_not_waited_for(fake):
    forgetful = RemoteTask[..., int]("shop.forgetful")
    fake.task(forgetful, lambda x: x, ignore_result=True)
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chain(add(1), forgetful.s(), add.s(1), slow.s()))
        with pytest.raises(ResultTimeoutError) as caught:
            await result.get(3)
        assert (caught.value.step, caught.value.task_ids[0]) == ("step 4 of 4", result.id)


@virtual
async def test_a_diagnosis_of_a_flow_that_failed_is_that_of_the_task_that_did(fake):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chain(add(1), fail.s(), add.s(2)))
        with pytest.raises(TaskFailedError):
            await result
        diagnosis = await client.diagnose(result)
        assert (diagnosis.task, diagnosis.cause, diagnosis.step) == ("shop.fail", Cause.FINISHED, "step 2 of 3")
        assert str(diagnosis).endswith("A wait for the whole ends with its error, and no step after it runs")


@virtual
async def test_a_diagnosis_says_how_many_the_body_of_a_chord_waits_for(fake):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chord([add(1), slow(), slow()], total()))
        with pytest.raises(ResultTimeoutError):
            await result.get(1)
        diagnosis = await client.diagnose(result)
        assert diagnosis.step == "member 2 of 3 of the header"
        assert str(diagnosis).endswith("The body waits for 2 of the 3 in its header")


@virtual
async def test_a_diagnosis_of_a_flow_that_is_over_is_that_of_its_last_task(fake):
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chain(add(1), add.s(2)))
        await result
        diagnosis = await client.diagnose(result)
        assert (diagnosis.task_id, diagnosis.cause, diagnosis.step) == (result.id, Cause.FINISHED, None)


@virtual
async def test_a_member_of_a_group_that_is_known_by_its_id_alone_may_never_have_been_sent(fake):
    async with CeleryClient(transport=fake) as client:
        diagnosis = await client.diagnose(client.from_tuple([["group", None], [[["a", None], None]]]))
        assert (diagnosis.task_id, diagnosis.cause, diagnosis.step) == ("a", Cause.NEVER_PUBLISHED, "member 1 of 1")
