"""Readiness: what probes are told, and how few questions that takes."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker

from fibo_client import ClientStateError, NotReadyError, TransportError
from fibo_client.asgi import Problem, Readiness
from fibo_client.asgi.readiness import FAILURE_AGE
from fibo_client.celery import CeleryClient


class Servers:
    """A broker whose workers answer as a test says, and which counts the questions."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.ask = self.ask
        self.questions = 0
        self.takes = 0.1
        self.answer: object = {"celery@a": {"ok": "pong"}, "celery@b": {"ok": "pong"}}

    def connect(self, config):
        return self.broker, MemoryBackend()

    async def ask(self, request, *, timeout, limit=None):
        self.questions += 1
        await asyncio.sleep(self.takes)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def servers() -> Servers:
    return Servers()


@virtual
async def test_an_answer_counts_for_some_seconds(servers):
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client, max_age=5)
        for _ in range(40):
            assert [worker.name for worker in await readiness.check()] == ["celery@a", "celery@b"]
            await asyncio.sleep(0.1)
        assert servers.questions == 1
        await asyncio.sleep(2)
        await readiness.check()
        assert servers.questions == 2


@virtual
async def test_many_probes_at_once_are_one_question(servers):
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client)
        answers = await asyncio.gather(*(readiness.check() for _ in range(1000)))
    assert servers.questions == 1
    assert all(len(workers) == 2 for workers in answers)


@virtual
async def test_a_probe_that_leaves_takes_nothing_from_the_others(servers):
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client)
        leaving, staying = (asyncio.create_task(readiness.check()) for _ in range(2))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert len(await staying) == 2
    assert servers.questions == 1


@virtual
async def test_that_nobody_answers_is_asked_again_after_a_second(servers):
    servers.answer = {}
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client, max_age=60)
        errors = []
        for _ in range(2):
            with pytest.raises(NotReadyError, match="no worker answered within 1 s") as caught:
                await readiness.check()
            errors.append(caught.value)
        assert servers.questions == 1
        assert errors[0] is not errors[1]
        assert Problem.from_error(errors[0]).detail == "No worker answers."
        servers.answer = {"celery@a": {"ok": "pong"}}
        await asyncio.sleep(FAILURE_AGE)
        assert len(await readiness.check()) == 1


@virtual
async def test_an_outage_is_told_as_one_and_asked_about_once_a_second(servers):
    servers.answer = TransportError("redis://host: connection refused")
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client)
        for _ in range(30):
            with pytest.raises(TransportError) as caught:
                await readiness.check()
            await asyncio.sleep(0.1)
    assert servers.questions == 3
    told = Problem.from_error(caught.value)
    assert (told.status, told.detail) == (503, "The queue cannot be reached just now.")


@virtual
async def test_a_probe_waits_no_longer_than_its_timeout_and_the_question_goes_on_alone(servers):
    servers.takes = 3
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client, timeout=0.5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for probe in range(1, 5):
            with pytest.raises(NotReadyError):
                await readiness.check()
            assert loop.time() - began == pytest.approx(0.5 * probe)
        assert servers.questions == 1
        await asyncio.sleep(1.1)
        assert len(await readiness.check()) == 2
    assert servers.questions == 1


@virtual
async def test_once_the_client_is_closed_no_old_answer_counts(servers):
    async with CeleryClient(transport=servers) as client:
        readiness = Readiness(client)
        await readiness.check()
    with pytest.raises(ClientStateError):
        await readiness.check()


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"timeout": float("inf")}, {"max_age": -1}, {"max_age": float("nan")}]
)
def test_times_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a number of seconds"):
        Readiness(CeleryClient(transport=Servers()), **wrong)
