"""A few seconds of `make soak`."""

from __future__ import annotations

import asyncio

import pytest
from soak import soak

from fibo_worker.dev import running

WANTED = {"one: done", "stream: done", "many: done", "at_once: done", "CancelledError", "ResultTimeoutError"}


@pytest.mark.timeout(300)
def test_nothing_is_left_after_random_cancellations_breaks_and_deadlines():
    seen = set()
    with running() as here:
        for seed in range(1, 11):  # A busy machine comes to less in the same time.
            report = asyncio.run(soak(here.url, seconds=4, seed=seed))
            assert report.wrong == []
            assert report.left == []
            seen |= {part for what in report.done for part in (what, what.partition(": ")[2])}
            if seen >= WANTED:
                break
    assert seen >= WANTED
