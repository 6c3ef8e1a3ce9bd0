"""Chains, groups and chords on a stock worker: every bad end ends the wait, and nothing is left of what was owned."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING

import celery
import pytest
import pytest_asyncio
import redis
from support.clients import celery_client
from support.kept import kept
from support.waiting import eventually

from fibo_client import MessageError, ResultDecodeError, ResultTimeoutError, TaskFailedError, TaskRevokedError
from fibo_client.celery import Cause, CeleryClient, RemoteTask, chain, chord, group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

add = RemoteTask[..., int]("stock.add")
total = RemoteTask[..., int]("stock.total")
fail = RemoteTask[..., None]("stock.fail")
sleep = RemoteTask[..., float]("stock.sleep")
ignored = RemoteTask[..., None]("stock.ignored")
unknown = RemoteTask[..., None]("stock.no_such_task")


@pytest_asyncio.fixture
async def client(own_stock) -> AsyncIterator[CeleryClient]:
    async with CeleryClient(own_stock, timeout=30) as client:
        yield client


@pytest.fixture
def direct(own_stock) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_stock, decode_responses=True) as direct:
        yield direct


async def test_the_first_step_that_fails_is_raised_with_its_name_and_id(client):
    result = await client.send(chain(add(1, 1), fail.s("no"), add.s(3)))
    with pytest.raises(TaskFailedError, match=r"stock\.fail\[.*\], step 2 of 3, raised ValueError\('?2") as caught:
        await result.get(timeout=20)
    assert caught.value.task_id == result.steps[1].id
    assert await result.ready()


@pytest.mark.parametrize(
    "make", [lambda bad: chain(add(1, 1), bad, add.s(3)), lambda bad: chord([add(1, 1), bad], total())]
)
async def test_a_task_that_no_worker_knows_ends_the_wait(client, make):
    result = await client.send(make(unknown.s()))
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await result.get(timeout=20)
    assert "PENDING" in await result.states()  # As Celery leaves those after it.


@pytest.mark.parametrize(
    "make", [lambda bad: chain(sleep(0.2), bad, add.s(3)), lambda bad: chord([sleep(0.2) | bad], total())]
)
async def test_a_step_that_was_revoked_before_it_ran_ends_the_wait(client, make):
    task_id = str(uuid.uuid4())
    await eventually(client.ping)
    await client.revoke(task_id)
    result = await client.send(make(add.s(1).with_options(task_id=task_id)))
    with pytest.raises(TaskRevokedError) as caught:
        await result.get(timeout=20)
    assert (caught.value.task_id, caught.value.reason) == (task_id, "revoked")


async def test_a_step_that_has_expired_ends_the_wait(client):
    with pytest.raises(TaskRevokedError, match="expired before it ran"):
        await client.call(chain(sleep(0.5), add.s(1).with_options(expires=0.2)), timeout=20)


async def test_a_step_that_is_terminated_ends_the_wait(client):
    result = await client.send(chain(add(60, 0), sleep.s(), add.s(1)))
    await eventually(lambda: _runs(client, result.steps[1].id))
    assert await result.revoke(terminate=True, signal="SIGKILL") > 0
    with pytest.raises(TaskRevokedError):
        await result.get(timeout=20)


async def _runs(client, task_id):
    active = await client.inspect().active()
    return any(task["id"] == task_id for tasks in active.values() for task in tasks)


async def test_of_a_step_that_stores_nothing_the_timeout_says_that_it_is_the_one(client):
    result = await client.send(chain(add(1, 1), ignored.s().immutable(), add.s(3)))
    with pytest.raises(
        ResultTimeoutError, match=r"no answer from stock\.ignored\[.*\], step 2 of 3, within 1"
    ) as caught:
        await result.get(timeout=1)
    assert caught.value.task_ids == (result.steps[1].id, result.steps[2].id)
    assert caught.value.step == "step 2 of 3"


async def test_of_a_chord_that_does_not_count_its_members_it_is_said(client, direct):
    result = await client.send(chord([sleep(0.5), add(1, 1)], total()))
    direct.set(f"celery-taskset-meta-{result.group_id}.s", 5, ex=60)
    for member in result.header:
        await member.get(timeout=20)
    diagnosis = await client.diagnose(result)
    assert (diagnosis.task_id, diagnosis.cause, diagnosis.step) == (result.id, Cause.NOT_COUNTED, "the body")
    assert "the chord's counter in the result backend waits for more" in str(diagnosis)


async def test_the_step_that_runs_is_what_a_flow_waits_for(client):
    result = await client.send(chain(add(60, 0), sleep.s(), add.s(1)))
    await eventually(lambda: _runs(client, result.steps[1].id))
    diagnosis = await client.diagnose(result)
    assert (diagnosis.task_id, diagnosis.cause, diagnosis.step) == (result.steps[1].id, Cause.RUNNING, "step 2 of 3")
    await result.steps[1].revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        await result.get(timeout=20)
    diagnosis = await client.diagnose(result)
    assert (diagnosis.state, diagnosis.step) == ("REVOKED", "step 2 of 3")
    assert str(diagnosis).endswith("A wait for the whole ends with its error, and no step after it runs")


async def test_a_member_that_fails_is_raised_while_the_others_still_run(client):
    for flow in (chord([sleep(20), fail("no")], total()), group(sleep(20), fail("no"))):
        result = await client.send(flow)
        with pytest.raises(TaskFailedError, match=r"stock\.fail"):
            await result.get(timeout=20)
        assert not await result.tasks[0].ready()
        await result.revoke(terminate=True, signal="SIGKILL")


async def test_the_updates_of_a_flow_name_each_task(client):
    result = await client.send(chain(add(1, 1), add.s(2)) | add.s(3))
    seen = [(task.id, meta.result) async for task, meta in result.updates(timeout=20) if meta.ready]
    assert sorted(seen) == sorted((task.id, value) for task, value in zip(result.tasks, (2, 4, 7), strict=True))


async def test_the_updates_end_with_the_task_that_failed(client):
    result = await client.send(chain(add(1, 1), fail.s(), add.s(3)))
    states = {task.id: meta.state async for task, meta in result.updates(timeout=20)}
    assert states[result.steps[1].id] == "FAILURE"


async def test_options_of_the_send_go_into_every_step_and_a_steps_own_win(client, direct):
    queue = f"flow-{uuid.uuid4()}"
    flow = chain(add(1, 1), add.s(2), add.s(3).with_options(queue="celery"))
    with pytest.raises(ResultTimeoutError):
        await client.call(flow, queue=queue, timeout=0.5)
    assert direct.llen(queue) == 1
    await client.send(chain(add(1, 1), add.s(2).with_options(queue=queue)), priority=3)
    await eventually(lambda: direct.llen(f"{queue}\x06\x163"))


@pytest.mark.parametrize(
    ("flow", "value"),
    [
        (chord([], total(2) | add.s(3)), 5),
        (chord([chord([], total(1)), add(2, 3)], total()), 6),
        (add(1, 1) | group() | total(4), 4),
        (add(1, 1) | group(), []),
        (chord([add(1, 1)], group()), []),
        (group(), []),
    ],
    ids=["body", "member", "in a chain", "last", "as body", "alone"],
)
async def test_a_group_without_members_gives_an_empty_list(client, direct, flow, value):
    before = kept(direct)
    assert await client.call(flow) == value
    await eventually(lambda: not kept(direct) - before)
    assert await (await client.send(flow)).get() == value


@pytest.mark.parametrize(
    "flow",
    [
        chain(add(1, 1), add.s(2)),
        group(add(n, n) for n in range(20)),
        chord([add(1, 1), add(2, 2)], total() | add.s(1)),
        add(1, 1) | group(add.s(1), add.s(2)) | total(),
        chain(add(1, 1), fail.s(), add.s(3)),
        chord([add(1, 1), fail()], total()),
        chord([add(1, 1), add(2, 2)], fail.s()),
        group(add(1, 1), fail()),
    ],
    ids=lambda flow: repr(flow)[:60],
)
async def test_nothing_is_left_of_an_owned_flow(client, direct, flow):
    before = kept(direct)
    with contextlib.suppress(TaskFailedError):
        await client.call(flow, timeout=1)
    # What a busy worker stores after the first deletion is deleted half a minute after the deadline.
    await eventually(lambda: not kept(direct) - before, timeout=40)
    assert [key for key in direct.scan_iter("celery*") if direct.type(key) != "list" and direct.ttl(key) < 0] == []


async def test_an_owned_flow_whose_caller_leaves_is_revoked_whole_and_nothing_is_left(client, direct):
    before = kept(direct)
    members = [sleep(1).with_options(task_id=str(uuid.uuid4())) for _ in range(2)]
    call = asyncio.create_task(client.call(chord(members, total()), timeout=3))
    await eventually(lambda: _runs(client, members[1].options["task_id"]))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: client.stats().revocations.delivered >= 3)
    await eventually(lambda: not kept(direct) - before)


async def test_a_link_runs_after_its_task_and_one_for_errors_after_its_failure(client, direct):
    after, on_error = str(uuid.uuid4()), str(uuid.uuid4())
    told = RemoteTask[..., None]("stock.echo").s().with_options(task_id=on_error)
    called = add(1, 1).with_options(link=add.s(10).with_options(task_id=after), link_error=told)
    assert await client.call(called, timeout=20) == 2
    assert await client.result(after).get(timeout=20) == 12
    with pytest.raises(TaskFailedError):
        await client.call(fail().with_options(link=add.s(1), link_error=told), timeout=20)


async def test_arguments_beside_what_was_composed_are_refused(client):
    with pytest.raises(MessageError, match="has its arguments already"):
        await client.call(chain(add(1, 1), add.s(2)), (3,))
    with pytest.raises(MessageError, match="two of the tasks have the same task_id, mine"):
        await client.send(chain(add(1, 1).with_options(task_id="mine"), add.s(2)), task_id="mine")


@pytest.mark.parametrize(
    ("flow", "value"),
    [
        (chain(add(1, 1), add.s(2)), 4),
        (chord([add(1, 1), add(2, 2)], total() | add.s(1)), 7),
        (group(add(1, 1), add(2, 2)), [2, 4]),
        (add(1, 1) | group(add.s(1), add.s(2)), [3, 4]),
    ],
    ids=["chain", "chord", "group", "group at the end"],
)
async def test_the_id_of_the_whole_is_that_of_its_result(client, flow, value):
    task_id = str(uuid.uuid4())
    result = await client.send(flow, task_id=task_id)
    assert (result.id, await result.get(timeout=20)) == (task_id, value)
    if isinstance(value, int):
        assert await client.result(task_id).get(timeout=20) == value
    assert await client.call(flow, task_id=str(uuid.uuid4()), timeout=20) == value


# In bulk.


def calls(direct) -> dict[str, int]:
    """How often the server was given each command so far."""
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in direct.info("commandstats").items()}


async def commands_of(direct, sending) -> dict[str, int]:
    """Which commands something takes, but for those that look or keep connections well."""
    before = calls(direct)
    await sending
    after = calls(direct)
    apart = {"info", "ping", "hello", "client", "select", "brpop", "auth"}
    more = {name: n - before.get(name, 0) for name, n in after.items() if name.partition("|")[0] not in apart}
    return {name: n for name, n in more.items() if n}


async def test_ten_thousand_chains_are_sent_in_as_few_commands_as_ten_thousand_tasks(client, direct):
    queue = f"bulk-{uuid.uuid4()}"
    await client.send(add(1, 1), queue=queue)
    tasks = await commands_of(direct, client.send_many([add(n, 1) for n in range(10_000)], queue=queue))
    chains = await commands_of(
        direct, client.send_many([add(n, 1) | add.s(2) | add.s(3) for n in range(10_000)], queue=queue)
    )
    assert chains.keys() == {"lpush"}
    assert chains["lpush"] <= 1.1 * tasks["lpush"]  # They have more bytes, which are bounded, too.
    assert direct.llen(queue) == 20_001


async def test_a_group_of_chains_and_a_chord_of_very_many_go_in_as_few_commands_as_tasks(client, direct):
    queue = f"bulk-{uuid.uuid4()}"
    await client.send(add(1, 1), queue=queue)
    tasks = await commands_of(direct, client.send_many([add(n, 1) for n in range(10_000)], queue=queue))
    chains = group(add(n, 1) | add.s(2) for n in range(10_000))
    for flow, sizes in ((chains, {}), (chord([add(n, 1) for n in range(10_000)], total()), {"set": 1})):
        took = await commands_of(direct, client.send(flow, queue=queue))
        assert took.pop("lpush") <= 1.1 * tasks["lpush"]
        assert took == sizes


async def test_the_sizes_of_many_chords_are_stored_in_one_round_trip_each_with_an_expiry(client, direct):
    queue = f"bulk-{uuid.uuid4()}"
    await client.send(add(1, 1), queue=queue)
    flows = [chord([add(n, 1), add(n, 2)], total()) for n in range(200)]
    execute, trips = client._session.backend._server.reading.execute, []

    async def counted(*commands, **options):
        trips.append(len(commands))
        return await execute(*commands, **options)

    client._session.backend._server.reading.execute = counted
    results = await client.send_many(flows, queue=queue)
    assert trips == [200]
    names = [key for key in direct.scan_iter("celery-taskset-meta-*.s", count=1000) if direct.get(key) == "2"]
    assert len(names) >= len(results)
    assert all(0 < direct.ttl(name) <= 86400 for name in names)


async def test_very_many_flows_on_a_real_worker_give_their_values_in_order_and_nothing_is_left(client, direct):
    before = kept(direct)
    flows = [[add(n, 1), add(n, 1) | add.s(2), chord([add(n, 1), add(n, 2)], total())][n % 3] for n in range(90)]
    values = [[n + 1, n + 3, 2 * n + 3][n % 3] for n in range(90)]
    assert await client.call_many(flows, timeout=30) == values
    results = await client.send_many(flows)
    assert await client.gather(results) == values
    assert len([result async for result in client.as_completed(results)]) == 90
    async with client.stream(lambda n: flows[n], range(90), ordered=True, max_in_flight=20) as answers:
        assert [value async for _, value in answers] == values
    async with client.start(group(flows[1:60]), timeout=30) as owned:
        assert await owned.get() == values[1:60]
    for result in results:
        for task in getattr(result, "tasks", [result]):
            await task.forget()
    await eventually(lambda: not kept(direct) - before)


async def test_all_tasks_of_one_send_have_one_root(client):
    told = RemoteTask[..., dict]("stock.request")("root_id", "id").immutable()
    flow = chord([told | told, told | group(told, told) | told, told], told | group(told, told))
    result = await client.send(group(flow, told))
    await result.get(timeout=20)
    values = [await task.get(timeout=20) for task in result.tasks]
    assert [value["id"] for value in values] == [task.id for task in result.tasks]
    assert len({value["root_id"] for value in values}) == 1
    assert len(values) == 11


# Results of results.


@pytest.mark.parametrize(("kind", "answer"), [("task", 1), ("group", [1, 2])])
async def test_what_a_task_returns_of_others_becomes_their_handle(client, kind, answer):
    value = await client.call("stock.hand_over", (kind,), timeout=20)
    assert await client.from_tuple(value).get(timeout=20) == answer


async def test_the_children_of_a_task_are_what_it_sent(client):
    result = await client.send(chain(add(1, 1), add.s(2), add.s(3)))
    assert await result.get(timeout=20) == 7
    first, second, third = result.steps
    assert [child.id for child in await first.children()] == [second.id]
    assert await third.children() == []
    assert await client.result(first.id).leaf(timeout=20) == 7

    result = await client.send(add(1, 1) | group(add.s(1), add.s(2)))
    await result.get(timeout=20)
    await result.steps[0].get(timeout=20)  # A worker sends what follows before it stores the task's own result.
    (child,) = await result.steps[0].children()
    assert (child.id, await child.get(timeout=20)) == (result.last.id, [3, 4])
    assert await result.steps[0].leaf(timeout=20) == [3, 4]


@pytest.mark.parametrize("value", [None, 5, [], ["id", None], [[5, None], None], [["", None], None], [["a", None], 5]])
async def test_what_is_no_tuple_of_a_result_is_refused(client, value):
    with pytest.raises(ValueError, match="not what as_tuple"):
        client.from_tuple(value)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's own
async def test_a_group_that_was_saved_here_or_by_celery_is_found_by_its_id(client, own_stock, direct):
    ours = await client.send(group(add(1, 1), add(2, 2)))
    await ours.save()
    assert 0 < direct.ttl(f"celery-taskset-meta-{ours.id}") <= 86400
    again = await client.group(ours.id)
    assert (again.id, [each.id for each in again]) == (ours.id, [each.id for each in ours])
    assert await again.get(timeout=20) == [2, 4]
    with celery_client(own_stock) as app:
        assert app.GroupResult.restore(ours.id).get(timeout=20) == [2, 4]
        theirs = celery.group([app.signature("stock.add", (n, n)) for n in range(2)]).apply_async()
        theirs.save()
        found = await client.group(theirs.id)
        assert await found.get(timeout=20) == [0, 2]
        theirs.get(timeout=20)
    with pytest.raises(LookupError, match="not saved, or has expired"):
        await client.group("no-such-group")
    direct.set("celery-taskset-meta-odd", "[5]", ex=60)
    with pytest.raises(ResultDecodeError, match="something else"):
        await client.group("odd")
    with pytest.raises(TypeError, match="cannot be saved"):
        await (await client.send(group(add(1, 1) | add.s(1)))).save()
