"""``fibo-worker demo``: a client and a real worker do the whole job once, from values to answers."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from fibo_client import FIBO_TASK, FiboClient
from fibo_client.contract import fibo_message
from fibo_worker.dev import running
from fibo_worker.fibonacci import decimal, fibonacci
from fibo_worker.signals import cancelled_by_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_SHARED_QUEUE: Final = "fibo.demo"
"""The queue on a Redis that the user named. There, ``celery`` may have workers that do not know these tasks."""

_LONGEST: Final = 400
"""The most characters of a sentence to print. The one with F(10000000) has two million."""


def run(
    values: Sequence[int],
    *,
    broker_url: str | None,
    result_backend: str | None,
    batch: int,
    timeout: float,
) -> bool:
    """Run the demo.

    Args:
        values: The indexes to send first, one task each.
        broker_url: The Redis to use. None starts a private one.
        result_backend: Where results are stored. None is the broker's URL.
        batch: How many numbers to compute at the end.
        timeout: The most seconds that each step may take.

    Returns:
        Whether every answer was right.

    Raises:
        StartError: A server could not be started.
        FiboError: An answer did not come.
        KeyboardInterrupt: A signal came; see `fibo_worker.signals.interruptible`.
    """
    started = time.perf_counter()
    shared = broker_url is not None
    with running(
        broker_url,
        result_backend=result_backend if shared else None,
        queue=_SHARED_QUEUE if shared else "celery",
    ) as here:
        what = "A worker" if shared else "A private Redis and a worker"
        click.echo(f"{what} started in {time.perf_counter() - started:.1f} s")
        try:
            return asyncio.run(_show(here.url, here.result_backend, here.queue, values, batch, timeout))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _show(
    broker_url: str, result_backend: str, queue: str, values: Sequence[int], batch: int, timeout: float
) -> bool:
    client = FiboClient(broker_url, result_backend, queue=queue, timeout=timeout)
    with cancelled_by_signals():
        async with client:
            right = await _show_values(client, values)
            right &= await _show_root(client)
            right &= await _show_batch(client, batch)
    if not right:
        click.echo("Some answers were wrong.", err=True)
    return right


async def _show_values(client: FiboClient, values: Sequence[int]) -> bool:
    started = time.perf_counter()
    handles = await client.submit_many(values, task=FIBO_TASK)
    for handle, ready in zip(handles, await client.ready(handles), strict=True):
        if not ready:
            click.echo(f"Task [{handle.id}] is not ready")
    answers = await asyncio.gather(*(handle.get() for handle in handles))
    took = time.perf_counter() - started
    right = True
    for handle, value, (n, message) in zip(handles, values, answers, strict=True):
        text = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}... ({len(message)} characters in all)"
        click.echo(f"Value [{n}] -> {text}")
        right &= (n, message) == (value, fibo_message(handle.id, decimal(fibonacci(value))))
    click.echo(f"{len(values)} values, one task each: {took * 1000:.0f} ms")
    return right


async def _show_root(client: FiboClient) -> bool:
    started = time.perf_counter()
    root = await client.sqrt(4)
    click.echo(f"The square root of 4 is {root} ({(time.perf_counter() - started) * 1000:.0f} ms)")
    return root == 2.0


async def _show_batch(client: FiboClient, size: int) -> bool:
    started = time.perf_counter()
    progress = _Progress(size)
    right = 0
    async with client.stream(range(size)) as results:
        async for n, value in results:
            right += value == fibonacci(n)
            progress.advance()
    took = time.perf_counter() - started
    click.echo(f"F(0) to F({size - 1}): {right} of {size} answers right, {took:.2f} s, {size / took:,.0f} numbers/s")
    return right == size


class _Progress:
    """One line that overwrites itself on a terminal, or a few plain lines elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._terminal = sys.stdout.isatty()
        self._step = max(1, total // (100 if self._terminal else 4))
        self._next = self._step

    def advance(self) -> None:
        self._done += 1
        if self._done < min(self._next, self._total):
            return
        self._next += self._step
        text = f"{self._done} of {self._total} numbers"
        if not self._terminal:
            click.echo(text)
        else:
            click.echo(f"\r{text}", nl=self._done == self._total)
