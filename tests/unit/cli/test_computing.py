"""The job that computes numbers, on the double."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual

from fibo_client import FiboClient
from fibo_client.cli.computing import Form, compute
from fibo_client.cli.desk import Desk
from fibo_client.cli.exits import Exit
from fibo_client.testing import FakeFibo


@pytest.fixture
def desk(tmp_path):
    return Desk(output=str(tmp_path / "answers"))


@virtual
async def test_a_command_that_gives_up_tells_what_became_of_the_rest_once_that_is_known(desk):
    async def source():
        yield 4
        await asyncio.sleep(1)  # The second deadline is later: when the first one has passed, only that task expires.
        yield 10

    fake = FakeFibo()
    with fake.no_worker():
        async with FiboClient(transport=fake) as client:
            status = await compute(client, desk, source(), form=Form(), total=2, ordered=True, timeout=3.0)
    assert (status, desk.given_up) == (Exit.NO_WORKER, True)
    assert desk.parting(client.celery.engine.tidier.revocations) == (
        "0 of 2 answered, the rest could not be revoked and expires within 5 s: no worker heard it."
    )
