"""Reading for everybody: on an event loop with a clock of its own, over a store in memory."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from support.clock import virtual
from support.memory import MemoryBackend
from support.messages import messages

from fibo_client.celery import budget
from fibo_client.celery.budget import Budget
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.gather import news
from fibo_client.celery.jobs import Job
from fibo_client.celery.pending import Wait
from fibo_client.celery.reader import LARGE_ANSWER, MAX_STALE, STALE_FOR, Reader
from fibo_client.celery.schedule import AFTER_PUSH
from fibo_client.errors import ClientStateError, ReadError, ResultDecodeError, TransportError
from fibo_client.testing.results import encode_meta


class Bench:
    """A reader over a store in memory."""

    def __init__(self, **settings) -> None:
        self.store = MemoryBackend()
        self.late: list[float] = []
        self.reader = Reader(self.store, CeleryConfig(**settings), lambda: self.late.append(self.now()))

    def enter(self, *task_ids, timeout=10.0, sent=True, **options):
        wait = Wait(asyncio.get_running_loop().create_future(), self.now(), timeout, **options)
        self.reader.enter(wait, task_ids, sent=sent)
        return wait

    async def wait(self, *task_ids, seen=None, **options):
        """Wait like the session does, and give the wait back."""
        wait = self.enter(*task_ids, wants_changes=seen is not None, **options)
        try:
            while not wait.over:
                await news(wait)
                while wait.changes:
                    seen.append(wait.changes.popleft().state)
        finally:
            self.reader.leave(wait)
        return wait

    def later(self, seconds, action, *args, **options):
        asyncio.get_running_loop().call_later(seconds, lambda: action(*args, **options))

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(**settings):
    bench = Bench(**settings)
    bench.reader.start()
    try:
        yield bench
    finally:
        await bench.reader.aclose(ClientStateError("closed"))


@virtual
async def test_a_result_that_was_there_before_the_wait_is_found():
    async with running() as bench:
        bench.store.put("a", result=55)
        waiter = await bench.wait("a")
        assert waiter.arrived["a"].result == 55


@virtual
async def test_a_pushed_result_arrives_without_waiting_for_a_poll():
    async with running() as bench:
        began = bench.now()
        bench.later(7.0, bench.store.put, "a", result=1)
        await bench.wait("a")
        assert bench.now() - began == pytest.approx(7.0, abs=1e-6)


@virtual
async def test_a_result_stored_between_publish_and_subscribe_is_read_shortly_after_the_confirmation():
    async with running() as bench:
        bench.store.confirms = False
        waiting = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(0.5)
        bench.store.put("a", push=False)
        (subscription,) = bench.store.subscriptions
        began = bench.now()
        subscription.subscriber.subscribed(subscription.unconfirmed.pop(), None)
        await waiting
        assert bench.now() == pytest.approx(began + AFTER_PUSH)


@virtual
async def test_a_lost_push_costs_one_poll_of_the_safety_net():
    async with running() as bench:
        bench.later(5.0, bench.store.put, "a", push=False)
        began = bench.now()
        await bench.wait("a")
        assert 5.0 <= bench.now() - began <= 6.3


@virtual
async def test_a_subscription_that_never_confirms_delays_nothing_much():
    async with running() as bench:
        bench.store.confirms = False
        began = bench.now()
        bench.later(0.2, bench.store.put, "a", push=False)
        await bench.wait("a")
        assert bench.now() - began < 0.3


@virtual
async def test_a_result_lost_with_a_dead_subscription_is_read_when_the_next_one_stands():
    async with running() as bench:
        waiting = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(3.0)
        bench.store.put("a", result=8, push=False)
        began = bench.now()
        bench.store.subscriptions[0].break_off()
        waiter = await waiting
        assert waiter.arrived["a"].result == 8
        assert bench.now() - began < 0.1


@virtual
async def test_after_a_lost_subscription_everything_is_subscribed_to_again():
    async with running() as bench:
        waiting = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(1.0)
        bench.store.subscriptions[0].break_off()
        await asyncio.sleep(1.0)
        assert bench.store.subscriptions[1].ids == {"a"}
        bench.later(0.5, bench.store.put, "a")
        began = bench.now()
        await waiting
        assert bench.now() - began == pytest.approx(0.5, abs=1e-6)


@virtual
async def test_a_result_published_twice_counts_once():
    async with running() as bench:

        def twice():
            bench.store.put("a", "FAILURE", {"exc_type": "E", "exc_message": []})
            bench.store.put("a", result=2)

        bench.later(0.5, twice)
        waiter = await bench.wait("a")
        assert waiter.arrived["a"].state == "FAILURE"
        assert len(bench.reader.awaited) == 0


@virtual
async def test_noise_before_the_result_does_not_end_the_wait():
    async with running() as bench:
        seen = []
        for second, status in enumerate(("STARTED", "RETRY", "STARTED", "PROGRESS")):
            bench.later(1.0 + second, bench.store.put, "a", status, {"exc_type": "E"})
        bench.later(9.0, bench.store.put, "a", result=3)
        waiter = await bench.wait("a", seen=seen)
        assert waiter.arrived["a"].result == 3
        assert seen == ["STARTED", "RETRY", "STARTED", "PROGRESS"]


@virtual
@pytest.mark.parametrize("push", [True, False])
async def test_no_timeout_is_raised_over_an_answer_that_is_there(push):
    async with running(push=push) as bench:
        bench.later(9.949, bench.store.put, "a", push=False)
        waiter = await bench.wait("a", timeout=10.0)
        assert not waiter.timed_out
        assert waiter.arrived["a"].ready


@virtual
@pytest.mark.parametrize("timeout", [0.002, 0.03, 0.2, 3.0, 100.0])
async def test_a_timeout_is_on_time(timeout):
    async with running() as bench:
        began = bench.now()
        waiter = await bench.wait("a", timeout=timeout)
        assert waiter.timed_out
        assert bench.now() - began == pytest.approx(timeout, abs=1e-6)


@virtual
async def test_a_timeout_is_on_time_while_redis_hangs():
    async with running(push=False) as bench:
        bench.store.hangs = True
        began = bench.now()
        waiter = await bench.wait("a", timeout=2.0)
        assert waiter.timed_out
        assert bench.now() - began <= 2.05


@virtual
async def test_a_single_look_answers_with_what_is_stored_now():
    async with running() as bench:
        bench.store.put("a", result=1)
        bench.store.put("b", "STARTED")
        waiter = await bench.wait("a", "b", "c", once=True)
        assert [waiter.arrived[task_id].state for task_id in "abc"] == ["SUCCESS", "STARTED", "PENDING"]
        assert bench.store.log == [("read", ["a", "b", "c"])]


@virtual
async def test_a_single_look_does_not_take_the_answer_of_a_read_that_began_earlier():
    async with running(push=False) as bench:
        bench.store.latency = 0.01
        patient = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(0.005)  # A read is under way, and has seen nothing.
        bench.store.put("a", result=1)
        waiter = await bench.wait("a", once=True)
        assert waiter.arrived["a"].state == "SUCCESS"
        await patient


@virtual
async def test_a_single_look_says_so_when_redis_cannot_be_read():
    async with running() as bench:
        bench.store.failures = 1
        waiter = await bench.wait("a", once=True)
        assert isinstance(waiter.error, ReadError)


@virtual
async def test_waiting_goes_on_through_an_outage_and_the_outage_is_noted_once(caplog):
    caplog.set_level(logging.DEBUG, "fibo_client")
    async with running(push=False) as bench:
        bench.store.failures = 5
        bench.later(1.0, bench.store.put, "a")
        waiter = await bench.wait("a")
        assert waiter.arrived["a"].ready
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "results cannot be read",
        "results can be read again",
    ]


@virtual
async def test_a_broken_result_fails_its_own_waiter_only():
    async with running() as bench:
        bench.store.put_bytes("bad", b"\x80\x04\x95")
        bench.store.put("good")
        broken, fine = await asyncio.gather(bench.wait("bad"), bench.wait("good"))
        assert isinstance(broken.arrived["bad"], ResultDecodeError)
        assert fine.arrived["good"].ready


@virtual
async def test_a_push_for_another_task_ends_nothing():
    async with running() as bench:
        waiting = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(1.0)
        bench.store.put_bytes("a", encode_meta("b"))
        waiter = await waiting
        assert isinstance(waiter.arrived["a"], ResultDecodeError)


@virtual
async def test_many_results_are_read_in_wide_reads_and_not_subscribed_to():
    async with running() as bench:
        ids = [str(number) for number in range(2000)]
        for number, task_id in enumerate(ids):
            bench.later(number * 0.0015, bench.store.put, task_id, result=number)
        waiter = await bench.wait(*ids)
        assert [waiter.arrived[task_id].result for task_id in ids] == list(range(2000))
        assert bench.store.subscriptions == []
        assert sum(len(task_ids) for _, task_ids in bench.store.read_at) < 12 * 2000


@virtual
async def test_progress_of_a_long_batch_is_followed_closely():
    async with running() as bench:
        ids = [str(number) for number in range(400)]
        for number, task_id in enumerate(ids):
            bench.later(number * 0.02, bench.store.put, task_id)
        await bench.wait(*ids)
        assert bench.now() - 1000.0 <= 399 * 0.02 + 0.1


@virtual
async def test_no_command_is_sent_while_nobody_waits():
    async with running() as bench:
        await bench.wait("a", timeout=0.5)
        await asyncio.sleep(STALE_FOR + 0.01)
        before = len(bench.store.log)
        await asyncio.sleep(3600)
        assert len(bench.store.log) == before


@virtual
async def test_what_nobody_waits_for_any_more_is_unsubscribed_from_within_a_second():
    async with running() as bench:
        bench.later(0.1, bench.store.put, "a")
        await bench.wait("a")
        await asyncio.sleep(STALE_FOR + 0.01)
        assert bench.store.subscriptions[0].ids == set()


@virtual
async def test_what_nobody_waits_for_is_unsubscribed_from_although_others_are_waited_for():
    async with running() as bench:
        waiting = asyncio.create_task(bench.wait("long", timeout=None))
        await asyncio.sleep(0.1)
        bench.store.put("long", "STARTED")
        for task_id in ("a", "b"):
            bench.later(0.1, bench.store.put, task_id)
            await bench.wait(task_id)
        await asyncio.sleep(STALE_FOR + 0.01)
        assert bench.store.subscriptions[0].ids == {"long"}
        waiting.cancel()


@virtual
async def test_an_id_that_is_replaced_by_another_in_one_step_is_unsubscribed_from_too():
    async with running() as bench:
        first = bench.enter("a", timeout=None)
        await asyncio.sleep(0.1)
        second = bench.enter("b", timeout=None, sent=False)
        bench.reader.leave(first)
        await asyncio.sleep(STALE_FOR + 0.2)
        assert bench.store.subscriptions[0].ids == {"b"}
        bench.reader.leave(second)


@virtual
async def test_calls_in_a_row_share_their_unsubscribing():
    async with running() as bench:
        for number in range(10 * MAX_STALE):
            bench.later(0.001, bench.store.put, str(number))
            await bench.wait(str(number))
            assert len(bench.store.subscriptions[0].ids) <= MAX_STALE + 1
        dropped = [entry for entry in bench.store.log if entry[0] == "subscribe" and entry[2]]
        assert 9 <= len(dropped) <= 10


@virtual
async def test_an_id_that_is_waited_for_again_is_still_pushed():
    async with running() as bench:
        bench.store.put("a", "STARTED")
        await bench.wait("a", timeout=0.5)
        again = asyncio.create_task(bench.wait("a", timeout=None))
        await asyncio.sleep(10)
        assert bench.store.subscriptions[0].ids == {"a"}
        began = bench.now()
        bench.later(0.5, bench.store.put, "a")
        await again
        assert bench.now() - began == pytest.approx(0.5, abs=1e-6)


@virtual
async def test_a_thousand_pending_results_cost_five_commands_a_second_at_most():
    async with running() as bench:
        waits = [asyncio.create_task(bench.wait(str(number), timeout=None)) for number in range(1000)]
        await asyncio.sleep(10)
        before = len(bench.store.log)
        await asyncio.sleep(60)
        assert len(bench.store.log) - before <= 5 * 60
        assert len(bench.store.subscriptions[0].ids) == 256
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        assert len(bench.reader.awaited) == 0


@virtual
async def test_what_was_stored_before_the_subscription_comes_with_its_confirmation():
    async with running() as bench:
        bench.store.looks = True
        await bench.wait("first", timeout=0.5)  # The subscription stands.
        reads = len(bench.store.read_at)
        bench.store.put("a", result=1)
        bench.store.put("b", "STARTED")
        began = bench.now()
        job = Job(messages("a", "b"), ["a", "b"], asyncio.get_running_loop().create_future(), began, 60.0, retry=False)
        bench.reader.enter(job, job.awaits, sent=False)
        await job.future
        assert (job.arrived["a"].result, job.missing["b"].meta.state) == (1, "STARTED")
        assert bench.now() == began
        assert bench.store.read_at[reads:] == []
        bench.reader.leave(job)


@virtual
async def test_what_was_sent_before_is_read_at_once_and_not_by_the_subscription():
    async with running() as bench:
        bench.store.looks = True
        await bench.wait("first", timeout=0.5)
        bench.store.put("a", result=1)
        began = bench.now()
        wait = await bench.wait("a")
        assert wait.arrived["a"].result == 1
        assert bench.now() == began
        assert len(bench.store.reads_of("a")) == 1


@virtual
async def test_others_are_read_and_no_deadline_is_missed_while_a_large_answer_is_decoded(monkeypatch):
    class SlowBudget(Budget):
        """Takes a hundredth of a second for each slice: here, decoding takes no time by itself."""

        def is_spent(self, count=1):
            return True

        async def pause(self):
            await asyncio.sleep(0.01)

    items = [{"large": ["x" * 1000]} for _ in range(2 * LARGE_ANSWER // 1000)]
    monkeypatch.setattr(budget, "Budget", SlowBudget)
    async with running(push=False) as bench:
        bench.store.put("large", result=items)
        bench.store.put("larger", result=items)
        large = [asyncio.create_task(bench.wait(task_id, timeout=1.0)) for task_id in ("large", "larger")]
        await asyncio.sleep(0.5)
        began = bench.now()
        bench.store.put("small", result=1)
        assert (await bench.wait("small", timeout=1.0)).arrived["small"].result == 1
        assert bench.now() - began < 0.5
        assert (await bench.wait("nothing", timeout=1.0)).timed_out
        assert bench.now() - began < 2.0
        assert not any(wait.done() for wait in large)  # Their deadline has passed, but the answers are there.
        waits = await asyncio.gather(*large)
        assert [wait.timed_out for wait in waits] == [False, False]
        assert [answer.result for wait in waits for answer in wait.arrived.values()] == [items] * 2
        assert len(bench.store.reads_of("large")) <= 3
        assert len(bench.reader.awaited) == 0


@virtual
async def test_where_the_subscription_looks_nothing_is_read_until_the_safety_net():
    async with running() as bench:
        bench.store.looks = True
        await bench.wait("first", timeout=0.5)
        job = Job(messages("a"), ["a"], asyncio.get_running_loop().create_future(), bench.now(), 60.0, retry=False)
        bench.reader.enter(job, job.awaits, sent=False)
        await asyncio.sleep(0.01)
        bench.reader.begin(job)
        await asyncio.sleep(0.9)
        assert bench.store.reads_of("a") == []
        bench.store.put("a", push=False)
        await job.future
        bench.reader.leave(job)


@virtual
async def test_an_answer_that_was_pushed_to_another_is_read_for_who_waits_next():
    async with running() as bench:
        bench.store.looks = True
        first = bench.enter("a", timeout=None)
        await asyncio.sleep(0.1)
        bench.store.put("a", result=1)
        await first.future
        began = bench.now()
        again = await bench.wait("a")  # It is subscribed to still.
        assert again.arrived["a"].result == 1
        assert bench.now() - began <= AFTER_PUSH


@virtual
async def test_push_that_is_lost_twice_within_seconds_stays_away_for_a_minute_and_results_are_polled():
    async with running() as bench:
        waiting = bench.enter("a", timeout=None)
        for number in range(2):
            await asyncio.sleep(1.0)
            bench.store.subscriptions[number].break_off()
        await asyncio.sleep(50)
        assert len(bench.store.subscriptions) == 2
        bench.later(0.5, bench.store.put, "b", push=False)
        assert (await bench.wait("b")).arrived["b"].ready
        await asyncio.sleep(12)
        assert bench.store.subscriptions[2].ids == {"a"}
        bench.reader.leave(waiting)


@virtual
async def test_push_that_is_refused_is_not_tried_again_for_a_minute(caplog):
    async with running() as bench:
        bench.store.confirms = False
        waiting = bench.enter("a", timeout=None)
        await asyncio.sleep(0.1)
        refusal = TransportError("NOPERM")
        refusal.refused = True
        bench.store.subscriptions[0].subscriber.lost(refusal)
        await asyncio.sleep(50)
        assert len(bench.store.subscriptions) == 1
        assert "the subscription to results is gone, polling meanwhile: NOPERM" in caplog.text
        bench.store.put("a", push=False)
        await waiting.future


@virtual
async def test_cancelled_waits_leave_nothing_behind():
    async with running() as bench:
        waits = [asyncio.create_task(bench.wait(str(number))) for number in range(100)]
        await asyncio.sleep(0.5)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(STALE_FOR + 0.01)
        assert len(bench.reader.awaited) == 0
        assert bench.store.subscriptions[0].ids == set()
        assert not bench.store.subscriptions[0].gone


@virtual
async def test_closing_ends_every_wait_with_the_error_given():
    bench = Bench()
    bench.reader.start()
    waiting = asyncio.create_task(bench.wait("a"))
    await asyncio.sleep(0.1)
    await bench.reader.aclose(ClientStateError("closed"))
    waiter = await waiting
    assert isinstance(waiter.error, ClientStateError)
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_bug_in_the_reader_fails_the_waiters_instead_of_hanging_them(monkeypatch, caplog):
    async with running(push=False) as bench:

        async def broken(task_ids):
            raise AssertionError("a bug")

        monkeypatch.setattr(bench.store, "get_many", broken)
        waiter = await bench.wait("a")
        assert isinstance(waiter.error, ReadError)
        assert isinstance(waiter.error.__cause__, AssertionError)
        monkeypatch.undo()
        bench.store.put("b")
        waiter = await bench.wait("b")
        assert waiter.arrived["b"].ready
    assert "the reader of results failed" in caplog.text


@virtual
async def test_a_confirmation_before_the_task_is_sent_counts():
    async with running() as bench:
        job = Job(messages("a"), ["a"], asyncio.get_running_loop().create_future(), bench.now(), 60.0, retry=False)
        bench.reader.enter(job, job.awaits, sent=False)
        await asyncio.sleep(1)
        assert bench.store.subscriptions[0].ids == {"a"}
        bench.reader.begin(job)
        await asyncio.sleep(10)
        assert len(bench.store.reads_of("a")) <= 12
        bench.store.put("a")
        await job.future
        bench.reader.leave(job)


@virtual
@pytest.mark.parametrize("push", [True, False])
async def test_a_task_whose_sending_was_never_answered_gets_a_last_look_too(push):
    async with running(push=push) as bench:
        bench.later(1.0, bench.store.put, "a", push=False)
        waiter = await bench.wait("a", timeout=3.0, sent=False)
        assert not waiter.timed_out
        assert waiter.arrived["a"].ready


@virtual
async def test_a_read_for_somebody_who_has_left_says_nothing_of_who_waits_for_the_same_task_now():
    async with running(push=False) as bench:
        bench.store.latency = 0.01
        first = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(0.005)  # A read is under way, and will show nothing.
        first.cancel()
        await asyncio.sleep(0)
        second = asyncio.create_task(bench.wait("a"))
        await asyncio.sleep(0.02)
        bench.store.put("a", result=1)
        assert (await second).arrived["a"].result == 1


@virtual
@pytest.mark.parametrize("push", [True, False])
async def test_nothing_is_read_for_a_caller_who_left_while_his_task_was_sent(push):
    async with running(push=push) as bench:
        job = Job(messages("a"), ["a"], asyncio.get_running_loop().create_future(), bench.now(), None, retry=False)
        bench.reader.enter(job, job.awaits, sent=False)
        bench.reader.leave(job)
        bench.reader.begin(job)
        await asyncio.sleep(100)
        assert bench.store.read_at == []


@virtual
async def test_what_is_sent_late_is_read_for_whoever_waits_for_it_then():
    async with running(push=False) as bench:
        job = Job(messages("a"), ["a"], asyncio.get_running_loop().create_future(), bench.now(), None, retry=False)
        bench.reader.enter(job, job.awaits, sent=False)
        bench.reader.leave(job)
        again = bench.enter("a", timeout=None, sent=False)
        bench.reader.begin(job)
        bench.later(0.1, bench.store.put, "a", result=1)
        await again.future
        assert again.arrived["a"].result == 1
