"""The progress bar, which a thread makes while the event loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys
import threading

from rich.console import Console
from rich.live_render import LiveRender
from rich.progress import Progress
from support.clock import virtual
from support.waiting import eventually, until

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


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shows(self, frame):
        return frame in self.getvalue()


def on_terminal(monkeypatch):
    """Put a terminal in place of the error output. If a fixture did it, pytest would undo it before the test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


async def test_a_newer_frame_does_not_overtake_the_one_that_is_written_below_an_answer(monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr("fibo_client.cli.bar.DELAY", 0.0)
    lock = threading.Lock()
    bar = Bar("Computing", 10, lock, on_output=False)
    render = Console.render

    def slowly(self, renderable, options=None):
        yield from render(self, renderable, options)
        if isinstance(renderable, LiveRender) and threading.current_thread() is threading.main_thread():
            # It is drawn, and not written yet.
            bar.update(7, 10)
            with contextlib.suppress(AssertionError):
                until(lambda: terminal.shows("7/10"), timeout=0.5)

    async def shown(frame):
        await eventually(lambda: terminal.shows(frame))

    with bar.shown(visible=True):
        await shown("0/10")
        bar.update(5, 10)
        await shown("5/10")
        monkeypatch.setattr(Console, "render", slowly)
        with lock:
            assert bar.print_above("An answer.\n")
        monkeypatch.setattr(Console, "render", render)
        await shown("7/10")
    frames = [int(done) for done in re.findall(r"(\d+)/10", terminal.getvalue())]
    assert frames == sorted(frames)


async def test_the_bar_below_what_is_written_is_as_new_as_that(monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr("fibo_client.cli.bar._REFRESH_PAUSE", 60.0)
    lock = threading.Lock()
    bar = Bar("Computing", 10, lock, on_output=False)
    with bar.shown(visible=False):
        bar._show()
        bar.advance(3)
        with lock:
            assert bar.print_above("An answer.\n")
        assert re.findall(r"(\d+)/10", terminal.getvalue())[-1] == "3"
