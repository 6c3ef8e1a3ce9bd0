"""A few seconds of `make soak`."""

from __future__ import annotations

import asyncio

import pytest
from soak import soak

from fibo_worker.dev import running


@pytest.mark.timeout(300)
def test_nothing_is_left_after_random_cancellations_breaks_and_deadlines():
    with running() as here:
        report = asyncio.run(soak(here.url, seconds=4, seed=1))
    assert report.wrong == []
    assert report.left == []
    assert {"one: done", "stream: done", "many: done", "at_once: done"} <= report.done.keys()
    assert any("CancelledError" in what for what in report.done)
    assert any("ResultTimeoutError" in what for what in report.done)
