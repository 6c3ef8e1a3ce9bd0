"""What a client says of itself: its numbers, and its log."""

import asyncio
import dataclasses
import json
import logging

import pytest
from support.servers import RedisServer, free_port
from support.waiting import eventually

from fibo_client.celery import CeleryClient, ClientStats, RevocationCounts
from fibo_client.errors import ClientStateError, MessageError, ResultDecodeError, ResultTimeoutError


async def answer_all(hand, queue="celery", seconds=0.0):
    """Answer what is in the queue, as a worker does."""
    while True:
        _, message = await hand.redis.brpop(queue, timeout=0)
        await hand.put(json.loads(message)["headers"]["id"], result=7)


async def test_the_numbers_count_what_really_happened(server, hand):
    worker = asyncio.create_task(answer_all(hand))
    try:
        async with CeleryClient(server.url) as client:
            nothing = dict.fromkeys((each.name for each in dataclasses.fields(ClientStats)), 0)
            assert dataclasses.asdict(client.stats()) == nothing | {
                "revocations": dataclasses.asdict(RevocationCounts())
            }
            await asyncio.gather(*[client.call("any", timeout=10) for _ in range(20)])
            stats = client.stats()
            assert (stats.published, stats.answers) == (20, 20)
            assert stats.pushes + stats.polls > 0
            assert (stats.pending, stats.in_flight, stats.unsent) == (0, 0, 0)
            assert (stats.reconnects, stats.retries, stats.decode_failures) == (0, 0, 0)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_what_is_under_way_is_counted_until_it_is_over(server, hand):
    async with CeleryClient(server.url) as client:
        handle = await client.send_task("any")
        assert (client.stats().in_flight, client.stats().pending) == (0, 0)
        calls = [asyncio.create_task(client.call("any", timeout=30)) for _ in range(3)]
        waiting = asyncio.create_task(handle.get(timeout=30))

        async def sent():
            return client.stats().published == 4

        await eventually(sent)
        stats = client.stats()
        assert (stats.in_flight, stats.pending, stats.unsent) == (3, 4, 0)
        for task in (*calls, waiting):
            task.cancel()
        await asyncio.gather(*calls, waiting, return_exceptions=True)
        assert (client.stats().in_flight, client.stats().pending) == (0, 0)


async def test_once_it_is_closed_a_client_tells_what_became_of_the_tasks_that_it_revoked(server, hand):
    async with CeleryClient(server.url) as client:
        calls = [asyncio.create_task(client.call("any", timeout=30)) for _ in range(3)]
        await eventually(lambda: client.stats().published == 3)
        before = client.stats()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert client.stats().revocations == RevocationCounts(undelivered=3)
    assert before.revocations == RevocationCounts(), "what was told has changed afterwards"


async def test_the_depth_of_a_queue_is_that_of_all_its_priorities_and_by_default_of_the_clients_own_queue(server, hand):
    async with CeleryClient(server.url, queue="own") as client:
        for priority in (0, 3, 9):
            await client.send_task("any", priority=priority)
        await client.send_task("any", queue="other")
        assert [await client.queue_depth(each) for each in (None, "own", "other", "empty")] == [3, 3, 1, 0]
        with pytest.raises(MessageError, match="queue"):
            await client.queue_depth("")
    with pytest.raises(ClientStateError):
        await client.queue_depth()


async def test_bytes_that_are_no_result_are_counted(server, hand):
    async with CeleryClient(server.url) as client:
        await hand.put_bytes("bad", b"\x80\x04\x95")
        with pytest.raises(ResultDecodeError):
            await client.result("bad").get(timeout=10)
        assert client.stats().decode_failures == 1


async def test_killed_connections_are_counted_as_reconnections_and_are_no_outage(server, hand, caplog):
    caplog.set_level(logging.INFO, "fibo_client")
    async with CeleryClient(server.url) as client:
        waiting = asyncio.create_task(client.result("later").get(timeout=30))

        async def subscribed():
            return await hand.channels()

        await eventually(subscribed)
        before = client.stats()
        killed = await hand.redis.client_kill_filter(_type="normal", skipme=True)
        killed += await hand.redis.client_kill_filter(_type="pubsub", skipme=True)
        assert killed >= 1

        async def reconnected():
            return client.stats().reconnects > before.reconnects and await hand.channels()

        await eventually(reconnected)
        await hand.put("later", result=1)
        assert await waiting == 1
    assert caplog.records == []


async def test_a_healthy_run_says_nothing_at_info_or_above(server, hand, caplog):
    caplog.set_level(logging.INFO, "fibo_client")
    worker = asyncio.create_task(answer_all(hand))
    try:
        async with CeleryClient(server.url) as client:
            await asyncio.gather(*[client.call("any", timeout=10) for _ in range(50)])
            with pytest.raises(ResultTimeoutError):
                await client.result("nobody").get(timeout=0.05)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert [record.getMessage() for record in caplog.records if record.name == "fibo_client"] == []


async def test_redis_going_and_coming_back_under_50_calls_is_two_lines(caplog):
    caplog.set_level(logging.INFO, "fibo_client")
    port = free_port()
    url = f"redis://:not-for-the-log@127.0.0.1:{port}/0"

    def run():
        return RedisServer(port=port, password="not-for-the-log")

    with run():
        client = await CeleryClient(url).open()
        await client.send_task("any")
        results = [client.result(f"task-{number}") for number in range(50)]
        calls = [asyncio.create_task(result.get(timeout=60)) for result in results]

        async def waiting():
            return client.stats().polls > 1

        await eventually(waiting)
    before = client.stats()

    async def tried_often():
        return client.stats().retries >= before.retries + 5

    await eventually(tried_often)
    with run() as server, server.client() as plain:
        for result in results:
            meta = f'{{"status": "SUCCESS", "result": 1, "traceback": null, "task_id": "{result.id}"}}'
            plain.set(f"celery-task-meta-{result.id}", meta)
        assert await asyncio.gather(*calls) == [1] * 50
        await client.aclose()
    gone, back = [record.getMessage() for record in caplog.records if record.name == "fibo_client"]
    assert gone.startswith(f"redis://127.0.0.1:{port}/0 is gone, trying again: ")
    assert back.startswith(f"redis://127.0.0.1:{port}/0 is back after ")
    assert "not-for-the-log" not in caplog.text


async def test_a_timeout_says_whether_it_was_sent_how_often_it_was_looked_for_and_whom_to_ask(server, hand):
    async with CeleryClient(server.url) as client:
        with pytest.raises(
            ResultTimeoutError,
            match=r"\(sent to 'celery', looked for \d+ times?\).*PENDING\. No worker listens on redis",
        ) as owned:
            await client.call("any", timeout=0.3)
        handle = await client.send_task("any")
        with pytest.raises(ResultTimeoutError) as handed_out:
            await handle.get(timeout=0.3)
        with pytest.raises(ResultTimeoutError, match=r"s \(looked for") as unknown:
            await client.result("somebody-elses").get(timeout=0.3)
    assert [caught.value.published for caught in (owned, handed_out, unknown)] == [True, True, None]
    assert all(caught.value.looks >= 1 and caught.value.unread is None for caught in (owned, handed_out, unknown))


async def test_a_timeout_in_an_outage_says_that_results_could_not_be_read():
    with RedisServer() as server:
        client = await CeleryClient(server.url).open()
        handle = await client.send_task("any")
        await client.result("x").ready()
    try:
        with pytest.raises(ResultTimeoutError) as reading:
            await handle.get(timeout=1)
        assert reading.value.published is True
        assert "Is Redis running" in reading.value.unread
    finally:
        await client.aclose()
