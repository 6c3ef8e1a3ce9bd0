"""The first signal ends a command in order, and no further one disturbs that."""

from __future__ import annotations

import asyncio
import signal

import pytest

from fibo_worker.signals import cancelled_by_signals, interruptible

each_signal = pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of a program that nobody runs under nohup. In the end they are back."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, signal.default_int_handler) for each in signals}
    yield
    now = {each: signal.signal(each, handler) for each, handler in before.items()}
    assert set(now.values()) == {signal.default_int_handler}


@each_signal
def test_the_first_signal_ends_the_block_and_no_further_one_disturbs_its_end(sig):
    ended = False

    def serve():
        nonlocal ended
        with interruptible():
            try:
                signal.raise_signal(sig)
            finally:
                for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.raise_signal(each)
                ended = True

    with pytest.raises(KeyboardInterrupt):
        serve()
    assert ended


@each_signal
def test_in_an_event_loop_it_cancels_the_task_that_runs_the_block(sig):
    async def serve():
        with cancelled_by_signals():
            asyncio.get_running_loop().call_soon(signal.raise_signal, sig)
            try:
                await asyncio.Event().wait()
            finally:
                signal.raise_signal(sig)
                await asyncio.sleep(0)  # Here a second cancellation would strike.

    def run():
        with interruptible():
            asyncio.run(serve())

    with pytest.raises(asyncio.CancelledError):
        run()


def test_what_nohup_has_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
