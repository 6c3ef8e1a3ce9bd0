"""The scripted worker unfolds chains, groups and chords as Celery's workers do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual

from fibo_client import MessageError, ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import CeleryClient, Chain, Chord, Group, RemoteTask, chain, chord, group, remote_task
from fibo_client.celery.signature import Signature
from fibo_client.testing import FakeCelery

add = RemoteTask[..., int]("shop.add")
small = RemoteTask[..., int]("shop.add", chunkable=True)
total = RemoteTask[..., int]("shop.total")
fail = RemoteTask[..., int]("shop.fail")


@remote_task("shop.both", chunkable=True)
def both(x: int, y: int) -> int: ...


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
        (lambda: chord([add(1) | group(add.s(1))], total()), MessageError, "must not end in a group"),
        (lambda: chord([chord([add(1)], group(total()))], total()), MessageError, "must not end in a group"),
        (lambda: chord([chain(add(1), group(add(1)), group(total()))], total()), MessageError, "must not end in a gr"),
        (
            lambda: group(add(1)).with_options(link=add.s(1)),
            MessageError,
            r"a task follow it, as group\(...\) \| task",
        ),
        (lambda: (add(1) | group(add.s(1))).with_options(link=add.s(1)), MessageError, "link is not for a group"),
        (lambda: (add(1) | add.s(1)).with_options(task_id="a"), MessageError, r"send\(flow, task_id=...\)"),
        (lambda: (add(1) | add.s(1)).with_options(prio=3), MessageError, "'prio' is not an option"),
        (lambda: (add(1) | add.s(1)).with_options(link=5), TypeError, "link must be a signature, .* not int"),
        (lambda: add(1).with_options(link_error=[add.s(1), "shop.add"]), TypeError, "link_error must be .* not str"),
        (lambda: RemoteTask("shop.add", link="shop.add"), TypeError, "link must be a signature, .* not str"),
        (lambda: add.map([1]), MessageError, "declared for that.*chunkable=True.*sends a message for each call"),
        (lambda: add.starmap([(1, 2)]), MessageError, "chunkable=True"),
        (lambda: add.chunks([(1, 2)], 2), MessageError, "chunkable=True"),
        (lambda: small.starmap([1]), TypeError, r"a list or a tuple, not int; map\(\) is for values"),
        (lambda: small.chunks(["ab"], 2), TypeError, "a list or a tuple, not str"),
        (lambda: small.chunks([], 0), ValueError, "n must be 1 or more, not 0"),
        (lambda: small.chunks([], "2"), TypeError, "n must be an integer, not str"),
        (lambda: both.map([1]), TypeError, "missing a required argument: 'y'"),
        (lambda: both.starmap([(1, 2), (1, 2, 3)]), TypeError, "too many positional arguments"),
        (lambda: small.map(5), TypeError, "not iterable"),
        (lambda: chain(add(1), 5), TypeError, "a chain, a group or a chord is wanted, not int"),
        (lambda: group(5), TypeError, "not int"),
        (lambda: add(1) | 5, TypeError, "unsupported operand"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, error, why):
    with pytest.raises(error, match=why):
        make()


def test_what_is_composed_hands_options_to_its_steps():
    after, on_error = add.s(7), add.s(8)
    own = add.s(2).with_options(queue="own", link=after)

    def options(flow, **given):
        return [each.options for each in signatures(flow.with_options(**given))]

    assert options(chain(add(1), own), queue="all") == [{"queue": "all"}, {"queue": "own", "link": after}]
    assert options(chain(add(1), own), countdown=5)[1] == own.options
    assert options(group(add(1), add(2) | own), countdown=5) == [{"countdown": 5}, {"countdown": 5}, own.options]
    assert options(chord([add(1)], total() | own), countdown=5) == [{"countdown": 5}, {}, own.options]
    assert options(chain(add(1), own), link=on_error) == [{}, {"queue": "own", "link": (after, on_error)}]
    assert options(group(add(1), add(2)), link_error=[on_error]) == [{"link_error": (on_error,)}] * 2
    assert options(chord([add(1)], total()), link=after, link_error=on_error) == [
        {},
        {"link": (after,), "link_error": (on_error,)},
    ]


def signatures(flow):
    if isinstance(flow, Signature):
        return [flow]
    parts = flow.steps if isinstance(flow, Chain) else flow.members if isinstance(flow, Group) else ()
    return [each for part in parts or (flow.header, flow.body) for each in signatures(part)]


def test_a_step_gets_one_argument_more_than_it_is_bound_to():
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


@virtual
async def test_the_options_of_a_call_win_over_those_of_a_task_with_a_link_as_of_any_task_alone():
    fake = shop()
    both = add(1, 1).with_options(queue="its-own", priority=3, link=add.s(1).with_options(queue="the-links"))
    async with CeleryClient(transport=fake) as client:
        await client.send(both, queue="the-calls")
        await client.send_many([both], queue="the-calls")
    called = [(sent.queue, sent.priority) for sent in fake.sent if sent.args == (1, 1)]
    assert called == [("the-calls", 3)] * 2


@pytest.mark.parametrize(
    "attempt",
    [
        lambda client: client.send(add(1, 1), link=add.s(1)),
        lambda client: client.send_task("shop.add", (1, 1), link_error=add.s(1)),
        lambda client: client.send(chain(add(1, 1), add.s(1)), link=add.s(1)),
        lambda client: client.call(add(1, 1), link=add.s(1)),
        lambda client: client.call_many([add(1, 1), add(1, 1)], link=add.s(1)),
        lambda client: client.send_many([add(1, 1)], link_error=add.s(1)),
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
@pytest.mark.parametrize(
    ("flow", "value"),
    [
        (chord([], total()), 0),
        (group() | total(5) | add.s(1), 6),
        (group() | chord([], add.s(1) | add.s(2)), 3),
        (chord([], total().immutable().with_options()), None),
        (chord([], group(total.s(1), total.s(2))), [1, 2]),
        (chord([chord([], total(1)), add(2)], total()), 3),
        (add(1) | chord([], total(4)), 4),
        (add(1) | group() | total(4), 4),
        (add(1) | group(), []),
        (chord([add(1)], group()), []),
        (group(), []),
        (chain(group()), []),
    ],
)
async def test_the_body_of_a_chord_without_members_runs_at_once_and_a_group_without_members_has_no_results(flow, value):
    async with CeleryClient(transport=shop(), timeout=5) as client:
        if value is None:
            with pytest.raises(TaskFailedError, match="missing 1 required positional"):
                await client.call(flow)
            return
        assert await client.call(flow) == value
        result = await client.send(flow)
        assert await result.get() == value
        assert await result.ready()


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


@virtual
async def test_many_calls_in_one_task_give_their_results_decoded():
    fake = shop()
    hexadecimal = RemoteTask[..., str]("shop.add", hex, chunkable=True, queue="math", shadow="x")
    async with CeleryClient(transport=fake) as client:
        assert await client.call(hexadecimal.map([10, 11])) == ["0xa", "0xb"]
        assert await client.call(small.starmap([(1, 2), [3]])) == [3, 3]
        assert await client.call(small.chunks([(n, n) for n in range(5)], 2)) == [[0, 2], [4, 6], [8]]
        assert await client.call(small.chunks(([n] for n in range(4)), 3) | RemoteTask("celery.accumulate").s()) == [
            [[0, 1, 2], [3]]
        ]
        assert await client.call(add(1, 1) | small.map([1, 2]) | total.s()) == 3
        assert await client.call(chord([small.map([1, 2]), small.map([3])], RemoteTask("celery.accumulate").s())) == [
            [[1, 2], [3]]
        ]
        assert await client.call(small.map([])) == []
        assert await client.call(small.chunks([], 5)) == []
    first = fake.sent[0]
    assert (first.task, first.queue, first.options.get("shadow")) == ("celery.map", "math", None)
    fake.assert_sent(hexadecimal, 10)


@virtual
async def test_many_calls_in_one_task_fail_together_and_go_where_their_task_goes():
    fake = shop()
    failing = RemoteTask[..., int]("shop.fail", chunkable=True)
    async with CeleryClient(transport=fake, task_routes={"shop.fail": "bad", "celery.*": "never"}) as client:
        with pytest.raises(TaskFailedError, match=r"celery\.map.* raised ValueError"):
            await client.call(failing.map([1, 2]))
        with pytest.raises(TaskFailedError, match=r"celery\.starmap.* raised ValueError"):
            await client.call(add(1, 1) | failing.chunks([(1,), (2,)], 1))
    assert [each.queue for each in fake.sent] == ["bad", "celery", "bad", "bad"]


@virtual
async def test_a_group_of_nothing_sends_nothing_and_has_no_results():
    fake = shop()
    async with CeleryClient(transport=fake) as client:
        assert await client.call(group()) == []
        result = await client.send(group([]), task_id="mine")
        assert (result.id, len(result), await result.get(), await result.ready()) == ("mine", 0, [], True)
        assert (await client.send(group())).id
    fake.assert_nothing_sent()


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
