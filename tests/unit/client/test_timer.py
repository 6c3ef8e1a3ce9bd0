"""A timer that can be moved."""

from __future__ import annotations

import asyncio

from support.clock import virtual

from fibo_client.celery.timer import Timer


class Timed:
    """A timer, and the times of its calls."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        self.calls: list[float] = []
        self.timer = Timer(lambda: self.calls.append(round(self.loop.time() - self.start, 3)))

    def at(self, seconds: float) -> float:
        return self.start + seconds


@virtual
async def test_a_timer_calls_once_at_the_time_set_last():
    timed = Timed()
    timed.timer.set(timed.at(1))
    timed.timer.set(timed.at(3))
    await asyncio.sleep(10)
    assert timed.calls == [3]


@virtual
async def test_set_by_moves_a_timer_forward_only():
    timed = Timed()
    timed.timer.set_by(timed.at(3))
    timed.timer.set_by(timed.at(2))
    timed.timer.set_by(timed.at(5))
    timed.timer.set_by(None)
    await asyncio.sleep(10)
    assert timed.calls == [2]
    timed.timer.set_by(timed.at(15))
    await asyncio.sleep(10)
    assert timed.calls == [2, 15]


@virtual
async def test_a_time_in_the_past_is_now_and_a_cancelled_timer_does_not_call():
    timed = Timed()
    timed.timer.set_by(timed.at(-1))
    await asyncio.sleep(1)
    timed.timer.set(timed.at(2))
    timed.timer.cancel()
    await asyncio.sleep(10)
    assert timed.calls == [0]
