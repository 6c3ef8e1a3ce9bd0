"""The double that users' tests run on: what it is told to do, what it breaks, and what it says was sent."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import gc
import math
import re
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from fastapi import FastAPI
from proj.types import Money
from support.clock import virtual
from support.messages import Outcomes, build_task
from support.own_types import MONEY, SET
from support.programs import run
from support.waiting import eventually

from fibo_client import (
    FIBO_TASK,
    SQRT_TASK,
    ConfigError,
    FiboClient,
    MessageError,
    PublishError,
    PublishUnknownError,
    ReadError,
    ResultTimeoutError,
    TaskFailedError,
    TaskRevokedError,
    TransportError,
)
from fibo_client.celery import CeleryClient, CeleryConfig, JSONType, RemoteTask
from fibo_client.testing import FakeCelery, FakeFibo, SentTask
from fibo_client.testing.messages import open_message

ADD = RemoteTask[[int, int], int]("proj.add")
PRICE = Money(Decimal("1.50"), "EUR")


@pytest.fixture
def fake():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y)
    return fake


def now() -> float:
    return asyncio.get_running_loop().time()


# What the worker is told to do.


async def test_the_worker_knows_the_types_that_its_client_was_told(fake):
    fake.task("proj.double", lambda money: Money(money.amount * 2, money.currency))
    fake.task("proj.refuse", raises=ValueError("no", PRICE))
    async with CeleryClient(transport=fake, json_types=[JSONType(*MONEY)]) as celery:
        assert await celery.call("proj.double", (PRICE,)) == Money(Decimal("3.00"), "EUR")
        with pytest.raises(TaskFailedError) as caught:
            await celery.call("proj.refuse")
        assert caught.value.exc_args == ("no", PRICE)
    fake.assert_sent("proj.double", PRICE)


async def test_the_worker_knows_the_types_of_each_of_its_clients(fake):
    fake.task("proj.echo", lambda value: value)
    async with (
        CeleryClient(transport=fake, json_types=[JSONType(*MONEY)]) as first,
        CeleryClient(transport=fake, json_types=[JSONType(*SET)]) as second,
    ):
        assert await first.call("proj.echo", (PRICE,)) == PRICE
        assert await second.call("proj.echo", (frozenset("ab"),)) == frozenset("ab")
    with pytest.raises(ConfigError, match="the marker 'money'"):
        CeleryClient(transport=fake, json_types=[JSONType(Path, "money", str, Path)])


async def test_a_task_answers_what_its_function_returns(fake):
    async with CeleryClient(transport=fake) as celery:
        assert await celery.call(ADD, (2, 3)) == 5


async def test_a_function_may_be_a_coroutine_function(fake):
    async def add(x, y):
        await asyncio.sleep(0)  # Stands for work.
        return x + y

    fake.task("proj.add", add)
    async with CeleryClient(transport=fake) as celery:
        assert await celery.call(ADD, (2, 3)) == 5


async def test_a_task_answers_a_fixed_value_or_fails_with_a_fixed_error(fake):
    fake.task("proj.fixed", returns={"total": 5})
    fake.task("proj.broken", raises=KeyError("no stock"))
    fake.task("proj.nothing")
    async with CeleryClient(transport=fake) as celery:
        assert await celery.call("proj.fixed", ("any", "arguments")) == {"total": 5}
        assert await celery.call("proj.nothing") is None
        for _ in range(2):
            with pytest.raises(TaskFailedError) as caught:
                await celery.call("proj.broken")
            assert (caught.value.exc_type, caught.value.exc_args) == ("KeyError", ("no stock",))
            assert caught.value.traceback.splitlines() == [
                "Traceback (most recent call last):",
                '  File "<proj.broken>", line 1, in broken',
                "KeyError: 'no stock'",
            ]


async def test_of_an_exception_json_carries_what_it_can_and_the_rest_as_text(fake):
    fake.task("proj.broken", raises=ValueError("bad", {1}, math.inf))
    async with CeleryClient(transport=fake) as celery:
        with pytest.raises(TaskFailedError) as caught:
            await celery.call("proj.broken")
    assert caught.value.exc_args == ("bad", "{1}", math.inf)


async def test_an_error_of_the_function_that_is_a_timeout_is_its_own(fake):
    fake.task("proj.late", raises=TimeoutError("upstream"))
    async with CeleryClient(transport=fake) as celery:
        handle = await celery.send_task("proj.late", time_limit=5, soft_time_limit=4)
        with pytest.raises(TaskFailedError, match=r"TimeoutError\('upstream'\)"):
            await handle


@virtual
async def test_a_task_that_waits_for_a_free_worker_after_its_time_came_can_be_revoked():
    fake = FakeCelery(concurrency=1)
    fake.task("proj.slow", delay=10)
    ran = []
    fake.task("proj.note", ran.append)
    async with CeleryClient(transport=fake) as celery:
        later = await celery.send_task("proj.note", (1,), countdown=5)
        await celery.send_task("proj.slow")
        await asyncio.sleep(6)
        ((reserved,),) = (await celery.inspect().reserved()).values()
        assert reserved["id"] == later.id
        await later.revoke()
        with pytest.raises(TaskRevokedError):
            await later
        await celery.call("proj.slow")
    assert ran == []


async def test_a_traceback_has_the_frames_of_the_function_and_none_of_the_double(fake):
    def outer():
        inner()

    def inner():
        raise ValueError("deep")

    fake.task("proj.deep", outer)
    async with CeleryClient(transport=fake) as celery:
        with pytest.raises(TaskFailedError) as caught:
            await celery.call("proj.deep")
    assert re.findall(r"in (\w+)$", caught.value.traceback, re.MULTILINE) == ["outer", "inner"]


async def test_a_task_can_be_told_something_else_at_any_time(fake):
    async with CeleryClient(transport=fake) as celery:
        assert await celery.call(ADD, (2, 3)) == 5
        fake.task(ADD, raises=ValueError("bad"))
        with pytest.raises(TaskFailedError):
            await celery.call(ADD, (2, 3))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"function": 5}, TypeError, "a fixed answer is returns="),
        ({"raises": ValueError}, TypeError, "such as ValueError"),
        ({"function": print, "returns": 5}, TypeError, "one of function, returns and raises"),
        ({"delay": -1}, ValueError, "0 or more seconds"),
        ({"delay": math.nan}, ValueError, "0 or more seconds"),
        ({"bind": True, "returns": 5}, TypeError, "bind=True is for a function"),
    ],
)
def test_what_cannot_be_done_for_a_task_is_refused(fake, options, error, said):
    with pytest.raises(error, match=said):
        fake.task("proj.add", **options)


def test_queues_and_nodes_are_lists_of_names():
    with pytest.raises(TypeError, match="lists of names"):
        FakeCelery(queues="celery")


@virtual
async def test_a_delay_is_time_of_the_event_loop():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y, delay=3600)
    async with CeleryClient(transport=fake, timeout=None) as celery:
        began = now()
        assert await celery.call(ADD, (2, 3)) == 5
        assert now() - began == pytest.approx(3600, abs=0.01)


@virtual
async def test_a_task_that_never_answers_runs_into_the_time_limit():
    fake = FakeCelery()
    fake.task("proj.slow", delay=math.inf)
    async with CeleryClient(transport=fake) as celery:
        began = now()
        with pytest.raises(ResultTimeoutError, match=r"proj\.slow") as caught:
            await celery.call("proj.slow", timeout=60)
        assert caught.value.published is True
        assert now() - began == pytest.approx(60, abs=0.01)


@virtual
async def test_dates_in_messages_are_kept_by_the_clock_of_the_event_loop():
    fake = FakeCelery(concurrency=1)
    fake.task("proj.slow", delay=3600)
    fake.task(ADD, lambda x, y: x + y)
    async with CeleryClient(transport=fake, timeout=None) as celery:
        began = now()
        later = await celery.send_task(ADD, (1, 2), eta=datetime.now(UTC) + timedelta(hours=2))
        await celery.send_task("proj.slow")
        late = await celery.send_task(ADD, (1, 2), expires=60)
        with pytest.raises(TaskRevokedError, match="expired"):
            await late
        assert now() - began == pytest.approx(3600, abs=1)
        assert await later == 3
        assert now() - began == pytest.approx(7200, abs=1)


@virtual
async def test_a_task_is_tried_again_as_often_as_it_says_and_then_fails_with_its_error():
    tries = []

    def flaky(task):
        tries.append((task.request.retries, task.request.id))
        task.retry(exc=ConnectionError("gone"), countdown=10, max_retries=2)

    fake = FakeCelery()
    fake.task("proj.flaky", flaky, bind=True)
    async with CeleryClient(transport=fake, timeout=100) as celery:
        began = now()
        with pytest.raises(TaskFailedError, match="ConnectionError"):
            await celery.call("proj.flaky", task_id="mine")
    assert tries == [(0, "mine"), (1, "mine"), (2, "mine")]
    assert now() - began == pytest.approx(20, abs=0.1)


async def test_all_queues_are_served_unless_some_are_named(fake):
    async with CeleryClient(transport=fake) as celery:
        handles = [await celery.send_task(ADD, (n, 1), queue=f"queue-{n}", priority=n) for n in range(10)]
        assert await celery.gather(handles) == list(range(1, 11))


async def test_a_queue_that_nobody_serves_keeps_its_tasks():
    fake = FakeCelery(queues=["math"])
    fake.task(ADD, lambda x, y: x + y)
    async with CeleryClient(transport=fake) as celery:
        assert await (await celery.send_task(ADD, (2, 3), queue="math")) == 5
        unserved = await celery.send_task(ADD, (2, 3))
        with pytest.raises(ResultTimeoutError):
            await unserved.get(timeout=0.05)
        assert await celery.queue_depth() == 1


async def test_no_more_tasks_run_at_a_time_than_the_worker_may():
    running, most = 0, 0

    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)  # Stands for work.
        running -= 1

    fake = FakeCelery(concurrency=3)
    fake.task("proj.work", work)
    async with CeleryClient(transport=fake) as celery:
        await celery.gather(await celery.send_many([RemoteTask("proj.work")()] * 20))
    assert most == 3


@virtual
async def test_no_task_runs_while_there_is_no_worker_and_all_do_afterwards():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y)
    async with CeleryClient(transport=fake) as celery:
        with fake.no_worker():
            handle = await celery.send_task(ADD, (2, 3))
            assert await celery.ping() == []
            assert await celery.worker_count() == 0
            assert await handle.revoke() == 0
            await asyncio.sleep(5)
            assert await handle.ready() is False
        assert await handle == 5
        assert [each.name for each in await celery.ping()] == ["celery@fake"]


# What the transport does.


async def test_without_redis_every_call_says_so_and_afterwards_all_is_there_again(fake):
    async with CeleryClient(transport=fake) as celery:
        done = await celery.send_task(ADD, (2, 3))
        await done
        again = celery.result(done.id)
        with fake.redis_down("the plug is out"):
            with pytest.raises(PublishError, match="the plug is out") as caught:
                await celery.send_task(ADD, (1, 1))
            assert not caught.value.refused
            with pytest.raises(ReadError, match="the plug is out"):
                await again.get(timeout=0)
            with pytest.raises(TransportError, match="the plug is out"):
                await celery.ping()
            with pytest.raises(ResultTimeoutError) as late:
                await again.get(timeout=0.05)
            assert "the plug is out" in late.value.unread
        assert await again.get() == 5
    assert len(fake.sent) == 1


@virtual
async def test_a_call_survives_a_short_outage():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y, delay=2)
    async with CeleryClient(transport=fake) as celery:
        call = asyncio.create_task(celery.call(ADD, (2, 3)))
        await asyncio.sleep(1)
        with fake.redis_down():
            await asyncio.sleep(5)
            assert not call.done()  # Who is down pushes nothing either.
        assert await call == 5


@pytest.mark.parametrize("arrives", [True, False])
async def test_whether_a_task_arrived_is_not_known_and_the_log_knows(fake, arrives):
    async with CeleryClient(transport=fake) as celery:
        with fake.no_answer(arrives=arrives), pytest.raises(PublishUnknownError) as caught:
            await celery.send_task(ADD, (2, 3), task_id="mine")
        assert caught.value.task_ids == ("mine",)
        assert [each.task_id for each in fake.sent] == (["mine"] if arrives else [])
        if arrives:
            assert await celery.result("mine").get() == 5


@virtual
async def test_a_push_that_is_lost_costs_one_poll():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y, delay=5)
    async with CeleryClient(transport=fake) as celery:
        with fake.lost_pushes():
            began = now()
            assert await celery.call(ADD, (2, 3)) == 5
            assert 5 <= now() - began <= 6.3
        assert celery.stats().pushes == 0
        await celery.call(ADD, (2, 3))
        assert celery.stats().pushes == 1


def test_a_wrong_url_or_setting_is_refused_as_without_the_double(fake):
    with pytest.raises(ConfigError, match="amqp"):
        CeleryClient("amqp://localhost", transport=fake)
    with pytest.raises(ConfigError, match="result_backend"):
        CeleryClient("redis://localhost", "redis://localhost/abc", transport=fake)
    with pytest.raises(ConfigError, match="poll_min"):
        CeleryClient(transport=fake, poll_min=-1)


# What was sent.


async def test_what_was_sent_is_told_with_all_its_options(fake):
    async with CeleryClient(transport=fake) as celery:
        await celery.send_task(
            "proj.other", ([1, (2, 3)],), {"at": datetime(2026, 1, 2, tzinfo=UTC)}, task_id="mine", queue="math",
            priority=3, eta=datetime(2026, 1, 2, tzinfo=UTC), expires=datetime(2126, 1, 2, tzinfo=UTC),
            headers={"tenant": "a"}, ignore_result=True, time_limit=5, soft_time_limit=4, shadow="other",
            parent_id="p", root_id="r", stamps={"s": 1}, compression="gzip",
        )  # fmt: skip
    (sent,) = fake.sent
    assert sent == SentTask(
        task="proj.other",
        args=([1, [2, 3]],),
        kwargs={"at": datetime(2026, 1, 2, tzinfo=UTC)},
        task_id="mine",
        queue="math",
        priority=3,
        eta=datetime(2026, 1, 2, tzinfo=UTC),
        expires=datetime(2126, 1, 2, tzinfo=UTC),
        headers={"tenant": "a"},
        options={
            "ignore_result": True, "time_limit": 5, "soft_time_limit": 4, "shadow": "other", "parent_id": "p",
            "root_id": "r", "stamps": {"s": 1}, "compression": "application/x-gzip",
        },
    )  # fmt: skip


async def test_what_waits_for_its_answer_asks_for_it_and_what_hands_work_out_leaves_it_to_the_task():
    fake = FakeFibo()
    async with FiboClient(transport=fake) as fibo:
        await fibo.fibonacci(5)
        await fibo.fibonacci_many([5, 6])
        await fibo.sqrt(4)
        await fibo.fibo_task(5)
        await fibo.celery.call(SQRT_TASK, (4,), task_id="mine")
        await fibo.celery.call(SQRT_TASK, (4,), ignore_result=None)
        async with fibo.stream([5, 6]) as results:
            assert [n async for n, _ in results] == [5, 6]
        assert {sent.options["ignore_result"] for sent in fake.sent} == {False}
        before = len(fake.sent)
        await fibo.submit(5)
        await fibo.submit_many([5, 6])
        await fibo.celery.send_task(SQRT_TASK, (4,))
        await fibo.celery.send_many([SQRT_TASK(4)], ignore_result=None)
        assert [sent.options for sent in fake.sent[before:]] == [{}] * 5
        with pytest.raises(MessageError, match="use send or send_many"):
            await fibo.celery.call_many([SQRT_TASK(4)], ignore_result=True)


async def test_asserting_that_a_task_was_sent_gives_it_back(fake):
    async with CeleryClient(transport=fake) as celery:
        await celery.send_task(ADD, (2, 3))
        await celery.send_task(ADD, (2, 3), queue="math")
        await celery.send_task("proj.echo", ((1, 2),), {"key": {"k": (3,)}})
    assert fake.assert_sent(ADD, 2, 3).queue == "math"
    assert fake.assert_sent("proj.add", mock.ANY, 3) is fake.sent[1]
    assert fake.assert_sent("proj.add", ...) is fake.sent[1]
    assert fake.assert_sent_once("proj.echo", (1, 2), key={"k": (3,)}) is fake.sent[2]
    fake.assert_not_sent(ADD, 3, 2)
    fake.assert_not_sent("proj.mul", ...)


async def test_an_assertion_that_fails_says_what_was_sent_instead_the_nearest_first(fake):
    with pytest.raises(AssertionError, match=r"^proj\.add\(2, 3\) was not sent\. Nothing was sent\.$"):
        fake.assert_sent(ADD, 2, 3)
    fake.assert_nothing_sent()
    async with CeleryClient(transport=fake) as celery:
        await celery.send_task("proj.mul", (2, 3), {"mod": 5})
        await celery.send_task(ADD, (2, 4), queue="math", priority=3)
    with pytest.raises(AssertionError) as caught:
        fake.assert_sent(ADD, 2, 3, mod=5)
    assert str(caught.value) == (
        "proj.add(2, 3, mod=5) was not sent. What was sent (2):\n"
        "    proj.add(2, 4)  queue='math' priority=3\n"
        "    proj.mul(2, 3, mod=5)  queue='celery'"
    )
    with pytest.raises(AssertionError, match=r"proj\.div\(\.\.\.\) was sent 0 times, not once"):
        fake.assert_sent_once("proj.div", ...)
    with pytest.raises(AssertionError, match=r"proj\.add\(2, 4\) was sent 1 times"):
        fake.assert_not_sent(ADD, 2, 4)
    with pytest.raises(AssertionError, match=r"What was sent \(2\)"):
        fake.assert_nothing_sent()


async def test_an_assertion_that_fails_does_not_list_thousands(fake):
    async with CeleryClient(transport=fake) as celery:
        await celery.send_many([ADD(n, n) for n in range(1000)])
    with pytest.raises(AssertionError) as caught:
        fake.assert_sent_once(ADD, ...)
    assert len(str(caught.value).splitlines()) < 30
    assert "and 980 more" in str(caught.value)


async def test_what_was_revoked_is_told(fake):
    fake.task("proj.slow", delay=math.inf)
    async with CeleryClient(transport=fake) as celery:
        call = asyncio.create_task(celery.call("proj.slow"))
        await eventually(lambda: fake.sent)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert fake.revoked == [fake.assert_sent("proj.slow").task_id]


# Messages that a worker would refuse.


def broken(*, body=None, **headers):
    """The message of a task, with another body or other headers."""
    whole = build_task("proj.add", (1, 2))
    return whole._replace(
        template=dataclasses.replace(whole.template, headers={**whole.template.headers, **headers}),
        body=whole.body if body is None else body,
    )


def test_a_whole_message_is_opened():
    assert open_message(broken()).args == (1, 2)


@pytest.mark.parametrize(
    "message",
    [
        broken(body=b""), broken(body=b"\xff"), broken(body=b"[]"), broken(body=b"{}"), broken(body=b"[[], null, {}]"),
        broken(body=b'[[{"__type__": "unknown", "__value__": 1}], {}, {}]'),
        broken(compression="application/unknown"), broken(stamps={"x": math.nan}),
    ],
)  # fmt: skip
async def test_a_message_that_a_worker_could_not_take_is_refused_when_it_is_sent(fake, message):
    with pytest.raises(ValueError):
        open_message(message)
    async with CeleryClient(transport=fake) as celery:
        sender = Outcomes()
        celery._session.broker.publish([message], sender)
        await sender.news.wait()
    ((_, error),) = sender.told
    assert "a worker could not take it" in str(error)
    assert error.refused
    fake.assert_nothing_sent()


# Clients, loops and threads.


async def test_a_task_knows_nothing_of_the_context_of_who_sent_it(fake):
    who = contextvars.ContextVar("who", default="nobody")
    who.set("the caller")
    fake.task("proj.who", who.get)
    async with CeleryClient(transport=fake) as celery:
        with fake.no_worker():
            handle = await celery.send_task("proj.who")
        assert await handle == "nobody"


async def test_no_socket_is_made(fake, monkeypatch):
    monkeypatch.setattr("socket.socket", mock.Mock(side_effect=AssertionError("a socket")))
    async with CeleryClient("redis://localhost", "redis://elsewhere/1", transport=fake) as celery:
        assert await celery.call(ADD, (2, 3)) == 5
        assert len(await celery.ping()) == 1


async def test_clients_share_what_is_in_the_double(fake):
    async with CeleryClient(transport=fake) as one, CeleryClient(transport=fake) as other:
        handle = await one.send_task(ADD, (2, 3))
        assert await other.result(handle.id).get() == 5


def test_clients_of_several_event_loops_share_a_double(fake):
    answers = []

    async def use():
        async with CeleryClient(transport=fake) as celery:
            answers.append(await celery.call(ADD, (2, 3)))

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    asyncio.run(use())
    assert answers == [5] * 5
    assert len(fake.sent) == 5


async def test_a_client_of_another_loop_is_pushed_what_this_one_computed(fake):
    go = asyncio.Event()

    async def when_told():
        await go.wait()
        return 1

    async def wait():
        async with CeleryClient(transport=fake, poll_max=30, poll_min=30) as other:
            return await other.result("shared").get(timeout=20), other.stats().pushes

    async def subscribed():
        return any("shared" in each.ids for each in fake._memory.subscriptions)

    fake.task("proj.waits", when_told)
    async with CeleryClient(transport=fake) as celery:
        await celery.send_task("proj.waits", task_id="shared")
        # In debug mode a loop refuses to be touched from another thread.
        waiting = asyncio.create_task(asyncio.to_thread(asyncio.run, wait(), debug=True))
        await eventually(subscribed)
        go.set()
        assert await waiting == (1, 1)


def test_what_is_stored_does_not_go_to_who_subscribed_on_a_loop_that_is_closed(fake):
    async def subscribe():
        _, backend = fake.connect(CeleryConfig())
        subscription = await backend.subscribe(None)
        subscription.update(["shared"], [], look=True)

    asyncio.run(subscribe())
    fake._memory.store("shared", b"a result")
    _, backend = fake.connect(CeleryConfig())
    assert asyncio.run(backend.get_many(["shared"])) == [b"a result"]


def test_a_worker_comes_back_for_clients_of_a_loop_in_another_thread(fake):
    sent = threading.Event()
    answers = []

    async def use():
        async with CeleryClient(transport=fake, timeout=10) as celery:
            handle = await celery.send_task(ADD, (2, 3))
            sent.set()
            answers.append(await handle)

    with fake.no_worker():
        thread = threading.Thread(target=asyncio.run, args=(use(),))
        thread.start()
        assert sent.wait(10)
    thread.join(10)
    assert answers == [5]


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
def test_an_application_in_the_thread_of_starlettes_test_client_uses_the_double():
    from fastapi.testclient import TestClient

    fake = FakeFibo()

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with FiboClient(transport=fake) as app.state.fibo:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/fibonacci/{n}")
    async def fibonacci(n: int) -> str:
        return str(await app.state.fibo.fibonacci(n))

    with TestClient(app) as http:
        assert http.get("/fibonacci/10").json() == "55"
        fake.numbers[11] = 5
        assert http.get("/fibonacci/11").json() == "5"
    assert fake.asked == [10, 11]


async def test_closing_the_last_client_ends_what_still_runs_and_leaves_nothing(fake):
    begun, ended = [], []

    async def slow():
        begun.append(True)
        try:
            await asyncio.sleep(60)  # Stands for work.
        finally:
            ended.append(True)

    fake.task("proj.slow", slow)
    before = asyncio.all_tasks()
    async with CeleryClient(transport=fake) as one:
        async with CeleryClient(transport=fake) as other:
            await other.send_task("proj.slow")
            await other.send_task(ADD, (1, 2), countdown=60)
            await one.send_task("proj.slow")
            await eventually(lambda: len(begun) == 2)
        assert ended == []
    assert ended == [True, True]
    assert asyncio.all_tasks() == before
    gc.collect()


async def test_what_waits_when_the_last_client_is_closed_is_run_for_the_next(fake):
    with fake.no_worker():
        async with CeleryClient(transport=fake) as celery:
            handle = await celery.send_task(ADD, (2, 3))
    async with CeleryClient(transport=fake, timeout=5) as celery:
        assert await celery.result(handle.id) == 5


@virtual
async def test_nothing_is_begun_for_a_client_that_is_closed():
    begun = []

    async def slow(number):
        begun.append(number)
        await asyncio.sleep(60)  # Stands for work.

    fake = FakeCelery(concurrency=1)
    fake.task("proj.slow", slow)
    async with CeleryClient(transport=fake) as celery:
        await celery.send_many([RemoteTask("proj.slow")(number) for number in range(3)])
        await asyncio.sleep(1)
    await asyncio.sleep(1)
    assert begun == [0]


async def test_a_client_says_what_it_talks_through(fake):
    assert "Memory" in repr(CeleryClient(transport=fake))
    async with CeleryClient(transport=fake) as celery:
        await celery.call(ADD, (2, 3))
    assert repr(fake) == "<FakeCelery, 1 sent>"


# Fibonacci numbers.


async def test_numbers_are_asked_for_however_they_share_tasks():
    fake = FakeFibo()
    async with FiboClient(transport=fake) as client:
        assert await client.fibonacci(10) == 55
        assert await client.fibonacci_many([3, 4, 3]) == [2, 3, 2]
        assert await client.fibo_task(7) == (7, mock.ANY)
        assert await client.sqrt(9) == 3.0
    assert fake.asked == [10, 3, 4, 7]


async def test_a_number_can_have_another_answer_or_an_error_of_its_own():
    fake = FakeFibo()
    fake.numbers[10_000_000] = 5
    fake.numbers[13] = OSError("unlucky")
    async with FiboClient(transport=fake) as client:
        assert await client.fibonacci(10_000_000) == 5
        with pytest.raises(TaskFailedError, match="unlucky"):
            await client.fibonacci(13)
        values = await client.fibonacci_many([12, 13, 14], return_exceptions=True)
        assert (values[0], values[2]) == (144, 377)
        assert (values[1].exc_type, values[1].exc_args) == ("OSError", ("unlucky",))
        with pytest.raises(TaskFailedError, match="unlucky"):
            await (await client.submit(13, task=FIBO_TASK))


@virtual
async def test_numbers_take_the_time_that_they_are_told_to():
    fake = FakeFibo()
    fake.delay = 5
    async with FiboClient(transport=fake) as client:
        began = now()
        await client.fibonacci_many([1, 2, 3])
        assert now() - began == pytest.approx(5, abs=0.1)
        fake.delay = math.inf
        assert fake.delay == math.inf
        with pytest.raises(ResultTimeoutError):
            await client.fibonacci(10, timeout=1)
        with pytest.raises(ValueError, match="0 or more seconds"):
            fake.delay = -1
        assert fake.delay == math.inf


# What it needs.


def test_the_double_needs_neither_pytest_nor_celery_nor_the_worker():
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['pytest', 'celery', 'kombu', 'fibo_worker', 'gmpy2']))\n"
        "import asyncio, fibo_client, fibo_client.testing\n"
        "async def main():\n"
        "    async with fibo_client.FiboClient(transport=fibo_client.testing.FakeFibo()) as client:\n"
        "        print(await client.fibonacci(10))\n"
        "asyncio.run(main())\n"
    )
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "55\n", "")


async def test_a_double_without_the_tasks_of_fibo_worker_says_which_one_has_them():
    async with FiboClient(transport=FakeCelery()) as client:
        with pytest.raises(TaskFailedError, match="NotRegistered") as caught:
            await client.fibonacci(5)
    assert any("Its task() does that; FakeFibo knows those of fibo-worker" in note for note in caught.value.__notes__)
