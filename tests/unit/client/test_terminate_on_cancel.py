"""Tasks that are terminated when their caller leaves: by which verbs, and when they are not."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from support.clock import virtual
from support.memory import Servers

from fibo_client import ResultTimeoutError
from fibo_client.celery import CeleryClient, Signature, chain


async def call(client, **options):
    await client.call("shop.report", **options)


async def call_a_chain(client, **options):
    await client.call(chain(Signature("shop.report"), Signature("shop.report")), **options)


async def call_many(client, **options):
    await client.call_many([Signature("shop.report")], **options)


async def start(client, **options):
    async with client.start("shop.report", **options) as result:
        await result


async def stream(client, **options):
    async with client.stream("shop.report", [1], **options) as answers:
        async for _ in answers:
            pass


@pytest.mark.parametrize("verb", [call, call_a_chain, call_many, start, stream])
@pytest.mark.parametrize("terminate", [True, False])
@virtual
async def test_who_leaves_has_the_task_terminated_if_that_was_said_and_else_only_revoked(verb, terminate):
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        caller = asyncio.create_task(verb(client, terminate_on_cancel=terminate))
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.sleep(1)
        assert [each for _, each in servers.revocations] == [terminate]
        assert set(servers.sent) <= {task_id for task_ids, _ in servers.revocations for task_id in task_ids}


@virtual
async def test_a_timeout_terminates_nothing():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        with suppress(ResultTimeoutError):
            await client.call("shop.report", timeout=1, terminate_on_cancel=True)
        await asyncio.sleep(5)
    assert servers.revocations == []


@virtual
async def test_a_call_that_wants_its_task_terminated_says_more_than_the_client_that_revokes_nothing():
    servers = Servers()
    async with CeleryClient(transport=servers, revoke_on_cancel=False) as client:
        callers = [asyncio.create_task(call(client, terminate_on_cancel=each)) for each in (True, False)]
        await asyncio.sleep(1)
        for caller in callers:
            caller.cancel()
        await asyncio.sleep(1)
        assert servers.revocations == [(servers.sent[:1], True)]


@virtual
async def test_when_the_client_closes_its_callers_leave_too():
    servers = Servers()
    async with CeleryClient(transport=servers) as client:
        caller = asyncio.create_task(call(client, terminate_on_cancel=True))
        await asyncio.sleep(1)
    assert servers.revocations == [(servers.sent, True)]
    await asyncio.gather(caller, return_exceptions=True)
