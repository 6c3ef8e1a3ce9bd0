"""A hint while an answer is awaited: no worker takes tasks from the queue, and another queue may be right."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

from fibo_client.celery.inspect import queue_names, task_names
from fibo_client.cli.runner import INSPECT_TIMEOUT
from fibo_client.errors import FiboError
from fibo_client.text import listed, printable, short_repr

if TYPE_CHECKING:
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

__all__ = ["QueueHint"]

DELAY: Final = 2.0
"""Seconds without an answer after which the workers are asked."""


class QueueHint:
    """Asks the workers once, in the background, who serves a queue, and tells if nobody does.

    Leaving its context ends the question: no answer waits for it.

    Args:
        client: An open client.
        console: Where to tell.
        task: The name of the awaited task. None is not known.
        queue: The queue that it was sent to. None is not known: then nothing is asked.
    """

    def __init__(self, client: FiboClient, console: Console, *, task: str | None, queue: str | None) -> None:
        self._client = client
        self._console = console
        self._task = task
        self._queue = queue
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        if self._asking is not None:
            # Its outcome matters to no answer.
            await asyncio.gather(self._asking, return_exceptions=True)

    def start(self) -> None:
        """Ask after `DELAY`, unless cancelled before. Only the first call has an effect."""
        if self._asking is None and self._queue is not None:
            self._asking = asyncio.create_task(self._ask(self._queue))

    def cancel(self) -> None:
        """Do not ask: there is an answer, or the wait is over."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, queue: str) -> None:
        await asyncio.sleep(DELAY)
        with contextlib.suppress(FiboError):  # The command itself reports outages.
            if (found := await self._find(queue)) is not None:
                self._console.info(f"Still waiting: {found}")

    async def _find(self, queue: str) -> str | None:
        """Find why nobody takes the task. None if somebody does, or may."""
        celery = self._client.celery
        depth = await celery.queue_depth(queue)
        if depth == 0:
            return None  # A worker has taken the task.
        inspect = celery.inspect(timeout=INSPECT_TIMEOUT)
        listening, queues, registered = await asyncio.gather(
            celery.worker_count(), inspect.active_queues(), inspect.registered()
        )
        served = {node: queue_names(answer) for node, answer in queues.items()}
        if (listening or 0) > len(served) or any(queue in names for names in served.values()):
            return None  # One that did not answer, such as a busy solo pool, may take it.
        if not served:
            waits = f"{depth} {'message waits' if depth == 1 else 'messages wait'} in {short_repr(queue)}"
            return f"no worker answers on this broker (one without remote control is not seen); {waits}"
        knowing = [node for node in served if self._task in task_names(registered.get(node))]
        others = sorted({name for node in knowing for name in served[node]})
        if others:
            know = f"{listed(knowing, printable, most=3)} {'knows' if len(knowing) == 1 else 'know'} the task"
            advice = f"{know}: --queue {listed(others, printable, most=5)}"
        else:
            advice = "no worker that answered knows the task"
        return f"no worker takes tasks from {short_repr(queue)}; {advice}"
