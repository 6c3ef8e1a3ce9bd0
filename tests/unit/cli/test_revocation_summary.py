"""What is said of tasks that a command leaves."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import virtual

from fibo_client.celery.stats import RevocationCounts
from fibo_client.cli.revocation_summary import GOES_ON, Expiry, revocation_summary

TOLD = "workers were told to revoke the rest"
EXPIRES = "What no worker has begun expires within 32 s; what one has begun goes on."
EXPIRED = "What no worker has begun has expired; what one has begun goes on."
WAITS = "What no worker has begun waits for a worker; what one has begun goes on."


@pytest.mark.parametrize(
    ("counts", "expires", "words"),
    [
        (RevocationCounts(), 32, ""),
        (RevocationCounts(delivered=3), 32, f"{TOLD}. {GOES_ON}"),
        (RevocationCounts(undelivered=3), 32, f"the rest could not be revoked: no worker heard it. {EXPIRES}"),
        (RevocationCounts(unsent=3), 32.0, f"the rest could not be revoked: there was no time for more. {EXPIRES}"),
        (RevocationCounts(undelivered=3), 31.01, f"the rest could not be revoked: no worker heard it. {EXPIRES}"),
        (RevocationCounts(undelivered=3), -1.5, f"the rest could not be revoked: no worker heard it. {EXPIRED}"),
        (RevocationCounts(unsent=3, reason="no answer"), 32, f"the rest could not be revoked: no answer. {EXPIRES}"),
        (
            RevocationCounts(undelivered=1, unsent=1, reason="Is Redis running there?"),
            None,
            f"the rest could not be revoked: Is Redis running there? {WAITS}",
        ),
        (RevocationCounts(delivered=9, unsent=2), 32, f"{TOLD} but for 2 tasks: there was no time for more. {EXPIRES}"),
        (RevocationCounts(delivered=9, undelivered=1), None, f"{TOLD} but for 1 task: no worker heard it. {WAITS}"),
    ],
)
def test_it_is_what_is_known(counts, expires, words):
    assert revocation_summary("the rest", counts, expires) == words


@virtual
async def test_tasks_expire_some_time_after_the_last_of_them_was_sent():
    expiry, never = Expiry(32.0), Expiry(None)
    await asyncio.sleep(5)
    assert expiry.remaining() == 32.0  # Something may be being sent.
    expiry.sent()
    await asyncio.sleep(5)
    expiry.sent()
    await asyncio.sleep(10)
    assert expiry.remaining() == 22.0
    await asyncio.sleep(30)
    assert expiry.remaining() == -8.0
    assert never.remaining() is None
