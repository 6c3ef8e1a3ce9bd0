"""The progress bar, which a thread makes while the event loop goes on."""

from __future__ import annotations

import threading

from rich.progress import Progress

from fibo_client.cli.bar import Bar


async def test_steps_that_are_done_while_the_bar_is_being_made_do_no_harm(monkeypatch):
    bar = Bar("Computing", 10, threading.Lock(), on_output=False)
    add_task = Progress.add_task

    def slowly(self, *args, **fields):
        bar.advance()
        return add_task(self, *args, **fields)

    monkeypatch.setattr(Progress, "add_task", slowly)
    with bar.shown(wanted=False):
        bar._show()
        bar.advance()
        assert bar._progress.tasks[0].completed == 2
