"""A timer that can be moved."""

from __future__ import annotations

import asyncio

from support.clock import virtual

from fibo_client.celery.timer import Timer


class Bell:
    """A timer, and when it went off."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        self.rung: list[float] = []
        self.timer = Timer(lambda: self.rung.append(round(self.loop.time() - self.start, 3)))

    def at(self, seconds: float) -> float:
        return self.start + seconds


@virtual
async def test_an_alarm_goes_off_once_at_its_last_moment():
    bell = Bell()
    bell.timer.set(bell.at(1))
    bell.timer.set(bell.at(3))
    await asyncio.sleep(10)
    assert bell.rung == [3]


@virtual
async def test_an_alarm_can_be_brought_forward_and_not_put_off():
    bell = Bell()
    bell.timer.set_by(bell.at(3))
    bell.timer.set_by(bell.at(2))
    bell.timer.set_by(bell.at(5))
    bell.timer.set_by(None)
    await asyncio.sleep(10)
    assert bell.rung == [2]
    bell.timer.set_by(bell.at(15))
    await asyncio.sleep(10)
    assert bell.rung == [2, 15]


@virtual
async def test_a_moment_that_has_passed_is_now_and_a_cancelled_alarm_is_silent():
    bell = Bell()
    bell.timer.set_by(bell.at(-1))
    await asyncio.sleep(1)
    bell.timer.set(bell.at(2))
    bell.timer.cancel()
    await asyncio.sleep(10)
    assert bell.rung == [0]
