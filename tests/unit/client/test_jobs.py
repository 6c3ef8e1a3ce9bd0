"""Jobs over a broker with AMQP's facts and results in another store: what is awaited is not what is published."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from support.amqp import AmqpBroker, AmqpServer, AmqpWorker, amqp_backend, handmade
from support.clock import virtual
from support.messages import messages

from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.gather import news
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.session import Session
from fibo_client.errors import PublishError, PublishUnknownError, TransportError
from fibo_client.telemetry.tracer import NOOP_SPAN

QUEUE = "work"


def fail(*_):
    raise ValueError("no")


TASKS = {"add": lambda x, y: x + y, "total": sum, "fail": fail, "a.task": lambda *_: None}


class Stage:
    """A session over the broker, a worker of it, and what is left in the backend."""

    def __init__(self, *, remote_control: bool = True) -> None:
        self.amqp = AmqpServer(QUEUE)
        self.memory, backend = amqp_backend()
        self.backend = backend
        self.session = Session(CeleryConfig(), AmqpBroker(self.amqp, remote_control=remote_control), backend)
        AmqpWorker(self.amqp, self.memory, QUEUE, TASKS)

    async def run(self, sent, task_ids=None, *, timeout=5.0):
        """Have a job done like a client does: give it when it is over, or raise why it could not be sent."""
        job = self.session.submit(
            sent,
            NOOP_SPAN,
            awaits=task_ids or [message.id for message in sent],
            timeout=timeout,
            retry=False,
            end_on_failure=True,
            began=self.now(),
        )
        try:
            while not job.over:
                await news(job)
        finally:
            self.session.end(job)
        self.session.check_error(job)
        return job

    @staticmethod
    def now():
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def staged(**options):
    stage = Stage(**options)
    await stage.session.open()
    try:
        yield stage
    finally:
        await stage.session.aclose()


def step(task, task_id, args=(), **options):
    return {"task": task, "args": list(args), "kwargs": {}, "options": {"task_id": task_id, **options}}


def results(job):
    return {task_id: meta.result for task_id, meta in job.arrived.items()}


@virtual
async def test_of_a_chain_one_message_leaves_and_every_step_is_awaited():
    async with staged() as stage:
        first = handmade("add", "a", [1, 2], {"chain": [step("add", "b", [10])]}, QUEUE, root_id="a")
        job = await stage.run([first], ["a", "b"])
        assert results(job) == {"a": 3, "b": 13}
        assert stage.session.stats().published == 1
        await asyncio.sleep(10)
        assert stage.memory.results == {}  # All of it was owned, and is cleaned up.


@virtual
async def test_a_chain_ends_as_soon_as_a_step_fails_and_the_others_are_revoked():
    async with staged() as stage:
        began = stage.now()
        first = handmade("fail", "a", [], {"chain": [step("add", "b", [10])]}, QUEUE, root_id="a")
        job = await stage.run([first], ["a", "b"])
        assert job.arrived["a"].state == "FAILURE"
        assert list(job.missing) == ["b"]
        assert stage.now() - began < 1


@virtual
async def test_of_a_chord_the_members_leave_and_the_body_is_awaited_too():
    async with staged() as stage:
        body = step("total", "body")
        members = [
            handmade("add", f"m{index}", [index, 10], {"chord": body}, QUEUE, group="g", group_index=index)
            for index in range(2)
        ]
        await stage.backend.put_many({"celery-taskset-meta-g.s": b"2"}, expires=60)
        job = await stage.run(members, ["m0", "m1", "body"])
        assert results(job) == {"m0": 10, "m1": 11, "body": 21}
        await asyncio.sleep(100)
        assert "celery-taskset-meta-g.s" not in stage.memory.others


@virtual
async def test_a_chord_whose_last_member_was_returned_was_not_sent_whole_and_says_which():
    async with staged() as stage:
        body = step("total", "body")
        members = [
            handmade("add", "m0", [0, 10], {"chord": body}, QUEUE, group="g", group_index=0),
            handmade("add", "m1", [1, 10], {"chord": body}, "nowhere", group="g", group_index=1),
        ]
        with pytest.raises(PublishError, match="NO_ROUTE") as caught:
            await stage.run(members, ["m0", "m1", "body"])
        assert caught.value.refused
        assert caught.value.task_ids == ("m1",)


@virtual
async def test_a_message_that_is_never_confirmed_may_have_been_sent():
    async with staged() as stage:
        stage.amqp.worker = None  # An answer would show that it was.
        stage.amqp.lost = {"b"}
        with pytest.raises(PublishUnknownError, match="no confirm") as caught:
            await stage.run(messages("a", "b", "c", queue=QUEUE))
        assert caught.value.task_ids == ("b",)


@virtual
async def test_what_is_known_of_a_flow_that_waits_is_known_of_each_of_its_tasks():
    async with staged() as stage:
        stage.amqp.worker = None
        first = handmade("add", "a", [1, 2], {"chain": [step("add", "b", [10])]}, QUEUE, root_id="a")
        job = await stage.run([first], ["a", "b"], timeout=1.0)
        facts = stage.session.facts(job, 1.0, job)
        assert (list(job.missing), facts.published, facts.unsent) == (["a", "b"], True, None)
        stage.amqp.down = "gone"
        with pytest.raises(PublishError):
            await stage.run([first], ["a", "b"], timeout=1.0)
        assert stage.session.stats().in_flight == 0


@virtual
async def test_without_remote_control_calls_are_answered_and_questions_refused_at_once():
    async with staged(remote_control=False) as stage:
        broker = stage.session.broker
        job = await stage.run(messages("a", queue=QUEUE))
        assert job.arrived["a"].state == "SUCCESS"
        stage.amqp.worker = None
        call = asyncio.create_task(stage.run(messages("b", queue=QUEUE)))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(1)
        assert stage.session.cleaner.revocations.unsent == 1
        late = await stage.run(messages("c", queue=QUEUE), timeout=0.5)
        assert (list(late.missing), stage.session.facts(late, 0.5).no_worker) == (["c"], False)
        with pytest.raises(TransportError, match="no remote control"):
            await broker.ask(ControlRequest(method="ping"), timeout=1)


@virtual
async def test_where_nobody_counts_who_listens_it_is_never_said_that_no_worker_does():
    async with staged() as stage:
        stage.amqp.worker = None
        job = await stage.run(messages("a", queue=QUEUE), timeout=1.0)
        assert (job.timed_out, stage.session.facts(job, 1.0).no_worker) == (True, False)
