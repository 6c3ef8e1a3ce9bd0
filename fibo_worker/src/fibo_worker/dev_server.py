"""``fibo-worker dev``: a private Redis and a worker in the foreground, until a signal ends them."""

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
    """Run a private Redis and a worker, and show the worker's log. It ends by an exception only.

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
                time.sleep(0.2)  # Neither a file nor a child of a child tells when there is more to say.
