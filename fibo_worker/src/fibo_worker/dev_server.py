"""``fibo-worker dev``: a private Redis and a worker, until a signal ends them."""

from __future__ import annotations

import time
from typing import Final

import click

from fibo_worker.dev import running

__all__ = ["serve"]

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


def serve(*, concurrency: int, port: int) -> None:
    """Run a private Redis and a worker, and print the worker's log. It ends only by an exception.

    Args:
        concurrency: How many tasks the worker runs at a time.
        port: The port of the Redis. 0 is any free one.

    Raises:
        StartError: The Redis or the worker could not be started, or ended by itself.
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
                time.sleep(0.2)  # A file does not tell when it has grown.
