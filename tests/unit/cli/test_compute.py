"""The job that computes numbers, on the double."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual

from fibo_client import FiboClient
from fibo_client.batching.packing import reply_bytes
from fibo_client.cli.backpressure import MAX_BYTES, Backpressure
from fibo_client.cli.compute import OutputFormat, compute
from fibo_client.cli.console import Console
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.testing import FakeFibo


@pytest.fixture
def console(tmp_path):
    return Console(output=str(tmp_path / "answers"))


@virtual
async def test_a_command_that_gives_up_tells_what_became_of_the_rest_once_that_is_known(console):
    async def source():
        yield 4
        await asyncio.sleep(1)  # The second deadline is later: when the first one has passed, only that task expires.
        yield 10

    fake = FakeFibo()
    with fake.no_worker():
        async with FiboClient(transport=fake) as client:
            status = await compute(
                client, console, source(), output_format=OutputFormat(), total=2, ordered=True, timeout=3.0
            )
    assert (status, console.stopped_early) == (ExitCode.NO_WORKER, True)
    assert console.stop_message(client.stats().revocations) == (
        "0 of 2 answered, the rest could not be revoked: no worker heard it. "
        "What no worker has begun expires within 3 s; what one has begun goes on."
    )


@virtual
async def test_no_more_is_under_way_than_the_memory_allows(console):
    longest = range(9_999_000, 10_000_000)
    fake = FakeFibo()
    with fake.no_worker():
        async with FiboClient(transport=fake) as client:
            await compute(
                client, console, longest, output_format=OutputFormat(), total=len(longest), ordered=True, timeout=3.0
            )
    assert len(fake.sent) == MAX_BYTES // reply_bytes(longest[0])


async def test_numbers_that_were_written_make_room_for_others(console, tmp_path, monkeypatch):
    monkeypatch.setattr("fibo_client.cli.compute.Backpressure", lambda: Backpressure(10 * reply_bytes(1000)))
    async with FiboClient(transport=FakeFibo()) as client:
        source = [1000] * 100
        status = await compute(
            client, console, source, output_format=OutputFormat(hexadecimal=True), total=100, ordered=True, timeout=3.0
        )
    assert status is ExitCode.OK
    assert len((tmp_path / "answers").read_text().splitlines()) == 100
