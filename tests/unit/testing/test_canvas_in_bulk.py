"""Chains, groups and chords wherever tasks are sent, called and collected in bulk."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual

from fibo_client import (
    ClientStateError,
    MessageError,
    PublishError,
    ResultTimeoutError,
    TaskFailedError,
    TooManyPendingError,
)
from fibo_client.celery import CeleryClient, RemoteTask, chord, group
from fibo_client.celery.flow_results import ChainResult, ChordResult, GroupResult
from fibo_client.celery.result import AsyncResult
from fibo_client.testing import FakeCelery

add = RemoteTask[..., int]("shop.add")
small = RemoteTask[..., int]("shop.add", chunkable=True)
total = RemoteTask[..., int]("shop.total")
fail = RemoteTask[..., int]("shop.fail")
slow = RemoteTask[..., int]("shop.slow")


def shop() -> FakeCelery:
    fake = FakeCelery()
    fake.task(add, lambda x, y=0: x + y)
    fake.task(total, lambda numbers, more=0: sum(numbers) + more)
    fake.task(fail, raises=ValueError("no"))
    fake.task(slow, lambda n=0: n, delay=5.0)
    return fake


def mixed():
    """One of each, and their results."""
    flows = [
        add(1, 1),
        add(1, 1) | add.s(2),
        group(add(1, 1), add(2, 2) | add.s(1)),
        chord([add(1, 1), add(2, 2)], total() | add.s(1)),
        add(2, 3).with_options(link=add.s(1)),
        add(4, 4),
    ]
    return flows, [2, 4, [2, 5], 7, 5, 8]


def left(fake: FakeCelery) -> set[str]:
    """What is stored of results and chords."""
    return {*fake._memory.results, *fake._memory.others}


# Sending.


@virtual
async def test_many_of_all_kinds_are_sent_together_and_have_their_handles_in_order():
    flows, values = mixed()
    async with CeleryClient(transport=shop()) as client:
        results = await client.send_many(iter(flows))
        kinds = [AsyncResult, ChainResult, GroupResult, ChordResult, AsyncResult, AsyncResult]
        assert [type(each) for each in results] == kinds
        assert [await each for each in results] == values
        assert await client.send_many(group(()) for _ in range(2)) != []
        assert await client.send_many([]) == []


@pytest.mark.parametrize("bad", [5, "shop.add", add, None, [add(1, 1)]])
@virtual
async def test_what_cannot_be_sent_is_refused_before_anything_is(bad):
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        for attempt in (client.send_many, client.call_many):
            with pytest.raises(TypeError, match=r"a signature is wanted, such as .*, or a chain, a group or a chord"):
                await attempt([add(1, 1) | add.s(1), add(1, 1), bad])
        with pytest.raises(MessageError, match="JSON cannot carry"):
            await client.call_many([add(1, 1) | add.s(1), add(1, 1) | add.s(object())])
    fake.assert_nothing_sent()


@virtual
async def test_an_id_that_two_tasks_of_different_flows_have_is_refused():
    fake = shop()
    mine = add(1, 1).with_options(task_id="mine")
    async with CeleryClient(transport=fake) as client:
        for flows in ([mine, add(1, 1) | mine], [mine | add.s(1), mine], [mine | add.s(1), group(mine)]):
            for attempt in (client.send_many, client.call_many):
                with pytest.raises(MessageError, match="the same task_id, mine"):
                    await attempt(flows)
    fake.assert_nothing_sent()


@virtual
async def test_flows_that_are_nested_too_deeply_are_refused():
    flow = add(1, 1)
    for _ in range(12):
        flow = flow | group(add.s(1), add.s(2)) | total()
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        assert await client.call(flow, timeout=60) > 0
        nested = total()
        for _ in range(40):
            nested = chord([add(1, 1)], nested)
        with pytest.raises(MessageError, match="more than 30 levels"):
            await client.send(nested)


# Calling.


@virtual
async def test_many_of_all_kinds_are_called_together_and_nothing_is_left_of_them():
    fake, (flows, values) = shop(), mixed()
    async with CeleryClient(transport=fake) as client:
        assert await client.call_many(flows, timeout=30) == values
        assert await client.call_many([*flows, group(())], timeout=30, return_exceptions=True) == [*values, []]
        assert client.stats().pending == 0
        await asyncio.sleep(5)
        linked = {message.task_id for message in fake.sent if message.args == (5, 1)}  # It is not awaited.
        assert left(fake) == linked


@virtual
async def test_a_flow_that_ends_badly_has_its_error_in_its_place_at_once_and_the_others_go_on():
    fake = shop()
    flows = [slow(1) | add.s(1), fail() | add.s(1), group(fail(), slow(1)), chord([fail(), slow(2)], total())]
    async with CeleryClient(transport=fake) as client:
        first, *errors = await client.call_many(flows, timeout=30, return_exceptions=True)
        assert first == 2
        assert [(type(error), error.task) for error in errors] == [(TaskFailedError, "shop.fail")] * 3
        await asyncio.sleep(0.5)
        assert client.stats().revocations.delivered >= 2  # Those beside them that had not ended.
        await asyncio.sleep(200)
        assert left(fake) == set()


@virtual
async def test_the_first_error_is_raised_and_the_other_flows_are_revoked():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TaskFailedError, match=r"shop\.fail"):
            await client.call_many([slow(1) | add.s(1), add(1, 1) | fail.s()], timeout=30)
        assert asyncio.get_running_loop().time() - began < 1
        await asyncio.sleep(200)
        assert client.stats().revocations.delivered == 2
        assert left(fake) == set()


@virtual
async def test_flows_whose_time_is_up_are_named_with_what_did_come():
    async with CeleryClient(transport=shop()) as client:
        with pytest.raises(ResultTimeoutError) as caught:
            await client.call_many([add(1, 1) | add.s(1), slow(1) | add.s(1), add(5, 5)], timeout=1)
        assert caught.value.finished == {0: 3, 2: 10}
        assert caught.value.total == 3
        late = await client.call_many([slow(1) | add.s(1), add(5, 5)], timeout=1, return_exceptions=True)
        assert (type(late[0]), late[1]) == (ResultTimeoutError, 10)


@virtual
async def test_a_caller_who_leaves_has_all_tasks_of_all_flows_revoked():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        flows = [slow(n) | add.s(1) | add.s(2) for n in range(50)]
        call = asyncio.create_task(client.call_many(flows, timeout=30))
        await asyncio.sleep(1)
        assert client.stats().pending == 150
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(200)
        revocations = client.stats().revocations
        assert (revocations.delivered, client.stats().pending) == (150, 0)
        assert left(fake) == set()


@virtual
async def test_flows_are_refused_where_more_tasks_would_be_waited_for_than_may_be():
    fake = shop()
    async with CeleryClient(transport=fake, max_pending=5) as client:
        with pytest.raises(TooManyPendingError) as caught:
            await client.call_many([add(1, 1) | add.s(2) | add.s(3), chord([add(1, 1), add(2, 2)], total())])
        assert caught.value.wanted == 6
    fake.assert_nothing_sent()


@virtual
async def test_flows_are_not_called_in_chunks():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(MessageError, match="chunk_size is for tasks"):
            await client.call_many([small(1, 1) | small.s(1)], chunk_size=2)
        with pytest.raises(MessageError, match="chunk_size is for tasks"):
            async with client.stream(lambda n: small(n, 1) | small.s(1), [1], chunk_size=2) as answers:
                _ = [each async for each in answers]
        with pytest.raises(TypeError, match="a function that makes the call of each input"):
            client.stream(add(1, 1) | add.s(1), [1])
    fake.assert_nothing_sent()


@virtual
async def test_a_group_and_a_chord_of_very_many_go_in_pieces_and_give_their_results():
    async with CeleryClient(transport=shop()) as client:
        for send in (client.call, lambda flow, timeout: gotten(client, flow, timeout)):
            assert await send(group(add(n, 1) | add.s(1) for n in range(1000)), timeout=60) == [*range(2, 1002)]
            assert await send(chord([add(n, 1) for n in range(1000)], total() | add.s(1)), timeout=60) == 500_501
        with pytest.raises(TaskFailedError, match=r"shop\.fail"):
            await client.call(chord([*(add(n, 1) for n in range(600)), fail()], total()), timeout=60)


async def gotten(client, flow, timeout):
    return await (await client.send(flow)).get(timeout)


# Sizes.


@virtual
async def test_where_the_size_of_a_chord_cannot_be_stored_nothing_is_sent_and_time_counts():
    fake = shop()
    flow = chord([add(1, 1), add(2, 2)], total())
    async with CeleryClient(transport=fake) as client:
        await client.call(add(1, 1))
        sent = len(fake.sent)
        fake._memory.down = "Redis is away"
        for attempt in (client.send, client.call, lambda flow: client.send_many([flow, flow])):
            with pytest.raises(PublishError, match="the size of a chord could not be stored: Redis is away"):
                await attempt(flow)
        fake._memory.down = None
        assert len(fake.sent) == sent
        assert await client.call(flow) == 6
        fake._memory.down = "Redis is away"
        call = asyncio.create_task(client.call(flow, retry=True, timeout=20))
        await asyncio.sleep(1)
        fake._memory.down = None
        assert await call == 6


# Collecting.


@virtual
async def test_flows_are_given_as_they_end_badly_or_well_and_once():
    async with CeleryClient(transport=shop()) as client:
        flows = [
            slow(1) | add.s(1),
            fail() | add.s(1),
            add(1, 1) | add.s(2),
            add(2, 2),
            chord([fail(), slow(1)], total()),
        ]
        results = await client.send_many(flows)
        came = [result async for result in client.as_completed(results, timeout=30)]
        assert sorted(map(results.index, came)) == [0, 1, 2, 3, 4]
        assert came[-1] is results[0]
        began = asyncio.get_running_loop().time()
        values = await client.gather(results, return_exceptions=True)
        assert values[0::2][:2] + values[3:4] == [2, 4, 4]
        assert [type(values[place]) for place in (1, 4)] == [TaskFailedError] * 2
        assert asyncio.get_running_loop().time() - began < 1
        twice = await client.gather([results[2], results[2], results[3]])
        assert twice == [4, 4, 4]
        with pytest.raises(TaskFailedError):
            await client.gather(results)


@virtual
async def test_flows_that_do_not_end_in_time_are_named():
    async with CeleryClient(transport=shop()) as client:
        results = await client.send_many([fail() | add.s(1), add(1, 1) | add.s(1), slow(1) | add.s(1)])
        with pytest.raises(ResultTimeoutError) as caught:
            async for _ in client.as_completed(results, timeout=1):
                pass
        assert set(caught.value.task_ids) == {task.id for task in results[2].tasks}
        with pytest.raises(ResultTimeoutError) as caught:
            await client.gather(results[1:], timeout=1)
        assert caught.value.finished == {0: 3}
        failed, value, late = await client.gather(results, timeout=1, return_exceptions=True)
        assert (type(failed), value, type(late)) == (TaskFailedError, 3, ResultTimeoutError)
        with pytest.raises(TypeError, match="must be"):
            await client.gather(results[0])


# Started ones.


@virtual
async def test_a_flow_that_was_started_is_awaited_by_several_and_deleted_when_it_is_closed():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        flow = chord([add(1, 1), slow(2) | add.s(1)], total() | add.s(1))
        async with client.start(flow, timeout=30) as owned:
            assert await asyncio.gather(owned.get(), owned.whole, owned.whole.body.get()) == [6, 6, 6]
            assert [meta.state async for _, meta in owned.updates()] == ["SUCCESS"] * 5
            assert await owned.states() == ["SUCCESS"] * 5
            assert await client.gather([owned, owned]) == [6, 6]
        async with client.start(group(slow(1) | add.s(1), add(2, 2)), timeout=30) as owned:
            assert await owned == [2, 4]
        await asyncio.sleep(5)
        assert left(fake) == set()
        with pytest.raises(TypeError, match="cannot be pickled"):
            owned.__reduce__()


@virtual
async def test_a_flow_of_which_nothing_is_awaited_has_no_updates():
    async with CeleryClient(transport=shop()) as client:
        for flow in (group(()), group([add(1, 1).with_options(ignore_result=True)])):
            result = await client.send(flow)
            async with asyncio.timeout(60):
                assert [update async for update in result.updates(None)] == []


@virtual
async def test_a_flow_that_was_started_and_is_closed_before_its_end_is_revoked_whole():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        owned = client.start(group(slow(n) | add.s(1) for n in range(200)), timeout=30)
        waiting = asyncio.create_task(owned.get())
        await asyncio.sleep(1)
        owned.close()
        owned.close()
        with pytest.raises(ClientStateError, match="closed while this call was waiting"):
            await waiting
        await asyncio.sleep(200)
        assert (client.stats().revocations.delivered, client.stats().pending) == (400, 0)
        assert left(fake) == set()
        with pytest.raises(ResultTimeoutError):
            await client.start(slow(1) | add.s(1), timeout=1).get()
        with pytest.raises(MessageError, match="no task in it"):
            client.start(group(()))
        with pytest.raises(MessageError, match="has its arguments already"):
            client.start(add(1) | add.s(1), (1,))
        with pytest.raises(TaskFailedError):
            await client.start(group(fail(), slow(1))).get()


# Streams.


@virtual
async def test_a_stream_of_flows_gives_their_results():
    fake = shop()
    async with CeleryClient(transport=fake) as client:

        def flow(n):
            return [add(n, 1), add(n, 1) | add.s(1), group(add(n, 1)), chord([add(n, 1), add(1, 1)], total())][n % 4]

        async with client.stream(flow, range(40), ordered=True, timeout=30) as answers:
            came = [each async for each in answers]
        assert came == [(n, [n + 1, n + 2, [n + 1], n + 3][n % 4]) for n in range(40)]
        await asyncio.sleep(5)
        assert left(fake) == set()
        async with client.stream(lambda n: n, [1], return_exceptions=True) as answers:
            (_, error), *_ = [each async for each in answers]
        assert isinstance(error, TypeError)


@virtual
async def test_a_window_counts_the_tasks_of_flows_and_what_is_larger_goes_alone():
    fake = shop()
    sizes = [3, 1, 3, 20, 2, 3, 30, 1]
    async with CeleryClient(transport=fake) as client:
        most = 0

        def flow(n):
            return group(slow(n) for _ in range(n))

        async with client.stream(flow, sizes, max_in_flight=6, ordered=True, timeout=60) as answers:
            came = []
            taking = asyncio.create_task(collect(answers, came))
            while not taking.done():
                await asyncio.sleep(0.25)
                most = max(most, client.stats().pending)
                pending = client.stats().pending
                assert pending <= 6 or pending in (20, 30)
            await taking
        assert most == 30
        assert [n for n, _ in came] == sizes


async def collect(answers, came):
    came += [each async for each in answers]


@virtual
async def test_leaving_a_stream_revokes_its_flows_and_one_that_fails_ends_it():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(TaskFailedError) as caught:
            async with client.stream(lambda n: (fail() if n == 3 else slow(n)) | add.s(1), range(100)) as answers:
                _ = [each async for each in answers]
        assert "input = 3" in caught.value.__notes__
        await asyncio.sleep(200)
        assert client.stats().revocations.delivered >= 198  # The step after the one that failed may have its state.
        assert client.stats().pending == 0
        assert left(fake) == set()
