"""Owned work and handed-out work: what is revoked, deleted and told when a call ends."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager

import anyio
import pytest
from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker
from support.messages import messages

from fibo_client.celery.config import EXPIRY_MARGIN, UNSET, CeleryConfig
from fibo_client.celery.gather import news
from fibo_client.celery.pending import DEADLINE_GRACE
from fibo_client.celery.publisher import MAX_BYTES
from fibo_client.celery.session import Session
from fibo_client.errors import ClientStateError, PublishError, PublishUnknownError, ReadError
from fibo_client.telemetry.tracer import NOOP_SPAN


class Bench:
    """A session over a broker and a store in memory."""

    def __init__(self, **settings) -> None:
        self.broker, self.store = MemoryBroker(), MemoryBackend()
        self.session = Session(CeleryConfig(**settings), self.broker, self.store)

    def run(self, *task_ids, timeout=10.0, spent=0.0, **options):
        return asyncio.create_task(self.have_done(*task_ids, timeout=timeout, began=self.now() - spent, **options))

    async def have_done(self, *task_ids, retry=False, end_on_failure=False, size=None, **options):
        """Have a job done like a client does: give it when it is over, or raise why it could not be sent."""
        wait = {"retry": retry, "end_on_failure": end_on_failure, **options}
        job = self.session.submit(messages(*task_ids, size=size), NOOP_SPAN, awaits=task_ids, **wait)
        await self.follow(job, lambda: self.session.end(job))
        return Outcome(job, self.session.facts(job, self.now() - options["began"], job))

    async def wait(self, *task_ids, **options):
        """Wait for what was handed out like a client does."""
        began = self.now()
        wait = self.session.enter(task_ids, **options)
        await self.follow(wait, lambda: self.session.leave(wait))
        return Outcome(wait, self.session.facts(wait, self.now() - options.get("began", began)))

    async def follow(self, wait, leave):
        try:
            while not wait.over:
                await news(wait)
        finally:
            leave()
        self.session.check_error(wait)

    async def publish(self, *task_ids, timeout=None, size=None):
        began = self.now()
        await self.session.publish(messages(*task_ids, size=size), NOOP_SPAN, timeout=timeout, retry=False, began=began)

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    @property
    def revoked(self) -> list[str]:
        return self.broker.revoked

    @property
    def deleted(self) -> list[str]:
        return self.store.deleted


class Outcome:
    """How a wait ended."""

    def __init__(self, wait, facts) -> None:
        self.arrived = wait.arrived
        self.missing = list(wait.missing)
        self.timed_out = wait.timed_out
        self.waited = facts.waited
        self.no_worker = facts.no_worker
        self.unsent = facts.unsent
        self.published = facts.published


@asynccontextmanager
async def running(**settings):
    bench = Bench(**settings)
    await bench.session.open()
    try:
        yield bench
    finally:
        await bench.session.aclose()


@virtual
async def test_an_answered_call_is_not_revoked_and_its_result_is_deleted():
    async with running() as bench:
        call = bench.run("a")
        await asyncio.sleep(0.1)
        bench.store.put("a", result=55)
        outcome = await call
        assert outcome.arrived["a"].result == 55
        await asyncio.sleep(2)
        assert bench.deleted == ["a"]
        assert bench.revoked == []


@virtual
async def test_that_no_worker_listens_is_known_by_the_deadline_and_does_not_delay_it():
    async with running() as bench:
        bench.broker.listening = 0
        began = bench.now()
        outcome = await bench.run("a", timeout=3.0)
        assert outcome.no_worker
        assert bench.now() - began <= 3.0 + DEADLINE_GRACE
        bench.broker.listening = 1
        assert not (await bench.run("b", timeout=3.0)).no_worker


@virtual
async def test_whether_a_worker_listens_is_not_asked_while_answers_come():
    async with running() as bench:
        for name in "abc":
            call = bench.run(name, timeout=3.0)
            await asyncio.sleep(1.0)
            bench.store.put(name, result=55)
            assert not (await call).no_worker
        assert await bench.wait("d", timeout=0)
        assert bench.broker.broadcasts == []


@virtual
async def test_nothing_is_read_before_the_task_is_sent():
    async with running(push=False) as bench:
        bench.broker.outcomes.append(0.5)
        call = bench.run("a")
        await asyncio.sleep(0.4)
        assert bench.store.read_at == []
        await asyncio.sleep(0.2)
        assert bench.store.read_at != []
        bench.store.put("a")
        await call


@virtual
async def test_a_cancelled_call_is_revoked():
    async with running() as bench:
        call = bench.run("a", "b")
        await asyncio.sleep(0.1)
        bench.store.put("a")
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(1)
        assert bench.revoked == ["b"]


@virtual
async def test_a_cancelled_call_is_not_revoked_if_the_settings_say_so():
    async with running(revoke_on_cancel=False) as bench:
        call = bench.run("a")
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(1)
        assert bench.revoked == []


@virtual
async def test_a_call_cancelled_before_the_flush_sends_nothing_and_revokes_nothing():
    async with running() as bench:
        bench.broker.outcomes.append(0.5)
        first = bench.run("first", size=MAX_BYTES)  # No more fits beside it.
        await asyncio.sleep(0.1)
        call = bench.run("a")
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(1)
        assert [message.id for command in bench.broker.commands for message in command] == ["first"]
        assert bench.revoked == []
        bench.store.put("first")
        await first


@virtual
async def test_a_call_cancelled_while_it_is_sent_is_revoked():
    async with running() as bench:
        bench.broker.outcomes.append(0.5)
        call = bench.run("a")
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(1)
        assert bench.revoked == ["a"]


@virtual
async def test_a_timeout_never_revokes_and_the_result_is_deleted_after_its_expiry():
    async with running() as bench:
        outcome = await bench.run("a", timeout=3.0)
        assert outcome.timed_out
        assert outcome.missing == ["a"]
        await asyncio.sleep(2 * EXPIRY_MARGIN - 0.1)
        assert bench.deleted == []
        await asyncio.sleep(0.2)
        assert bench.deleted == ["a"]
        assert bench.revoked == []


@virtual
async def test_after_a_timeout_a_task_that_was_not_sent_yet_never_is_and_the_outcome_says_so():
    async with running() as bench:
        bench.broker.outcomes.append(5.0)
        first = bench.run("first", size=MAX_BYTES)
        await asyncio.sleep(0.1)
        outcome = await bench.run("a", timeout=3.0, retry=True)
        assert outcome.timed_out
        assert outcome.unsent == "the command before it has had no answer yet"
        assert outcome.published is False
        await asyncio.sleep(60)
        assert len(bench.broker.commands) == 1
        assert bench.revoked == []
        await asyncio.gather(first, return_exceptions=True)


@virtual
async def test_a_call_that_cannot_be_sent_until_its_deadline_says_why():
    async with running() as bench:
        bench.broker.outcomes.extend([0.0, *[PublishError("connection refused")] * 100])
        first = bench.run("first", timeout=0.1)
        await first
        began = asyncio.get_running_loop().time()
        with pytest.raises(PublishError, match="connection refused"):
            await bench.run("a", timeout=20.0, retry=True)
        assert 17.0 <= asyncio.get_running_loop().time() - began <= 20.0


@virtual
async def test_a_failure_that_ends_the_call_revokes_the_others():
    async with running() as bench:
        call = bench.run("a", "b", "c", end_on_failure=True)
        await asyncio.sleep(0.1)
        bench.store.put("b", "FAILURE", {"exc_type": "E", "exc_message": []})
        outcome = await call
        assert outcome.missing == ["a", "c"]
        await asyncio.sleep(1)
        assert sorted(bench.revoked) == ["a", "c"]


@virtual
async def test_a_call_that_could_not_be_sent_says_so_at_once():
    async with running() as bench:
        bench.broker.outcomes.append(PublishError("connection refused"))
        with pytest.raises(PublishError, match="connection refused"):
            await bench.run("a")
        await asyncio.sleep(1)
        assert bench.revoked == []


@virtual
async def test_an_unknown_outcome_revokes_nothing_so_that_the_id_can_still_be_waited_on():
    async with running() as bench:
        bench.broker.outcomes.append(PublishUnknownError("no answer"))
        with pytest.raises(PublishUnknownError):
            await bench.run("a")
        await asyncio.sleep(1)
        assert bench.revoked == []


@virtual
async def test_waiting_for_what_was_handed_out_never_revokes_and_never_deletes():
    async with running() as bench:
        outcome = await bench.wait("a", timeout=1.0)
        assert outcome.timed_out
        waiting = asyncio.create_task(bench.wait("a", timeout=None))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        bench.store.put("a", result=8)
        outcome = await bench.wait("a", timeout=1.0)
        assert outcome.arrived["a"].result == 8
        await asyncio.sleep(10)
        assert bench.deleted == []
        assert bench.revoked == []


@virtual
async def test_a_timeout_counts_from_the_call_and_the_outcome_says_all_of_it():
    async with running() as bench:
        start = bench.now()
        outcomes = [
            await bench.run("a", timeout=3.0, spent=1.0),
            await bench.wait("b", timeout=3.0, began=bench.now() - 1.0),
        ]
        assert bench.now() - start == pytest.approx(4.0, abs=2 * DEADLINE_GRACE)
        assert [outcome.waited for outcome in outcomes] == [pytest.approx(3.0, abs=DEADLINE_GRACE)] * 2
        assert all(outcome.timed_out for outcome in outcomes)


@virtual
async def test_a_timeout_of_nothing_is_one_read():
    async with running() as bench:
        outcome = await bench.wait("a", timeout=0)
        assert outcome.arrived["a"].state == "PENDING"
        assert len(bench.store.read_at) == 1


@virtual
async def test_one_read_of_a_redis_that_hangs_ends_with_an_error():
    async with running() as bench:
        bench.store.hangs = True
        with pytest.raises(ReadError):
            await bench.wait("a", timeout=0)


@virtual
async def test_sending_that_takes_too_long_is_given_up():
    async with running() as bench:
        bench.broker.outcomes.extend([60.0, 0.0])
        under_way = asyncio.create_task(bench.publish("a", timeout=2.0, size=MAX_BYTES))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(bench.publish("b", timeout=1.0))
        with pytest.raises(PublishError):
            await waiting
        with pytest.raises(PublishUnknownError):
            await under_way
        await asyncio.sleep(100)
        assert [message.id for (message,) in bench.broker.commands] == ["a"]


@virtual
async def test_a_cancelled_send_is_withdrawn():
    async with running() as bench:
        bench.broker.outcomes.append(0.5)
        first = asyncio.create_task(bench.publish("first", timeout=2.0, size=MAX_BYTES))
        await asyncio.sleep(0.1)
        sending = asyncio.create_task(bench.publish("a", timeout=2.0))
        await asyncio.sleep(0.1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await first
        await asyncio.sleep(1)
        assert len(bench.broker.commands) == 1


@virtual
async def test_using_it_before_it_is_open_or_after_it_is_closed_says_so():
    bench = Bench()
    with pytest.raises(ClientStateError, match=r"not opened yet.*async with"):
        await bench.wait("a", timeout=0)
    await bench.session.open()
    with pytest.raises(ClientStateError, match=r"open already.*can be opened once only; use it as it is"):
        await bench.session.open()
    await bench.session.aclose()
    await bench.session.aclose()
    with pytest.raises(ClientStateError, match="closed"):
        await bench.wait("a", timeout=0)
    with pytest.raises(ClientStateError, match="can be opened once"):
        await bench.session.open()


@virtual
async def test_a_client_that_was_never_opened_can_be_closed():
    bench = Bench()
    await bench.session.aclose()
    with pytest.raises(ClientStateError, match="closed"):
        await bench.session.open()


@virtual
async def test_closing_ends_calls_in_flight_with_an_error_and_leaves_no_task():
    bench = Bench()
    await bench.session.open()
    owned = bench.run("a", timeout=None)
    handed_out = asyncio.create_task(bench.wait("b", timeout=None))
    await asyncio.sleep(1)
    await bench.session.aclose()
    for task in (owned, handed_out):
        with pytest.raises(ClientStateError, match="closed while"):
            await task
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_closing_goes_on_although_its_caller_is_cancelled():
    bench = Bench()
    await bench.session.open()
    bench.broker.outcomes.append(100.0)
    sending = asyncio.create_task(bench.publish("a", timeout=None))
    waiting = asyncio.create_task(bench.wait("b", timeout=None))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(bench.session.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await bench.session.aclose()
    with pytest.raises(PublishUnknownError):
        await sending
    with pytest.raises(ClientStateError):
        await waiting
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_scope_that_has_ended_still_closes_the_client():
    bench = Bench()
    await bench.session.open()
    with anyio.move_on_after(1.0):
        try:
            await bench.wait("a", timeout=None)
        finally:
            await bench.session.aclose()
    assert len(asyncio.all_tasks()) == 1
    assert bench.store.log[-1] == ("close",)


@virtual
async def test_each_of_many_who_are_told_an_error_gets_one_of_its_own():
    bench = Bench()
    await bench.session.open()
    waits = [asyncio.create_task(bench.wait(str(number), timeout=None)) for number in range(10)]
    await asyncio.sleep(0.1)
    await bench.session.aclose()
    errors = await asyncio.gather(*waits, return_exceptions=True)
    assert len({id(error) for error in errors}) == 10


@virtual
async def test_what_was_sent_of_a_batch_that_failed_is_revoked_and_what_is_unknown_is_not():
    async with running() as bench:
        bench.broker.outcomes.extend([0.0, PublishUnknownError("no answer")])
        with pytest.raises(PublishUnknownError):
            await bench.run(*map(str, range(1000)))
        await asyncio.sleep(2)
        first, _, *rest = bench.broker.commands
        assert bench.revoked == [message.id for command in (first, *rest) for message in command]


@virtual
async def test_connections_are_kept_alive_while_somebody_waits_and_not_longer():
    async with running() as bench:
        waiting = asyncio.create_task(bench.wait("a", timeout=20.0))
        await asyncio.sleep(10.1)
        assert bench.store.kept_alive == 4
        await waiting
        before = bench.store.kept_alive
        await asyncio.sleep(100)
        assert bench.store.kept_alive <= before + 1


def test_another_event_loop_is_refused():
    bench = Bench()
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(bench.session.open())
        with pytest.raises(ClientStateError, match="another event loop"):
            second.run(bench.wait("a", timeout=0))
        with pytest.raises(ClientStateError, match="another event loop; open one client on each loop"):
            second.run(bench.session.open())
        with pytest.raises(ClientStateError, match="another event loop"):
            second.run(bench.session.aclose())
        first.run(bench.session.aclose())


def test_opening_a_client_again_whose_event_loop_has_ended_says_that_it_has():
    def run():
        bench = Bench()
        asyncio.run(bench.session.open())
        with pytest.raises(ClientStateError, match="has been closed; open another client"):
            asyncio.run(bench.session.open())
        del bench
        gc.collect()

    with pytest.warns(ResourceWarning, match="was not closed"):
        run()


def test_a_client_that_is_not_closed_warns():
    async def forget():
        await Bench().session.open()

    def run():
        asyncio.run(forget())
        gc.collect()

    with pytest.warns(ResourceWarning, match="was not closed"):
        run()


@pytest.mark.parametrize(("timeout", "expected"), [(UNSET, 30.0), (None, None), (0, 0), (2.5, 2.5)])
def test_timeouts_are_seconds_none_or_unset(timeout, expected):
    assert CeleryConfig().seconds(timeout) == expected


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("3", TypeError),
        (True, TypeError),
    ],
)
def test_other_timeouts_are_refused(timeout, error):
    with pytest.raises(error):
        CeleryConfig().seconds(timeout)
