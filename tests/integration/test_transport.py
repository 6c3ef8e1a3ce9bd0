"""What a transport promises, on each that there is: Redis, and the double that users' tests run on.

`fibo_client.celery.brokers.base` has the promises. What only Redis can do is in test_redis_transport.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime

import pytest
from support.messages import messages, publish
from support.servers import stock_worker
from support.sides import AmqpSide, MemorySide, RedisSide
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_client.celery.brokers.base import Place
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.errors import MessageError, PublishError, PublishUnknownError, ReadError, TransportError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SOON = 10.0


@pytest.fixture
async def redis_alone(server, hand):
    async with contextlib.aclosing(RedisSide(server, hand, ())) as side:
        yield side


@pytest.fixture
async def memory_alone():
    async with contextlib.aclosing(MemorySide(())) as side:
        yield side


@pytest.fixture
def amqp_alone():
    return AmqpSide(())


@pytest.fixture(params=["redis_alone", "memory_alone", "amqp_alone"])
def side(request):
    """Each of the transports, empty, and no worker."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["redis_alone", "memory_alone"])
def like_redis(request):
    """Each of those that have lists of Redis, and no worker."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def two_workers(redis_server):
    """Two workers on a database of their own."""
    url = redis_server.fresh_url()
    with (
        stock_worker(url, name="one", pool="solo") as first,
        stock_worker(url, name="two", pool="solo") as second,
    ):
        asyncio.run(both_listen(url))
        yield url, (first.node, second.node)


async def both_listen(url: str) -> None:
    """Wait until both hear questions: a worker calls itself ready shortly before."""
    async with CeleryClient(url) as client:

        async def answered() -> bool:
            return len(await client.ping(timeout=SOON)) == 2

        await eventually(answered)


@pytest.fixture
async def redis_manned(two_workers):
    url, nodes = two_workers
    async with contextlib.aclosing(RedisSide(None, None, nodes, url)) as side:
        yield side


@pytest.fixture
async def memory_manned():
    async with contextlib.aclosing(MemorySide(("one@fake", "two@fake"))) as side:
        yield side


@pytest.fixture
def amqp_manned():
    return AmqpSide(("one@amqp", "two@amqp"))


@pytest.fixture(params=["redis_manned", "memory_manned", "amqp_manned"])
def manned(request):
    """Each of the transports, with two workers."""
    return request.getfixturevalue(request.param)


class Listener:
    """Notes what is pushed, and that nothing is any more."""

    def __init__(self) -> None:
        self.events = asyncio.Queue()
        self.looks = asyncio.Queue()
        self.gone = asyncio.Queue()

    def pushed(self, task_id, payload) -> None:
        self.events.put_nowait((task_id, payload))

    def subscribed(self, task_ids, stored) -> None:
        self.looks.put_nowait((task_ids, stored))

    def lost(self, error) -> None:
        self.gone.put_nowait(error)

    async def next(self):
        return await asyncio.wait_for(self.events.get(), SOON)

    def so_far(self):
        return [self.events.get_nowait() for _ in range(self.events.qsize())]


async def subscribed(backend, *task_ids):
    listener = Listener()
    subscription = await backend.subscribe(listener)
    subscription.update(task_ids, [], look=True)
    await asyncio.wait_for(listener.looks.get(), SOON)
    return subscription, listener


# Messages.


async def test_messages_are_served_in_the_order_in_which_they_were_sent(side):
    broker, _ = side.connect()
    await publish(broker, "a", "b", "c")
    await publish(broker, "d")
    assert await side.served("celery", ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]


async def test_what_has_the_last_priority_is_served_last(side):
    broker, _ = side.connect()
    assert broker.last_priority == side.last
    for task_id, priority in (("last", side.last), ("first", side.first), ("second", side.first)):
        await publish(broker, task_id, priority=priority)
    assert await side.served("celery", ["last", "first", "second"]) == ["first", "second", "last"]


async def test_the_lowest_priority_number_is_served_first_and_equals_in_order(like_redis):
    side = like_redis
    broker, _ = side.connect()
    for task_id, priority in (("nine", 9), ("six", 6), ("three", 3), ("two", 2), ("zero", 0), ("five", 5)):
        await publish(broker, task_id, priority=priority)
    served = await side.served("celery", ["nine", "six", "three", "two", "zero", "five"])
    assert served == ["two", "zero", "three", "five", "six", "nine"]  # 0 to 2 share a list, and so do 3 to 5.


async def test_what_is_sent_twice_is_there_twice(side):
    broker, _ = side.connect()
    await publish(broker, "a")
    await publish(broker, "a")
    assert await side.served("celery", ["a"]) == ["a", "a"]


async def test_a_name_that_no_queue_can_have_is_refused_before_anything_is_sent(side):
    broker, _ = side.connect()
    with pytest.raises(MessageError, match="queue"):
        messages("a", queue="two\nlines")
    with pytest.raises(MessageError, match="queue"):
        await broker.depth("")


async def test_the_depth_is_that_of_all_priorities_of_one_queue(side):
    broker, _ = side.connect()
    assert await broker.depth("celery") == 0
    for priority in (0, 3, 9):
        await publish(broker, f"a{priority}", f"b{priority}", priority=priority)
    await publish(broker, "c", queue="other")
    assert await broker.depth("celery") == 6
    assert await broker.depth("other") == 1


async def test_where_queues_cannot_be_looked_into_it_is_said_how_many_wait():
    broker, _ = AmqpSide(()).connect()
    assert await broker.locate("celery", "a", timeout=SOON) == Place(0, None, complete=True)
    await publish(broker, "a", "b")
    assert await broker.locate("celery", "a", timeout=SOON) == Place(2, None, complete=False)


async def test_a_message_is_found_behind_those_that_are_served_before_it(like_redis):
    broker, _ = like_redis.connect()
    await publish(broker, "late", priority=9)
    await publish(broker, "a", "b")
    assert await broker.locate("celery", "a", timeout=SOON) == Place(3, 0, complete=True)
    assert await broker.locate("celery", "b", timeout=SOON) == Place(3, 1, complete=True)
    assert await broker.locate("celery", "late", timeout=SOON) == Place(3, 2, complete=True)
    assert await broker.locate("celery", "missing", timeout=SOON) == Place(3, None, complete=True)
    assert await broker.locate("other", "a", timeout=SOON) == Place(0, None, complete=True)


# Results.


async def test_many_results_come_in_the_order_asked_for_with_gaps(side):
    _, backend = side.connect()
    await side.put("a", b"A")
    await side.put("c", b"C")
    assert await backend.get_many(["a", "b", "c", "a"]) == [b"A", None, b"C", b"A"]


async def test_the_last_result_that_was_stored_is_the_one_that_is_read(side):
    _, backend = side.connect()
    await side.put("a", b"first")
    await side.put("a", b"second", publish=False)
    assert await backend.get_many(["a"]) == [b"second"]


async def test_two_clients_see_the_same_results_and_queues(side):
    (broker, backend), (other_broker, other_backend) = side.connect(), side.connect()
    await publish(broker, "a")
    await side.put("a", b"A")
    assert await other_broker.depth("celery") == 1
    assert await other_backend.get_many(["a"]) == await backend.get_many(["a"]) == [b"A"]


async def test_deleted_results_are_gone_and_missing_ones_no_matter(side):
    _, backend = side.connect()
    await side.put("a", b"A")
    await side.put("b", b"B")
    await backend.delete_many(["a", "missing"])
    assert await backend.get_many(["a", "b"]) == [None, b"B"]


# Pushed results.


async def test_what_is_subscribed_to_is_pushed(side):
    _, backend = side.connect()
    _, listener = await subscribed(backend, "a", "b")
    await side.put("b", b"B")
    assert await listener.next() == ("b", b"B")


async def test_what_was_stored_before_is_told_with_the_confirmation(side):
    _, backend = side.connect()
    await side.put("b", b"B")
    listener = Listener()
    subscription = await backend.subscribe(listener)
    subscription.update(["a", "b"], [], look=True)
    assert await asyncio.wait_for(listener.looks.get(), SOON) == (["a", "b"], [None, b"B"])


async def test_every_state_is_pushed_in_order_and_nothing_else_is(side):
    _, backend = side.connect()
    await side.put("a", b"before")
    _, listener = await subscribed(backend, "a")
    for payload in (b"1", b"2", b"2", b"3"):
        await side.put("a", payload)
    await side.put("b", b"of another")
    await side.put("a", b"not published", publish=False)
    await side.put("a", b"last")
    events = [await listener.next() for _ in range(5)]
    assert events == [("a", payload) for payload in (b"1", b"2", b"2", b"3", b"last")]


async def test_each_of_two_subscriptions_is_told(side):
    (_, backend), (_, other) = side.connect(), side.connect()
    listeners = [(await subscribed(each, "a"))[1] for each in (backend, other)]
    await side.put("a", b"A")
    for listener in listeners:
        assert await listener.next() == ("a", b"A")


async def test_what_is_dropped_is_no_longer_pushed(side):
    _, backend = side.connect()
    subscription, listener = await subscribed(backend, "a", "b")
    subscription.update(["c"], ["a"], look=True)
    await asyncio.wait_for(listener.looks.get(), SOON)
    for task_id in "abc":
        await side.put(task_id, task_id.encode())
    assert [await listener.next() for _ in range(2)] == [("b", b"b"), ("c", b"c")]


async def test_a_subscription_that_broke_says_so_and_does_not_come_back_in_silence(side):
    _, backend = side.connect()
    subscription, listener = await subscribed(backend, "a")
    await side.break_subscriptions()
    assert isinstance(await asyncio.wait_for(listener.gone.get(), SOON), TransportError)
    with pytest.raises(TransportError):
        subscription.update(["b"], [], look=True)
    _, listener = await subscribed(backend, "a")  # The backend has others.
    await side.put("a", b"A")
    assert await listener.next() == ("a", b"A")


async def test_a_subscription_that_was_broken_off_cannot_be_used_and_tells_nobody(side):
    _, backend = side.connect()
    subscription, listener = await subscribed(backend, "a")
    for _ in range(2):
        subscription.abort()
        with pytest.raises(TransportError, match="gone"):
            subscription.update(["b"], [], look=True)
    await side.put("a", b"A")
    assert await backend.get_many(["a"]) == [b"A"]
    assert (listener.so_far(), listener.gone.qsize()) == ([], 0)


# Remote control.


async def test_where_no_worker_listens_a_broadcast_says_so_and_a_question_ends_at_once_if_they_are_counted(side):
    broker, _ = side.connect()
    began = time.monotonic()
    if side.counts_listeners:
        assert await broker.broadcast(ControlRequest(method="ping")) == 0
        assert await broker.ask(ControlRequest(method="ping"), timeout=SOON) == {}
        assert time.monotonic() - began < SOON / 2
    else:
        assert await broker.broadcast(ControlRequest(method="ping")) is None
        assert await broker.ask(ControlRequest(method="ping"), timeout=0.3) == {}
        assert time.monotonic() - began >= 0.3


async def test_a_broadcast_tells_how_many_workers_listen(manned):
    broker, _ = manned.connect()
    counted = 2 if manned.counts_listeners else None
    assert await broker.broadcast(ControlRequest(method="ping")) == counted
    # Who listens is counted, and not whom it is meant for.
    assert await broker.broadcast(ControlRequest(method="ping", destination=["nobody"])) == counted


async def test_a_question_is_answered_by_every_worker_under_its_name(manned):
    broker, _ = manned.connect()
    began = time.monotonic()
    replies = await broker.ask(ControlRequest(method="ping"), timeout=manned.patience)
    assert replies == {node: {"ok": "pong"} for node in manned.nodes}
    assert not manned.counts_listeners or time.monotonic() - began < SOON / 2


async def test_a_question_to_one_worker_is_answered_by_that_one(manned):
    broker, _ = manned.connect()
    request = ControlRequest(method="ping", destination=[manned.nodes[1]])
    assert await broker.ask(request, timeout=SOON, limit=1) == {manned.nodes[1]: {"ok": "pong"}}


async def test_a_command_that_cannot_be_sent_is_refused(manned):
    broker, _ = manned.connect()
    for wrong in (ControlRequest(method="ping", destination="one"), ControlRequest(method="a", arguments={"x": {1}})):
        with pytest.raises(MessageError):
            await broker.broadcast(wrong)
        with pytest.raises(MessageError):
            await broker.ask(wrong, timeout=SOON)


async def test_a_question_ends_after_as_many_answers_as_are_wanted(manned):
    broker, _ = manned.connect()
    assert len(await broker.ask(ControlRequest(method="ping"), timeout=SOON, limit=1)) == 1


async def test_a_question_to_somebody_who_is_not_there_takes_the_time_it_was_given(manned):
    broker, _ = manned.connect()
    began = time.monotonic()
    assert await broker.ask(ControlRequest(method="ping", destination=["nobody"]), timeout=0.3, limit=1) == {}
    assert 0.3 <= time.monotonic() - began < SOON


async def test_a_question_that_workers_do_not_know_is_answered_with_an_error(manned):
    broker, _ = manned.connect()
    replies = await broker.ask(ControlRequest(method="zzz"), timeout=manned.patience)
    assert replies == {node: {"error": "KeyError('zzz')"} for node in manned.nodes}


@pytest.mark.parametrize(
    ("method", "arguments", "kind"),
    [
        ("active", {}, list), ("reserved", {}, list), ("scheduled", {}, list), ("registered", {}, list),
        ("active_queues", {}, list), ("stats", {}, dict), ("conf", {"with_defaults": False}, dict),
        ("query_task", {"ids": ["a"]}, dict),
    ],
)  # fmt: skip
async def test_every_question_that_the_client_asks_has_an_answer_of_its_kind(manned, method, arguments, kind):
    broker, _ = manned.connect()
    replies = await broker.ask(ControlRequest(method=method, arguments=arguments), timeout=manned.patience)
    assert {node: type(answer) for node, answer in replies.items()} == dict.fromkeys(manned.nodes, kind)


async def test_an_id_that_workers_do_not_know_counts_as_revoked_once_they_are_told(manned):
    broker, backend = manned.connect()
    task_id = f"never-sent-{time.time_ns()}"
    _, listener = await subscribed(backend, task_id)
    request = ControlRequest(method="revoke", arguments={"task_id": [task_id], "terminate": False, "signal": "SIGTERM"})
    assert await broker.broadcast(request) == (2 if manned.counts_listeners else None)
    _, payload = await listener.next()
    pushed = json.loads(payload)
    assert (pushed["status"], pushed["result"]) == (
        "REVOKED",
        {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"},
    )


# Errors.


async def test_a_server_that_is_not_there_is_told_by_the_error_of_each_command(side):
    async with side.unreachable() as (broker, backend):
        with pytest.raises(PublishError) as caught:
            await publish(broker, "a", "b")
        assert (caught.value.task_ids, caught.value.refused) == (("a", "b"), False)
        with pytest.raises(ReadError):
            await backend.get_many(["a"])
        for ask in (
            lambda: broker.depth("celery"),
            lambda: broker.locate("celery", "a", timeout=SOON),
            lambda: broker.broadcast(ControlRequest(method="ping")),
            lambda: broker.ask(ControlRequest(method="ping"), timeout=SOON),
            lambda: backend.delete_many(["a"]),
            lambda: backend.subscribe(Listener()),
        ):
            with pytest.raises(TransportError):
                await ask()


async def test_when_no_answer_comes_it_is_not_known_whether_anything_was_sent(side):
    async with side.unanswered() as broker:
        with pytest.raises(PublishUnknownError) as caught:
            await publish(broker, "a", "b")
    assert caught.value.task_ids == ("a", "b")


async def test_a_server_that_both_use_has_one_health_for_both(side):
    broker, backend = side.connect()
    await broker.depth("celery")
    assert (broker.health is backend.health) is side.one_server
    assert broker.health.failures == 0


async def test_closing_twice_is_no_matter(side):
    broker, backend = side.connect()
    await broker.depth("celery")
    for _ in range(2):
        await broker.aclose()
        await backend.aclose()
