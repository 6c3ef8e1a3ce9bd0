"""What is left in Redis of chains and chords that were owned: nothing, in whatever order workers store what."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import redis
from support.kept import kept
from support.servers import free_port
from support.waiting import eventually

from fibo_client import PublishError, PublishUnknownError, ResultTimeoutError, TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.hand import Hand

add = RemoteTask[..., int]("stock.add")
total = RemoteTask[..., int]("stock.total")
fail = RemoteTask[..., None]("stock.fail")
sleep = RemoteTask[..., float]("stock.sleep")
forgetful = RemoteTask[..., int]("stock.forgetful")
unknown = RemoteTask[..., None]("stock.no_such_task")

FAILURE = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
REVOKED = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
DAY = 86_400


def steps(*signatures):
    """A chain whose ids are known beforehand, and these ids."""
    ids = [str(uuid.uuid4()) for _ in signatures]
    return chain(*(each.with_options(task_id=own) for each, own in zip(signatures, ids, strict=True))), ids


# A hand stores results in the order that matters.


@pytest.fixture
async def quick(server, hand, monkeypatch) -> AsyncIterator[CeleryClient]:
    """A client beside the hand, that deletes once more after a moment."""
    monkeypatch.setattr(session, "SETTLED", 1.0)
    async with CeleryClient(server.url, timeout=30) as client:
        yield client


async def results(hand: Hand) -> list[bytes]:
    return [key async for key in hand.redis.scan_iter("celery-task*")]


async def is_sent(hand: Hand) -> bool:
    return bool(await hand.redis.llen("celery"))


async def test_nothing_is_left_of_a_step_whose_result_is_stored_after_that_of_the_last(quick, hand):
    flow, (first, last) = steps(add(1, 1), add.s(2))
    call = asyncio.create_task(quick.call(flow))
    await eventually(lambda: is_sent(hand))
    await hand.put(last, result=4)
    assert await call == 4  # A worker sends the successor of a step before it stores the step's own result.
    await eventually(lambda: _is_gone(hand, last))
    await hand.put(first, result=2)
    await eventually(lambda: _is_gone(hand, first))
    assert quick.stats().revocations.delivered == quick.stats().revocations.undelivered == 0


async def _is_gone(hand: Hand, task_id: str) -> bool:
    return not await hand.redis.exists(f"celery-task-meta-{task_id}")


@pytest.mark.parametrize("timeout", [30, None])
async def test_nothing_is_left_of_steps_that_are_stored_as_revoked_when_their_caller_has_gone(quick, hand, timeout):
    flow, (first, last) = steps(add(1, 1), add.s(2))
    call = asyncio.create_task(quick.call(flow, timeout=timeout))
    await eventually(lambda: is_sent(hand))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: quick.stats().revocations.undelivered == 2)
    await hand.put(first, result=2)
    await hand.put(last, "REVOKED", REVOKED)
    await eventually(lambda: _nothing(hand))


async def _nothing(hand: Hand) -> bool:
    return not await results(hand)


@pytest.mark.parametrize("timeout", [30, None])
async def test_nothing_is_left_of_later_steps_that_fail_after_the_one_that_failed(quick, hand, timeout):
    flow, (first, second, last) = steps(add(1, 1), fail.s(), add.s(2))
    call = asyncio.create_task(quick.call(flow, timeout=timeout))
    await eventually(lambda: is_sent(hand))
    await hand.put(first, result=2)
    await hand.put(second, "FAILURE", FAILURE)
    with pytest.raises(TaskFailedError, match=r"stock\.fail"):
        await call
    await hand.put(last, "FAILURE", FAILURE)
    await eventually(lambda: _nothing(hand))


async def test_what_comes_long_after_the_deadline_is_deleted_too(quick, hand, monkeypatch):
    monkeypatch.setattr(session, "SETTLED_LATE", 6.0)
    flow, (first, last) = steps(add(1, 1), add.s(2))
    with pytest.raises(ResultTimeoutError):
        await quick.call(flow, timeout=0.2)
    await hand.put(last, "REVOKED", REVOKED)
    await eventually(lambda: _nothing(hand))
    await hand.put(first, result=2)
    await eventually(lambda: _nothing(hand))


async def test_a_flow_whose_sending_is_unknown_keeps_what_its_chord_counts_until_the_deadline(quick, hand, monkeypatch):
    def lose(messages, sender):
        sender.failed(messages, PublishUnknownError("no reply", []))

    monkeypatch.setattr(quick._session.broker, "publish", lose)
    await quick._session.broker.prepare()
    with pytest.raises(PublishUnknownError):
        await quick.call(chord([add(1, 1)], total()), timeout=30)
    with pytest.raises(PublishUnknownError):
        await quick.send(chord([add(1, 1)], total()))
    quick._session.cleaner.delete(["probe"], 1.5)
    await hand.redis.set("celery-task-meta-probe", "x", ex=60)
    await eventually(lambda: _is_gone(hand, "probe"))  # By then, what is deleted soon is.
    assert len(await results(hand)) == 2
    assert all([0 < await hand.redis.ttl(key) <= DAY for key in await results(hand)])


# The broker and the result backend apart.


@pytest.fixture
async def apart(server, hand) -> AsyncIterator[CeleryClient]:
    """A client whose broker refuses connections."""
    async with CeleryClient(f"redis://127.0.0.1:{free_port()}/0", server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("verb", ["send", "call"])
async def test_what_a_chord_counts_is_deleted_if_its_messages_do_not_leave(apart, hand, verb):
    flow = chord([add(1, 1), chord([add(2, 2)], total())], total())
    stored = asyncio.create_task(_watch(hand))
    with pytest.raises(PublishError):
        await getattr(apart, verb)(flow)
    assert await stored == 2  # They were there before.
    await eventually(lambda: _nothing(hand))


async def _watch(hand: Hand) -> int:
    return await eventually(lambda: _count(hand))


async def _count(hand: Hand) -> int:
    keys = await results(hand)
    assert all([0 < await hand.redis.ttl(key) <= DAY for key in keys])
    return len(keys) if len(keys) == 2 else 0


# A stock worker.


@pytest_asyncio.fixture
async def client(own_stock) -> AsyncIterator[CeleryClient]:
    async with CeleryClient(own_stock, timeout=30) as client:
        yield client


@pytest.fixture
def direct(own_stock) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_stock, decode_responses=True) as direct:
        yield direct


FAILING = {
    "a member": lambda: chord([add(1, 1), fail()], total()),
    "a member beside one that runs": lambda: chord([fail(), sleep(1)], total()),
    "a member that is not known": lambda: chord([add(1, 1), unknown()], total()),
    "a member of a chord in a header": lambda: chord([chord([add(1, 1), fail()], total()), add(1, 1)], total()),
    "a member of a chord that a worker sends": lambda: add(1, 1) | group(add.s(1), fail.s()) | total(),
    "a chain in the header": lambda: chord([add(1, 1) | fail.s() | add.s(1), add(1, 1)], total()),
    "the body": lambda: chord([add(1, 1), add(2, 2)], fail.s()),
    "a chain that is the body": lambda: chord([add(1, 1)], total() | fail.s() | add.s(1)),
    "a chord that is the body": lambda: chord([add(1, 1)], group(total(), fail.s()) | total()),
}


@pytest.mark.parametrize("name", FAILING)
async def test_nothing_is_left_of_a_chord_of_which_something_fails(client, direct, name):
    before = kept(direct)
    with pytest.raises(TaskFailedError):
        await client.call(FAILING[name](), timeout=20)
    await eventually(lambda: not kept(direct) - before)


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_nothing_is_left_of_a_chord_that_is_cancelled_or_late(client, direct, how):
    before = kept(direct)
    flow = chord([add(1, 1), sleep(1), chord([sleep(1.5)], total())], total())
    call = asyncio.create_task(client.call(flow, timeout=0.5 if how == "late" else 20))
    await eventually(lambda: kept(direct) - before)
    if how == "cancelled":
        call.cancel()
    with pytest.raises((asyncio.CancelledError, ResultTimeoutError)):
        await call
    await eventually(lambda: not kept(direct) - before)


async def test_a_client_that_closes_at_once_may_leave_what_workers_store_later_for_their_own_time(own_stock, direct):
    before = kept(direct)
    flow, ids = steps(sleep(2), add.s(1), add.s(1))
    async with CeleryClient(own_stock, timeout=30) as closing:
        calls = [asyncio.create_task(closing.call(each)) for each in (flow, chord([add(1, 1), sleep(1)], total()))]
        await eventually(lambda: any(key.endswith(".j") for key in kept(direct) - before))
    assert all(isinstance(each, Exception) for each in await asyncio.gather(*calls, return_exceptions=True))
    await eventually(lambda: direct.exists(*(f"celery-task-meta-{each}" for each in ids[:2])) == 2)
    left = kept(direct) - before
    assert not any(key.endswith(".s") for key in left)
    assert all(0 < direct.ttl(key) <= DAY for key in left)
    direct.delete(*left)


# A step without a result.


async def test_a_step_that_is_declared_to_have_no_result_holds_up_nobody(client):
    sent = await client.send(chain(add(1, 1), forgetful.s(), add(2, 3).immutable()))
    assert await sent.get(timeout=20) == 5
    assert await sent.ready()
    assert (await sent.states())[1] == "PENDING"
    seen = [meta.result async for _, meta in sent.updates(timeout=20)]
    assert seen[-1] == 5
    sent = await client.send(chord([forgetful(5), add(1, 1)], total()))
    assert await sent.get(timeout=20) == 7
    assert await sent.get(timeout=0) == 7


async def test_a_flow_that_is_sent_without_results_is_not_waited_for(client):
    sent = await client.send(chain(add(1, 1), add.s(1)), ignore_result=True)
    assert [task.ignored for task in sent.tasks] == [True, True]
    assert await sent.get(timeout=20) is None
