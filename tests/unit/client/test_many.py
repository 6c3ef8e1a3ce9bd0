"""Many tasks that are awaited together: more than are entered in one go."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker
from support.worker import memory_client

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.celery.pieces import PIECE
from fibo_client.errors import (
    PublishError,
    PublishUnknownError,
    ResultTimeoutError,
    TaskFailedError,
    TooManyPendingError,
)
from fibo_client.testing import FakeCelery

MANY = 3 * PIECE + 1
DOUBLE = RemoteTask[[int], int]("proj.double")


@pytest.fixture
def fake():
    fake = FakeCelery()

    def double(n):
        if n < 0:
            raise ValueError(n)
        return 2 * n

    fake.task(DOUBLE.name, double)
    return fake


class Servers:
    """A broker and a result backend in memory."""

    def __init__(self) -> None:
        self.broker, self.backend = MemoryBroker(), MemoryBackend()

    def connect(self, config):
        return self.broker, self.backend


@virtual
async def test_the_answers_of_all_pieces_come_in_order(fake):
    async with CeleryClient(transport=fake) as client:
        expected = [2 * n for n in range(MANY)]
        assert await client.call_many([DOUBLE(n) for n in range(MANY)], timeout=30) == expected
        results = await client.send_many([DOUBLE(n) for n in range(MANY)])
        assert await client.gather(results, timeout=30) == expected
        assert client.stats().pending == client.stats().in_flight == 0


@virtual
async def test_a_failure_in_any_piece_is_raised_or_stands_in_its_place(fake):
    numbers = [*range(MANY - 1), -1]
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(TaskFailedError):
            await client.call_many([DOUBLE(n) for n in numbers], timeout=30)
        answers = await client.call_many([DOUBLE(n) for n in numbers], timeout=30, return_exceptions=True)
        assert answers[:-1] == [2 * n for n in numbers[:-1]]
        assert isinstance(answers[-1], TaskFailedError)
        await asyncio.sleep(10)
        assert client.stats().pending == client.stats().in_flight == 0


@virtual
@pytest.mark.parametrize("verb", ["call_many", "gather"])
async def test_a_timeout_has_what_came_of_all_pieces_and_what_did_not(verb):
    servers = Servers()
    async with CeleryClient(transport=servers) as client:

        async def ask():
            signatures = [DOUBLE(n) for n in range(MANY)]
            if verb == "call_many":
                return await client.call_many(signatures, timeout=5)
            return await client.gather(await client.send_many(signatures), timeout=5)

        asking = asyncio.create_task(ask())
        await asyncio.sleep(1)
        messages = [message for command in servers.broker.commands for message in command]
        # In which order pieces are sent depends on how long each takes, so the argument tells which task it is.
        ids = {json.loads(message.body)[0][0]: message.id for message in messages}
        assert len(messages) == len(ids) == MANY
        for place in (1, PIECE, MANY - 1):
            servers.backend.put(ids[place], result=place)
        with pytest.raises(ResultTimeoutError) as caught:
            await asking
        assert caught.value.finished == {place: place for place in (1, PIECE, MANY - 1)}
        assert set(caught.value.task_ids) == set(ids.values()) - {ids[place] for place in (1, PIECE, MANY - 1)}
        await asyncio.sleep(10)
        assert client.stats().pending == 0


@virtual
async def test_what_could_not_be_sent_of_any_piece_is_named_by_one_error():
    servers = Servers()
    servers.broker._memory.down = "connection refused"
    async with CeleryClient(transport=servers) as client:
        with pytest.raises(PublishError, match="connection refused") as caught:
            await client.call_many([DOUBLE(n) for n in range(MANY)], timeout=30)
        assert len(caught.value.task_ids) > PIECE
        servers.broker._memory.down = None
        servers.broker.outcomes.append(PublishUnknownError("no answer"))
        with pytest.raises(PublishUnknownError):
            await client.call_many([DOUBLE(n) for n in range(MANY)], timeout=30)
        await asyncio.sleep(10)
        assert client.stats().pending == client.stats().unsent == 0


@virtual
async def test_too_many_are_refused_before_any_of_them_is_sent():
    servers = Servers()
    async with CeleryClient(transport=servers, max_pending=2 * PIECE) as client:
        with pytest.raises(TooManyPendingError) as caught:
            await client.call_many([DOUBLE(n) for n in range(MANY)], timeout=30)
        assert (caught.value.wanted, servers.broker.commands) == (MANY, [])
        with pytest.raises(TooManyPendingError):
            await client.gather([client.result(str(n)) for n in range(MANY)], timeout=30)
        assert client.stats().pending == 0


@virtual
async def test_a_caller_who_is_cancelled_leaves_all_pieces():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        call = asyncio.create_task(client.call_many([DOUBLE(n) for n in range(MANY)], timeout=60))
        await asyncio.sleep(1)
        assert client.stats().pending == MANY
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(5)
        assert client.stats().pending == 0
        assert len(set(servers.broker.revoked)) == MANY


@virtual
async def test_all_pieces_are_told_to_a_tracer_as_one():
    ends = []

    class Span:
        def inject(self, task, task_id):
            return {}

        def link(self):
            """Do nothing."""

        def end(self, **how):
            ends.append(how)

    class Notes:
        def start_send(self, queue, server, *, batch, headers):
            return Span()

    async with memory_client(telemetry=Notes()) as (client, _):
        await client.celery.call_many([RemoteTask("proj.echo")(n) for n in range(MANY)], timeout=30)
    assert ends == [{"sent": MANY, "failed": 0, "error": None}]
