"""The scripted worker unfolds chains, groups and chords as Celery's workers do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual

from fibo_client import MessageError, ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import CeleryClient, Chain, Chord, Group, RemoteTask, chain, chord, group
from fibo_client.celery.signature import Signature
from fibo_client.testing import FakeCelery

add = RemoteTask[..., int]("shop.add")
small = RemoteTask[..., int]("shop.add", chunkable=True)
total = RemoteTask[..., int]("shop.total")
fail = RemoteTask[..., int]("shop.fail")


def shop() -> FakeCelery:
    fake = FakeCelery()
    fake.task(add, lambda x, y=0: (sum(x) if isinstance(x, list) else x) + y)
    fake.task(total, lambda numbers, more=0: sum(numbers) + more)
    fake.task(fail, raises=ValueError("no"))
    return fake


# Building.


def test_what_is_composed_is_a_chain_a_group_or_a_chord():
    a, b, c = add(1), add.s(2), total()
    assert (a | b).steps == (a, b)
    assert chain(a | b, b) == Chain((a, b, b))
    assert group(a, group(b, c)) == group([a, b, c]) == Group((a, b, c))
    assert (group(a, b) | c) == chord([a, b], c) == Chord(Group((a, b)), c)
    assert (chord([a], c) | b) == Chord(Group((a,)), Chain((c, b)))
    assert (a | group(b, b) | c) == Chain((a, Chord(Group((b, b)), c)))
    assert chain(group(a, b), c) == Chain((chord([a, b], c),))
    assert chord([a | b], chain(c)).body == c


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: chain(), MessageError, "a step at least"),
        (lambda: chord([], total()), MessageError, "a task in its header"),
        (lambda: chord([add(1) | group(add.s(1))], total()), MessageError, "must not end in a group"),
        (lambda: chain(add(1), 5), TypeError, "a chain, a group or a chord is wanted, not int"),
        (lambda: group(5), TypeError, "not int"),
        (lambda: add(1) | 5, TypeError, "unsupported operand"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, error, why):
    with pytest.raises(error, match=why):
        make()


def test_a_step_gets_one_argument_more_than_it_is_bound_to():
    from fibo_client.celery import remote_task

    @remote_task("shop.both")
    def both(x: int, y: int) -> int: ...

    assert both.s(2).args == (2,)
    assert both.s(1, 2).args == (1, 2)
    with pytest.raises(TypeError, match="too many positional"):
        both.s(1, 2, 3)
    assert both(1, 2).immutable().is_immutable


# Running.


@virtual
async def test_a_failure_ends_the_wait_and_fails_what_follows():
    async with CeleryClient(transport=shop()) as client:
        result = await client.send(chain(add(1, 1), fail.s().immutable(), add.s(3)))
        with pytest.raises(TaskFailedError, match=r"shop\.fail"):
            await result.get()
        assert await result.states() == ["SUCCESS", "FAILURE", "FAILURE"]


@virtual
async def test_a_chord_whose_member_fails_has_a_body_that_failed():
    async with CeleryClient(transport=shop()) as client:
        result = await client.send(chord([add(1, 1), fail()], total()))
        with pytest.raises(TaskFailedError, match=r"shop\.fail"):
            await result.get()
        with pytest.raises(TaskFailedError, match="ChordError"):
            await result.body.get()


@virtual
async def test_a_revoked_step_ends_the_wait_and_leaves_the_later_ones_without_a_state():
    fake = shop()
    fake.task("shop.slow", lambda n=0: n, delay=5.0)
    async with CeleryClient(transport=fake) as client:
        result = await client.send(chain(RemoteTask("shop.slow")(1), add.s(2), add.s(3)))
        await result.steps[1].revoke()
        with pytest.raises(TaskRevokedError):
            await result.get()
        await asyncio.sleep(10)
        assert (await result.states())[2] == "PENDING"
        with pytest.raises(ResultTimeoutError):
            await result.last.get(1)


@virtual
async def test_links_run_after_success_and_after_failure():
    fake, told = shop(), []
    fake.task("shop.tell", told.append)
    tell = RemoteTask[..., None]("shop.tell")
    async with CeleryClient(transport=fake) as client:
        assert await client.call(add(1, 1).with_options(link=tell.s())) == 2
        with pytest.raises(TaskFailedError):
            await client.call(fail().with_options(link=tell.s(), link_error=[tell.s()]))
        await asyncio.sleep(1)
    assert told == [2, fake.sent[-2].task_id]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda client: client.send(add(1, 1), link=add.s(1)),
        lambda client: client.send_task("shop.add", (1, 1), link_error=add.s(1)),
        lambda client: client.send(chain(add(1, 1), add.s(1)), link=add.s(1)),
        lambda client: client.call(add(1, 1), link=add.s(1)),
        lambda client: client.call_many([add(1, 1), add(1, 1).with_options(link=add.s(1))]),
        lambda client: client.call_many([small(1, 1).with_options(link=add.s(1))], chunk_size=2),
        lambda client: client.send_many([add(1, 1).with_options(link_error=add.s(1))]),
        lambda client: client.start(add(1, 1).with_options(link=add.s(1))).__aenter__(),
    ],
)
@virtual
async def test_a_link_where_none_can_be_is_refused_before_anything_is_sent(attempt):
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(MessageError, match=r"send\(add\(2, 3\).with_options\(link=...\)\)"):
            await attempt(client)
    fake.assert_nothing_sent()


@virtual
async def test_a_task_of_every_worker_gives_what_it_gets():
    collect = RemoteTask[..., list[int]]("celery.accumulate")
    async with CeleryClient(transport=FakeCelery()) as client:
        assert await client.call(collect(1, 2)) == [1, 2]
        assert await client.call(collect(1, 2, index=1)) == 2
        assert await client.inspect().registered() == {"celery@fake": []}


@virtual
async def test_a_group_is_a_sequence_of_its_members():
    async with CeleryClient(transport=shop()) as client:
        result = await client.send(group(add(1), add(2) | add.s(1)))
        assert (len(result), await result[0], [await each for each in result]) == (2, 1, [1, 3])
        assert await result == [1, 3]
        assert await result.ready()
        with pytest.raises(TypeError, match="groups of tasks"):
            await result.get(return_exceptions=True)
        one, failure = await (await client.send(group(add(1), fail()))).get(return_exceptions=True)
        assert (one, failure.exc_type) == (1, "ValueError")


# Any flow, against plain Python.

LEAVES = st.builds(add, st.integers(0, 9), st.integers(0, 9))


def extended(flows):
    steps = st.builds(add.s, st.integers(0, 9))
    return (
        st.builds(followed, flows, steps)
        | st.builds(lambda members: group(members), st.lists(flows, min_size=1, max_size=3))
        | st.builds(followed, flows, st.builds(group, st.lists(steps, min_size=1, max_size=3)))
        | st.builds(
            followed, st.builds(group, st.lists(flows, min_size=1, max_size=3)), st.builds(total.s, st.integers(0, 9))
        )
    )


def followed(flow, step):
    """Let a step follow, but for a chord with a chain in its header that ends in a group."""
    try:
        return flow | step
    except MessageError:
        reject()


def evaluated(flow, *given):
    """What a flow gives, without any worker."""
    if isinstance(flow, Signature):
        args = [*given, *flow.args]
        if flow.task == total.name:
            return sum(args[0]) + (args[1] if len(args) > 1 else 0)
        return (sum(args[0]) if isinstance(args[0], list) else args[0]) + (args[1] if len(args) > 1 else 0)
    if isinstance(flow, Chain):
        value = evaluated(flow.steps[0], *given)
        for step in flow.steps[1:]:
            value = evaluated(step, value)
        return value
    if isinstance(flow, Group):
        return [evaluated(member, *given) for member in flow.members]
    return evaluated(flow.body, [evaluated(member, *given) for member in flow.header.members])


def numbers_only(flow) -> bool:
    """Whether no task gets a list of lists, which these tasks cannot add."""
    try:
        evaluated(flow)
    except TypeError:
        return False
    return True


@given(st.recursive(LEAVES, extended, max_leaves=12).filter(numbers_only))
def test_any_flow_gives_what_plain_python_gives(flow):
    async def run():
        async with CeleryClient(transport=shop()) as client:
            value = await client.call(flow, timeout=50)
            sent = await (await client.send(flow)).get(50)
            await asyncio.sleep(60)
            assert client.stats().pending == 0
            return value, sent

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        expected = evaluated(flow)
        assert runner.run(run()) == (expected, expected)
