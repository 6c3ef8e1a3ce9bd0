"""Rarer ends of programs while calls are in flight. The usual ones are in tests/integration."""

from __future__ import annotations

import signal

import pytest
from support.endings import CALLS_IN_FLIGHT, end, forking
from support.servers import RedisServer

pytestmark = pytest.mark.timeout(180)  # Longer than it takes to find out that a program hangs.


@pytest.fixture(scope="module")
def url():
    """The URL of a Redis that nobody else uses."""
    with RedisServer() as server:
        yield server.url


def test_a_handler_of_sigterm_that_exits_ends_a_program_with_calls_in_flight_quietly(url):
    program = CALLS_IN_FLIGHT + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nasyncio.run(main())\n"
    assert end(url, program, kill=signal.SIGTERM) == (7, "", "")


def test_a_child_of_multiprocessing_is_refused_and_does_not_disturb_its_parent(url):
    program = forking("""
        process = multiprocessing.get_context("fork").Process(target=in_child, args=(client,))
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
    """)
    assert end(url, program) == (0, "", "")
