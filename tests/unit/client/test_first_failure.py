"""A flow's error names the task that failed first, also where the failures that follow from it are seen before it."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual
from support.memory import Servers

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group
from fibo_client.celery.gather import LOOK_BACK

step = RemoteTask[..., int]("shop.step")
ERROR = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}

FLOWS = {
    "a chain": (lambda: chain(step(), step.s(), step.s()), 1),
    "a chord": (lambda: chord([step(), step()], step.s()), 0),
    "a chord in a header": (lambda: chord([chord([step()], step.s()), step()], step.s()), 1),
    "a group of chains": (lambda: group(step(), step() | step.s()), 1),
    "a chord of hundreds": (lambda: chord([step() for _ in range(600)], step.s()), 300),
}
"""Flows, and which of their tasks fails. Their last one fails with it."""


async def get(client, flow):
    result = await client.send(flow, task_id="whole")
    return result, asyncio.create_task(result.get(5))


async def gathered(client, flow):
    result = await client.send(flow, task_id="whole")
    return result, asyncio.create_task(client.gather([result], timeout=5))


async def started(client, flow):
    result = client.start(flow, timeout=5)
    return result, asyncio.create_task(result.get())


@pytest.mark.parametrize("begin", [get, gathered, started])
@pytest.mark.parametrize("name", FLOWS)
@virtual
async def test_the_error_names_the_cause_although_its_consequence_was_seen_before_it(name, begin):
    make, at = FLOWS[name]
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        result, waiting = await begin(client, make())
        await asyncio.sleep(0.9)
        cause, last = result.tasks[at], result.tasks[-1]
        servers.backend.put(cause.id, "FAILURE", ERROR, push=False)  # It was pushed over a connection that is slower.
        servers.backend.put(last.id, "FAILURE", ERROR)
        with pytest.raises(TaskFailedError) as caught:
            await waiting
        assert caught.value.task_id == cause.id
        assert caught.value.step is not None


@virtual
async def test_a_call_names_the_cause_and_leaves_nothing():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        calling = asyncio.create_task(client.call(chain(step(), step.s()), timeout=5, task_id="last"))
        await asyncio.sleep(0.9)
        (first,) = servers.sent
        servers.backend.put(first, "FAILURE", ERROR, push=False)
        servers.backend.put("last", "FAILURE", ERROR)
        with pytest.raises(TaskFailedError, match=r"step 1 of 2"):
            await calling
    assert {first, "last"} <= set(servers.backend.deleted)


@virtual
async def test_a_step_that_failed_by_itself_is_named_after_one_look_at_those_before_it():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        result = await client.send(chain(step(), step.s(), step.s()))
        waiting = asyncio.create_task(result.get(5))
        await asyncio.sleep(0.9)
        before = len(servers.backend.read_at)
        servers.backend.put(result.tasks[1].id, "FAILURE", ERROR)
        with pytest.raises(TaskFailedError, match="step 2 of 3"):
            await waiting
        assert [ids for _, ids in servers.backend.read_at[before:]] == [[result.tasks[0].id]]


@pytest.mark.parametrize(
    ("flow", "at"), [(group(step(), step(), step()), 1), (chain(step(), step.s()), 0)], ids=["a member", "the first"]
)
@virtual
async def test_nothing_more_is_read_where_no_step_is_before_the_one_that_failed(flow, at):
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        result = await client.send(flow)
        waiting = asyncio.create_task(result.get(5))
        await asyncio.sleep(0.9)
        before = len(servers.backend.read_at)
        servers.backend.put(result.tasks[at].id, "FAILURE", ERROR)
        with pytest.raises(TaskFailedError):
            await waiting
        assert len(servers.backend.read_at) == before


@pytest.mark.parametrize(("timeout", "longest"), [(5, LOOK_BACK), (1.15, 0.25)])
@virtual
async def test_the_failure_that_is_known_is_told_where_redis_does_not_answer(timeout, longest):
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        result = await client.send(chain(step(), step.s()))
        waiting = asyncio.create_task(result.get(timeout))
        await asyncio.sleep(0.9)
        servers.backend.hangs = True
        servers.backend.put(result.id, "FAILURE", ERROR)
        began = asyncio.get_running_loop().time()
        with pytest.raises(TaskFailedError, match="step 2 of 2"):
            await waiting
        assert asyncio.get_running_loop().time() - began == pytest.approx(longest, abs=0.01)


@virtual
async def test_of_very_many_steps_the_nearest_are_looked_at():
    servers = Servers()
    async with CeleryClient(transport=servers, push_limit=10_000) as client:
        result = await client.send(group(step() | step.s() for _ in range(2000)))
        waiting = asyncio.create_task(result.get(5))
        await asyncio.sleep(0.9)
        before = len(servers.backend.read_at)
        cause, last = result.tasks[-2:]
        servers.backend.put(cause.id, "FAILURE", ERROR, push=False)
        servers.backend.put(last.id, "FAILURE", ERROR)
        with pytest.raises(TaskFailedError) as caught:
            await waiting
        assert caught.value.task_id == cause.id
        looked_at = [task_id for _, ids in servers.backend.read_at[before:] for task_id in ids]
        assert len(looked_at) < 2000  # The wait reads some, too.
