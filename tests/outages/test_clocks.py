"""The clock of the caller's machine is wrong.

The caller is a program of its own, under Debian's `faketime`, which shifts what the system says of the time.
"""

from __future__ import annotations

import json
import shutil
import sys
import time

import pytest
from support.outages import outage
from support.programs import run

pytestmark = pytest.mark.skipif(
    shutil.which("faketime") is None,
    reason="faketime shifts the clock of one program, and is not installed: apt install faketime",
)

_PROGRAM = """
import asyncio, json, sys, time
from fibo_client import FiboError
from fibo_client.celery import CeleryClient

async def main(url, options):
    async with CeleryClient(url) as celery:
        began = time.monotonic()
        try:
            said = "the answer", str(await celery.call("stock.add", (1, 2), **options))
        except FiboError as error:
            said = type(error).__name__, str(error)
        print(json.dumps([*said, time.monotonic() - began, time.time()]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


def call(url: str, shift: int, **options: object) -> tuple[str, str, float]:
    """Call a task from a program whose clock is shifted.

    Returns:
        What the caller saw, its text, and the seconds that it took.
    """
    done = run(
        "faketime", "-f", f"{shift:+d}s", sys.executable, "-c", _PROGRAM, url, json.dumps(options),
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, text, took, clock = json.loads(done.stdout)
    assert abs(clock - shift - time.time()) < 5, "the clock was not shifted"
    return name, text, took


@outage(
    "The caller's clock is 10 s behind, and `timeout` is 5 s",
    sees="`ResultTimeoutError`",
    within="at once",
    submitted="yes; the worker finds it expired, and does not run it",
    retry="with a longer `timeout`, or a clock that is right",
)
def test_a_clock_that_is_behind_is_named(witness, stock):
    name, text, took = call(stock.url, -10, timeout=5)
    witness.saw(name, took)
    assert name == "ResultTimeoutError"
    assert "compare the clocks" in text
    assert took < 5


@outage(
    "The caller's clock is 10 s ahead",
    sees="the answer",
    within="`timeout`",
    submitted="yes; unanswered, it expires 10 s later than it should",
    retry="not needed",
)
def test_a_clock_that_is_ahead_does_no_harm(witness, stock):
    name, text, took = call(stock.url, 10, timeout=5)
    witness.saw(name, took)
    assert (name, text) == ("the answer", "3")


@outage(
    "The caller's clock is 10 s ahead, and the task has a `countdown`",
    sees="`ResultTimeoutError`",
    within="`timeout`",
    submitted="yes; it would begin 10 s late",
    retry="with a longer `timeout`, or a clock that is right",
)
def test_a_countdown_is_counted_from_the_callers_clock(witness, stock):
    name, _, took = call(stock.url, 10, countdown=0.5, timeout=2)
    witness.saw(name, took)
    assert name == "ResultTimeoutError"
    assert 2 <= took < 5


@outage(
    "The caller's clock is 10 s behind, and the task has a `countdown`",
    sees="the answer",
    within="`timeout`; the task begins up to 10 s early",
    submitted="yes",
    retry="not needed",
)
def test_a_countdown_that_is_over_already_is_none(witness, stock):
    name, text, took = call(stock.url, -10, countdown=9, timeout=30)
    witness.saw(name, took)
    assert (name, text) == ("the answer", "3")
    assert took < 8
