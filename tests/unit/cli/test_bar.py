"""The progress bar, which a thread makes while the event loop goes on."""

from __future__ import annotations

import asyncio
import threading

from rich.progress import Progress
from support.clock import virtual

from fibo_client.cli.bar import DELAY, Bar


@virtual
async def test_only_what_takes_long_enough_to_wonder_has_a_bar(monkeypatch):
    shown = []

    async def show(function):
        shown.append(function)

    monkeypatch.setattr("fibo_client.cli.bar.to_daemon_thread", show)
    monkeypatch.setenv("TERM", "xterm")
    with Bar("Computing", 10, threading.Lock(), on_output=False).shown(visible=True):
        await asyncio.sleep(0.9 * DELAY)
    await asyncio.sleep(DELAY)
    assert not shown
    with Bar("Computing", 10, threading.Lock(), on_output=False).shown(visible=True):
        await asyncio.sleep(1.1 * DELAY)
    assert len(shown) == 1


async def test_steps_that_are_done_while_the_bar_is_being_made_do_no_harm(monkeypatch):
    bar = Bar("Computing", 10, threading.Lock(), on_output=False)
    add_task = Progress.add_task

    def slowly(self, *args, **fields):
        bar.advance()
        return add_task(self, *args, **fields)

    monkeypatch.setattr(Progress, "add_task", slowly)
    with bar.shown(visible=False):
        bar._show()
        bar.advance()
        assert bar._progress.tasks[0].completed == 2
