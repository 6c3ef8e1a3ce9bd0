"""The errors that a stranger meets first where a real worker listens."""

from __future__ import annotations

import asyncio
import gc

import gmpy2
import pytest
from support.first_errors import raises_soon

from fibo_client import FiboClient, ResultTimeoutError, TaskFailedError


async def test_that_no_worker_takes_from_a_queue_is_told_by_the_diagnosis_of_the_error(worker):
    async with FiboClient(worker.admin_url) as client:
        with raises_soon(ResultTimeoutError, "sent to 'fibbo'", "CeleryClient.diagnose(error)"):
            try:
                await client.fibonacci(5, timeout=1, queue="fibbo")
            except ResultTimeoutError as error:
                diagnosis = await client.celery.diagnose(error)
                raise
    assert "no worker takes tasks from 'fibbo' (start one with -Q fibbo)" in str(diagnosis)


async def test_a_task_that_no_worker_knows_is_told(worker):
    words = "NotRegistered('tasks.ad'): the worker that took it from the queue 'celery' knows no task of that name"
    async with FiboClient(worker.url) as client:
        with raises_soon(TaskFailedError, words):
            await client.celery.call("tasks.ad", (2, 3))


async def test_that_client_and_worker_have_each_a_limit_of_their_own_is_told(worker):
    async with FiboClient(worker.url) as client:
        with pytest.raises(ValueError, match=r"^n must be at most 10000000, not 10000001 \(the client's max_n\)$"):
            await client.fibonacci(10_000_001)
        with raises_soon(TaskFailedError, "n must be at most 10000000, not 10000001 (the worker's FIBO_MAX_N)"):
            await client.celery.call("fibo.fibonacci", (10_000_001,))


async def test_printing_a_huge_number_says_how_and_computing_with_it_needs_nothing(worker):
    async with FiboClient(worker.url) as client:
        number = await client.fibonacci(30_000)
    assert number % 1000 == int(gmpy2.fib(30_000)) % 1000
    # It is a Python int, so CPython says it: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
    with raises_soon(ValueError, "4300 digits", "sys.set_int_max_str_digits()"):
        print(number)


def test_a_stream_that_is_left_halfway_without_async_with_ends_by_itself(worker, capsys, caplog):
    async def leave() -> None:
        async with FiboClient(worker.url) as client:
            async for _, value in client.stream(range(10_000)):
                assert value >= 0
                break

    asyncio.run(leave())
    gc.collect()  # What it may have left would be warned of, and a warning is an error here.
    assert (*capsys.readouterr(), caplog.messages) == ("", "", [])
