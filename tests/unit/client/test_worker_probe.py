"""The probe asks whether any worker listens: in time for the error, rarely, and never at the cost of a deadline."""

from __future__ import annotations

import asyncio

from support.clock import virtual
from support.memory import MemoryBroker

from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.worker_probe import AGAIN_IF_NOBODY, AGAIN_IF_SOMEBODY, FRESH, WorkerProbe
from fibo_client.errors import TransportError


class Broker(MemoryBroker):
    """A broker on which some workers listen, or which fails."""

    def __init__(self, listening: int = 0) -> None:
        super().__init__()
        self.listening = listening
        self.delay = 0.0
        self.down = self.refuses = False

    async def broadcast(self, request):
        await super().broadcast(request)
        await asyncio.sleep(self.delay)
        if self.down:
            error = TransportError("gone")
            error.refused = self.refuses
            raise error
        return self.listening


async def asked(probe):
    probe.ask()
    await asyncio.sleep(0.01)
    return probe.nobody


@virtual
async def test_nothing_is_claimed_before_it_was_asked():
    assert not WorkerProbe(Broker()).nobody


@virtual
async def test_the_finding_that_nobody_listens_expires():
    probe = WorkerProbe(Broker(0))
    assert await asked(probe)
    await asyncio.sleep(FRESH)
    assert not probe.nobody


@virtual
async def test_the_next_question_finds_a_worker_that_has_come():
    probe = WorkerProbe(broker := Broker(0))
    assert await asked(probe)
    broker.listening = 1
    await asyncio.sleep(AGAIN_IF_NOBODY)
    assert not await asked(probe)


@virtual
async def test_the_question_is_a_ping_without_replies():
    await asked(WorkerProbe(broker := Broker(1)))
    ((_, request),) = broker.broadcasts
    assert request == ControlRequest(method="ping")


@virtual
async def test_workers_that_are_there_are_seldom_asked_and_nobody_is_asked_more_often():
    for listening, pause in ((0, AGAIN_IF_NOBODY), (3, AGAIN_IF_SOMEBODY)):
        probe = WorkerProbe(broker := Broker(listening))
        for _ in range(1000):
            await asked(probe)
        assert len(broker.broadcasts) <= 1 + 1000 * 0.01 / pause


@virtual
async def test_only_one_question_is_under_way_at_a_time():
    probe = WorkerProbe(broker := Broker(0))
    broker.delay = 100.0
    for _ in range(50):
        assert not await asked(probe)
    assert len(broker.broadcasts) == 1
    await probe.aclose()
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_probe_that_is_refused_asks_once():
    probe = WorkerProbe(broker := Broker(0))
    broker.down = broker.refuses = True
    for _ in range(3):
        assert not await asked(probe)
        await asyncio.sleep(3600)
    assert len(broker.broadcasts) == 1


@virtual
async def test_nothing_is_claimed_while_the_broker_cannot_be_asked():
    probe = WorkerProbe(broker := Broker(0))
    assert await asked(probe)
    broker.down = True
    await asyncio.sleep(AGAIN_IF_NOBODY)
    assert not await asked(probe)
