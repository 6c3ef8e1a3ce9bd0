"""What `CeleryClient.start` gives: several wait for one task, and closing it revokes the task or deletes its result."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest
from support.clock import virtual
from support.memory import Servers

from fibo_client.celery import CeleryClient, Signature
from fibo_client.errors import (
    ClientStateError,
    MessageError,
    PublishError,
    PublishUnknownError,
    ResultDecodeError,
    ResultTimeoutError,
)


async def states(updates) -> list[str]:
    return [meta.state async for meta in updates]


# Who begins to wait when it is too late for that.


@pytest.mark.parametrize("before", [0.0, 0.1], ids=["before it was sent", "afterwards"])
@virtual
async def test_what_was_closed_cannot_be_awaited(before):
    async with CeleryClient(transport=Servers()) as client:
        result = client.start("proj.add", timeout=None)
        await asyncio.sleep(before)
        result.close()
        for wait in (result.get, lambda: client.gather([result]), lambda: states(result.updates())):
            with pytest.raises(ClientStateError, match="closed"):
                await wait()
        assert client.stats().pending == 0


@virtual
async def test_who_waits_is_told_when_another_closes():
    async with CeleryClient(transport=Servers()) as client:
        result = client.start("proj.add", timeout=None)
        waits = [asyncio.create_task(each) for each in (result.get(), client.gather([result], timeout=None))]
        asyncio.get_running_loop().call_later(0.1, result.close)
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, ClientStateError)


@virtual
async def test_what_was_answered_can_be_asked_for_after_close():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add") as result:
            await asyncio.sleep(0.1)
            servers.backend.put(result.id, result=5)
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        assert result.id in servers.backend.deleted
        assert await result.get() == 5
        assert await client.gather([result]) == [5]
        assert await states(result.updates()) == ["SUCCESS"]


@virtual
async def test_an_answer_that_has_come_is_told_although_the_server_lost_it_since():
    servers = Servers()
    async with CeleryClient(transport=servers) as client, client.start("proj.add") as result:
        await asyncio.sleep(0.1)
        servers.backend.put(result.id, result=5)
        await asyncio.sleep(0.1)
        servers.backend._memory.results.clear()
        assert await result.get(5) == 5


@virtual
async def test_a_result_that_cannot_be_decoded_is_told_as_that_to_all_and_deleted():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add") as result:
            await asyncio.sleep(0.1)
            servers.backend.put_bytes(result.id, b"no result")
            for _ in range(2):
                with pytest.raises(ResultDecodeError):
                    await result.get()
        await asyncio.sleep(10)
        assert servers.backend.deleted == [result.id]


# Sending that fails.


@pytest.mark.parametrize("kind", [PublishError, PublishUnknownError])
@virtual
async def test_who_waits_or_begins_to_is_told_that_it_was_not_sent(kind):
    servers = Servers()
    servers.broker.outcomes.append(kind("no"))
    async with CeleryClient(transport=servers) as client, client.start("proj.add", timeout=None) as result:
        for wait in (client.gather([result], timeout=None), result.get(), states(result.updates())):
            with pytest.raises(kind):
                await wait


@virtual
async def test_sending_that_fails_after_the_deadline_is_told_to_those_who_wait_on():
    servers = Servers()

    def publish(messages, sender):
        asyncio.get_running_loop().call_later(2, sender.failed, messages, PublishError("no"))

    servers.broker.publish = publish
    async with CeleryClient(transport=servers) as client, client.start("proj.add", timeout=1) as result:
        waits = asyncio.create_task(result.get(None))
        with pytest.raises(ResultTimeoutError):
            await result.get()
        with pytest.raises(PublishError):
            await waits
        with pytest.raises(PublishError):
            await result.get(None)


@virtual
async def test_what_was_answered_is_not_sent_again():
    servers = Servers()
    servers.broker.outcomes.append(PublishUnknownError("no answer"))
    async with CeleryClient(transport=servers) as client, client.start("proj.add", timeout=30, retry=True) as result:
        await asyncio.sleep(0.01)
        servers.backend.put(result.id, result=5)
        await asyncio.sleep(5)
        assert servers.sent == [result.id]
        assert await result.get() == 5


@virtual
async def test_of_many_only_the_unanswered_are_sent_again():
    servers = Servers()
    servers.broker.outcomes.append(PublishUnknownError("no answer"))
    async with CeleryClient(transport=servers) as client:
        signatures = [Signature("proj.add", (n, n)) for n in range(2)]
        call = asyncio.create_task(client.call_many(signatures, timeout=30, retry=True))
        await asyncio.sleep(0.01)
        first, second = servers.sent
        servers.backend.put(first, result=0)
        await asyncio.sleep(5)
        assert servers.sent == [first, second, second]
        servers.backend.put(second, result=2)
        assert await call == [0, 2]


@virtual
async def test_two_messages_with_one_id_are_an_error_before_anything_is_sent():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        twice = [Signature("proj.add", (1, 2), options={"task_id": "mine"})] * 2
        for many in (client.call_many, client.send_many):
            with pytest.raises(MessageError, match="same task_id"):
                await many(twice)
        assert not servers.sent


# Closing.


@pytest.mark.parametrize("timeout", [None, 60.0])
@virtual
async def test_an_answer_after_the_first_deadline_counts_as_one(timeout):
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add", timeout=1) as result:
            asyncio.get_running_loop().call_later(2, servers.backend.put, result.id, "SUCCESS", 5)
            assert await result.get(timeout) == 5
        await asyncio.sleep(3)
        assert servers.broker.revoked == []
        assert servers.backend.deleted == [result.id]


@virtual
async def test_a_caller_who_is_cancelled_with_his_answer_has_had_it():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add", timeout=1) as result:
            wait = asyncio.create_task(result.get(60))
            await asyncio.sleep(2)
            servers.backend.put(result.id, result=5, push=False)
            client._session._reader._arrive(result.id, servers.backend.values[result.id])
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            assert result.cached.result == 5
        await asyncio.sleep(3)
        assert servers.broker.revoked == []


@virtual
async def test_a_single_read_after_the_deadline_revokes_nothing_that_has_expired():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add", timeout=1) as result:
            await asyncio.sleep(10)
            with pytest.raises(ResultTimeoutError):
                await result.get(0)
        await asyncio.sleep(1)
        assert servers.broker.revoked == []


@virtual
async def test_who_waits_longer_and_leaves_has_the_task_revoked_and_its_result_deleted():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        async with client.start("proj.add", timeout=1) as result:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await result.get(None)
        await asyncio.sleep(10)
        assert servers.broker.revoked == [result.id]
        assert servers.backend.deleted == [result.id]


@virtual
async def test_closing_the_client_revokes_what_nobody_closed():
    servers = Servers()
    client = await CeleryClient(transport=servers).open()
    result = client.start("proj.add", timeout=None)
    await asyncio.sleep(0.1)
    await client.aclose()
    assert servers.broker.revoked == [result.id]
    result.close()


# States that are not final.


@virtual
async def test_following_that_shows_no_end_ends_in_a_timeout():
    servers = Servers()
    async with CeleryClient(transport=servers) as client, client.start("proj.add", timeout=1) as result:
        servers.backend.put(result.id, "STARTED", {})
        await asyncio.sleep(2)
        handle = client.result(result.id)
        for updates in (result.updates(), handle.updates(0)):
            assert (await anext(updates)).state == "STARTED"
            with pytest.raises(ResultTimeoutError) as caught:
                await anext(updates)
            assert caught.value.state == "STARTED"
        with pytest.raises(ResultTimeoutError) as caught:
            await client.gather([handle], timeout=0)
        assert caught.value.state == "STARTED"


@virtual
async def test_a_slow_read_does_not_take_the_progress_back():
    servers = Servers()
    async with CeleryClient(transport=servers) as client, client.start("proj.add", timeout=10) as result:

        async def follow():
            return [meta.result async for meta in result.updates()]

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.1)
        servers.backend.put(result.id, "PROGRESS", 1, push=False)
        servers.backend.latency = 0.5
        client._session._reader._schedule.hurry(client._session._reader.awaited.get(result.id), 0.0)
        client._session._reader._reading.set()
        await asyncio.sleep(0.1)
        for progress in (2, 3):
            servers.backend.put(result.id, "PROGRESS", progress)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        servers.backend.put(result.id, result="done")
        assert await following == [2, 3, "done"]


@virtual
async def test_a_wait_that_begins_beside_a_single_read_is_pushed_too():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        handle = client.result("x")
        servers.backend.latency = 0.5
        looking = asyncio.create_task(handle.ready())
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(client.result("x").get(10))
        await asyncio.sleep(0.2)
        assert ("subscribe", ["x"], []) in servers.backend.log
        servers.backend.put("x", result=5)
        assert await waiting == 5
        await looking


@virtual
async def test_copying_or_pickling_says_what_to_do_instead():
    async with CeleryClient(transport=Servers()) as client, client.start("proj.add") as result:
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="hand over ids"):
                attempt(result)
