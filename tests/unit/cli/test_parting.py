"""What is said of work that a command leaves."""

from __future__ import annotations

import pytest

from fibo_client.celery.tidying import Revocations
from fibo_client.cli.parting import GOES_ON, fate

TOLD = "workers were told to revoke the rest"


@pytest.mark.parametrize(
    ("told", "expires", "words"),
    [
        (Revocations(), 32, ""),
        (Revocations(heard=3), 32, f"{TOLD}. {GOES_ON}"),
        (Revocations(unheard=3), 32, "the rest could not be revoked and expires within 32 s: no worker heard it."),
        (
            Revocations(untold=3),
            2.5,
            "the rest could not be revoked and expires within 2.5 s: there was no time for more.",
        ),
        (
            Revocations(unheard=1, untold=1, trouble="Redis is gone."),
            None,
            "the rest could not be revoked and stays until a worker comes: Redis is gone.",
        ),
        (
            Revocations(heard=9, untold=2),
            32,
            f"{TOLD} but for 2 tasks, which expire within 32 s: there was no time for more. {GOES_ON}",
        ),
        (
            Revocations(heard=9, unheard=1),
            None,
            f"{TOLD} but for 1 task, which stays until a worker comes: no worker heard it. {GOES_ON}",
        ),
    ],
)
def test_it_is_what_is_known(told, expires, words):
    assert fate("the rest", told, expires) == words
