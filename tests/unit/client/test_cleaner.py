"""Revoking and deleting for everybody: rationed, in batches."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager

from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker

from fibo_client.celery.cleaner import LAST_COMMAND_TIMEOUT, LAST_REVOCATIONS, MAX_DELETED, MAX_REVOKED, Cleaner
from fibo_client.celery.stats import RevocationCounts
from fibo_client.errors import TransportError


@asynccontextmanager
async def running():
    broker, store = MemoryBroker(), MemoryBackend()
    cleaner = Cleaner(broker, store)
    cleaner.start()
    try:
        yield broker, store, cleaner
    finally:
        await cleaner.aclose(5.0)


def deletions(store: MemoryBackend) -> list[list[str]]:
    return [entry[1] for entry in store.log if entry[0] == "delete"]


@virtual
async def test_results_that_settle_together_are_deleted_in_one_command_a_second_later():
    async with running() as (_, store, cleaner):
        for number in range(10):
            cleaner.delete([str(number)])
        await asyncio.sleep(0.99)
        assert deletions(store) == []
        await asyncio.sleep(0.02)
        assert [sorted(ids) for ids in deletions(store)] == [[str(number) for number in range(10)]]


@virtual
async def test_deletions_are_bounded_in_width():
    async with running() as (_, store, cleaner):
        cleaner.delete(map(str, range(MAX_DELETED + 1)))
        await asyncio.sleep(2)
        assert [len(ids) for ids in deletions(store)] == [MAX_DELETED, 1]


@virtual
async def test_an_abandoned_result_is_deleted_when_its_time_has_come():
    async with running() as (_, store, cleaner):
        cleaner.delete(["late"], 30.0)
        cleaner.delete(["soon"])
        await asyncio.sleep(2)
        assert deletions(store) == [["soon"]]
        await asyncio.sleep(29)
        assert deletions(store) == [["soon"], ["late"]]


@virtual
async def test_what_may_be_stored_later_is_deleted_once_more_and_at_the_end_once():
    async with running() as (broker, store, cleaner):
        broker.health.reached = True
        cleaner.delete(["twice"], 5.0, again=30.0)
        cleaner.delete(["once"], 5.0)
        await asyncio.sleep(29)
        assert [sorted(ids) for ids in deletions(store)] == [["once", "twice"]]
        await asyncio.sleep(60)
        assert deletions(store)[1:] == [["twice"]]
        cleaner.delete(["left"], 5.0, again=30.0)
    assert deletions(store)[2:] == [["left"]]


@virtual
async def test_revocations_are_at_most_a_hundred_ids_and_ten_a_second():
    async with running() as (broker, _, cleaner):
        cleaner.revoke(str(number) for number in range(1000))
        await asyncio.sleep(10)
        times = [at for at, _ in broker.broadcasts]
        sizes = [len(request.arguments["task_id"]) for _, request in broker.broadcasts]
        assert sizes == [MAX_REVOKED] * 10
        assert all(later - earlier >= 0.099 for earlier, later in itertools.pairwise(times))


@virtual
async def test_what_is_to_be_terminated_goes_first_and_by_messages_of_its_own():
    async with running() as (broker, _, cleaner):
        cleaner.revoke(str(number) for number in range(MAX_REVOKED + 1))
        cleaner.revoke(["a", "b"], terminate=True)
        await asyncio.sleep(1)
        sent = [request.arguments for _, request in broker.broadcasts]
    assert sent[0] == {"task_id": ["a", "b"], "terminate": True}
    assert [(len(each["task_id"]), each.get("terminate")) for each in sent[1:]] == [(MAX_REVOKED, None), (1, None)]
    assert cleaner.revocations == RevocationCounts(delivered=MAX_REVOKED + 3)


@virtual
async def test_the_backlog_is_bounded(monkeypatch):
    monkeypatch.setattr("fibo_client.celery.cleaner.MAX_BACKLOG", 10)
    async with running() as (broker, store, cleaner):
        cleaner.revoke((str(number) for number in range(7)), terminate=True)
        cleaner.revoke(str(number) for number in range(100))
        cleaner.delete(str(number) for number in range(100))
        await asyncio.sleep(5)
        assert sum(len(request.arguments["task_id"]) for _, request in broker.broadcasts) == 10
        assert sum(map(len, deletions(store))) == 10


@virtual
async def test_nothing_is_sent_while_there_is_nothing_to_clean():
    async with running() as (broker, store, cleaner):
        cleaner.delete(["a"])
        await asyncio.sleep(3600)
        assert len(store.log) == 1
        assert broker.broadcasts == []


@virtual
async def test_closing_does_what_is_left():
    async with running() as (broker, store, cleaner):
        cleaner.revoke(["a"])
        cleaner.delete(["b"])
        cleaner.delete(["c"], 100.0)
    assert broker.broadcasts[0][1].arguments["task_id"] == ["a"]
    assert [sorted(ids) for ids in deletions(store)] == [["b", "c"]]
    cleaner.delete(["too late"])
    cleaner.revoke(["too late"])
    await asyncio.sleep(10)
    assert len(deletions(store)) == 1


@virtual
async def test_an_outage_loses_deletions_but_stops_nothing(monkeypatch):
    async with running() as (broker, store, cleaner):

        async def unreachable(*_):
            raise TransportError("connection refused")

        with monkeypatch.context() as patched:
            patched.setattr(broker, "broadcast", unreachable)
            patched.setattr(store, "delete_many", unreachable)
            cleaner.revoke(["a"])
            cleaner.delete(["a"])
            await asyncio.sleep(5)
        cleaner.revoke(["b"])
        cleaner.delete(["b"])
        await asyncio.sleep(5)
        assert [request.arguments["task_id"] for _, request in broker.broadcasts] == [["b"]]
        assert deletions(store) == [["b"]]


@virtual
async def test_closing_asks_nothing_of_a_broker_that_was_never_reached():
    async with running() as (broker, store, cleaner):
        broker.health.reached = False
        cleaner.delete(["a"])
        cleaner.revoke(["b"])
    assert (deletions(store), broker.broadcasts) == ([], [])


@virtual
async def test_closing_repeats_what_it_interrupts(monkeypatch):
    async with running() as (broker, _, cleaner):
        slow = broker.broadcast

        async def broadcast(request):
            await asyncio.sleep(0.01)
            return await slow(request)

        monkeypatch.setattr(broker, "broadcast", broadcast)
        cleaner.revoke(["a"])
        await asyncio.sleep(0.005)
    assert [request.arguments["task_id"] for _, request in broker.broadcasts] == [["a"]]


@virtual
async def test_closing_after_thousands_were_cancelled_deletes_first_and_is_quick():
    async with running() as (broker, store, cleaner):
        cleaner.revoke(str(number) for number in range(8000))
        cleaner.delete([str(number) for number in range(8000)], 30.0)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began <= LAST_REVOCATIONS + 0.01
    assert sum(map(len, deletions(store))) == 8000
    assert len(broker.broadcasts) >= 10


@virtual
async def test_a_bug_in_a_round_does_not_end_the_cleaner(monkeypatch, caplog):
    async with running() as (_, store, cleaner):

        async def broken(task_ids):
            raise AssertionError("a bug")

        with monkeypatch.context() as patched:
            patched.setattr(store, "delete_many", broken)
            cleaner.delete(["a"])
            await asyncio.sleep(5)
        cleaner.delete(["b"])
        await asyncio.sleep(5)
        assert deletions(store) == [["b"]]
    assert "cleaning up failed" in caplog.text


@virtual
async def test_closing_gives_a_silent_redis_one_chance_to_answer(monkeypatch):
    async with running() as (broker, store, cleaner):

        async def silent(*_):
            await asyncio.sleep(300)

        monkeypatch.setattr(broker, "broadcast", silent)
        monkeypatch.setattr(store, "delete_many", silent)
        cleaner.revoke(map(str, range(2 * MAX_REVOKED)))
        cleaner.delete(map(str, range(2 * MAX_DELETED)), 100.0)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began <= LAST_COMMAND_TIMEOUT + 0.01


@virtual
async def test_closing_has_patience_with_a_redis_that_is_slow_and_answers(monkeypatch):
    async with running() as (_, store, cleaner):
        quick = store.delete_many

        async def slow(task_ids):
            await asyncio.sleep(LAST_COMMAND_TIMEOUT - 0.5)
            await quick(task_ids)

        monkeypatch.setattr(store, "delete_many", slow)
        cleaner.delete(map(str, range(3 * MAX_DELETED)), 100.0)
    assert [len(ids) for ids in deletions(store)] == [MAX_DELETED] * 3


@virtual
async def test_a_bug_in_the_last_round_does_not_keep_a_client_from_closing(monkeypatch, caplog):
    async with running() as (broker, store, cleaner):

        async def broken(task_ids):
            raise AssertionError("a bug")

        monkeypatch.setattr(store, "delete_many", broken)
        cleaner.delete(["a"], 100.0)
        cleaner.revoke(["b"])
    assert "cleaning up failed" in caplog.text
    assert len(broker.broadcasts) == 1


@virtual
async def test_what_became_of_each_revocation_is_counted(monkeypatch):
    monkeypatch.setattr("fibo_client.celery.cleaner.MAX_BACKLOG", 5)
    async with running() as (broker, _, cleaner):
        cleaner.revoke(["heard", "heard, too"])
        await asyncio.sleep(1)
        broker.listening = 0
        cleaner.revoke(["unheard"])
        await asyncio.sleep(1)

        async def unreachable(_):
            raise TransportError("connection refused")

        monkeypatch.setattr(broker, "broadcast", unreachable)
        cleaner.revoke(str(number) for number in range(7))
        await asyncio.sleep(1)
    assert cleaner.revocations == RevocationCounts(delivered=2, undelivered=1, unsent=7, reason="connection refused")


@virtual
async def test_what_could_not_be_revoked_before_the_end_is_counted(monkeypatch):
    async with running() as (broker, _, cleaner):
        cleaner.revoke(str(number) for number in range(8000))
    delivered = cleaner.revocations.delivered
    assert 1000 <= delivered <= 1200
    assert cleaner.revocations == RevocationCounts(delivered=delivered, unsent=8000 - delivered)

    async with running() as (broker, _, cleaner):

        async def hang(_):
            await asyncio.sleep(3600)

        monkeypatch.setattr(broker, "broadcast", hang)
        cleaner.revoke(["a"])
    assert cleaner.revocations == RevocationCounts(unsent=1, reason=f"{broker}: no answer within 1 s")

    async with running() as (broker, _, cleaner):
        broker.health.reached = False
        cleaner.revoke(["a"])
    assert cleaner.revocations == RevocationCounts(), "nothing was ever sent, so there was nothing to revoke"
