"""``fibo-worker dev``: the private Redis and its worker in the foreground, until a signal ends them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import click

from fibo_worker.dev import running

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cancelled_by_signals", "interruptible", "serve"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WELCOME: Final = """\
A private Redis and a worker are running. Use them from another terminal:

    export CELERY_BROKER_URL={url}
    fibo-worker health

or from Python:

    import asyncio
    from fibo_client import FiboClient

    async def main():
        async with FiboClient("{url}") as client:
            print(await client.fibonacci(10))

    asyncio.run(main())

Ctrl-C stops both."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP end the block, and let no further one disturb its end.

    Yields:
        None.

    Raises:
        KeyboardInterrupt: One of these signals came.
    """

    def stop(_number: int, _frame: Any) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    # Under nohup, SIGHUP is ignored, and is to stay so.
    wanted = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """Inside `interruptible`, let the signal cancel the asyncio task that runs the block.

    An exception that is raised wherever the event loop happens to be may end another task than the one that should
    know. When the task has ended, its runner finds CancelledError.

    Yields:
        None.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    handlers = {each: signal.getsignal(each) for each in _SIGNALS}
    caught = [each for each, handler in handlers.items() if handler != signal.SIG_IGN]

    def stop() -> None:
        for each in caught:
            loop.remove_signal_handler(each)
            handlers[each] = signal.SIG_IGN
            signal.signal(each, signal.SIG_IGN)
        if task is not None:
            task.cancel()

    for each in caught:
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in caught:
            loop.remove_signal_handler(each)
            signal.signal(each, handlers[each])


def serve(*, concurrency: int, port: int) -> None:
    """Run a private Redis and a worker, and show what the worker logs. It ends by an exception only.

    Args:
        concurrency: How many tasks the worker runs at a time.
        port: The port of the Redis. 0 is any that is free.

    Raises:
        StartError: One of them could not be started, or ended by itself.
    """
    with running(concurrency=concurrency, port=port) as here:
        click.echo(_WELCOME.format(url=here.url))
        with here.worker.log.open(errors="replace") as log:
            log.seek(0, 2)
            while True:
                if text := log.read():
                    click.echo(text, nl=False, err=True)
                here.worker.check()
                if here.redis is not None:
                    here.redis.check()
                time.sleep(0.2)
