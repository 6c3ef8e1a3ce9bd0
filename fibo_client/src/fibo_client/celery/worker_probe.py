"""Whether any worker is there at all: the first thing to know of an answer that does not come.

It is asked when somebody's time is nearly up, in the background, so that the error can say it and no deadline waits for
it. The question is a ping that wants no answer: the broker counts who listens.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from typing import TYPE_CHECKING, Final

from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.errors import TransportError

if TYPE_CHECKING:
    from fibo_client.celery.brokers.base import Broker

FRESH: Final = 2.0
"""Seconds for which it is believed that nobody is there."""

AGAIN_IF_NOBODY: Final = 1.0
"""Seconds until the question may be put again when nobody listened."""

AGAIN_IF_SOMEBODY: Final = 10.0
"""The same when somebody did, whom it costs a little."""


class WorkerProbe:
    """What is known of whether workers are there.

    Args:
        broker: Where they would listen.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._task: asyncio.Task[None] | None = None
        self._listening: int | None = None
        self._told = -math.inf
        self._next = -math.inf

    @property
    def nobody(self) -> bool:
        """Whether it is known, of this moment, that no worker listens."""
        return self._listening == 0 and asyncio.get_running_loop().time() - self._told < FRESH

    def ask(self) -> None:
        """Put the question in the background, unless it was put lately."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next:
            self._next = math.inf
            self._task = loop.create_task(self._ask(), name="fibo_client.worker_probe", context=contextvars.Context())

    async def aclose(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._listening = await self._broker.broadcast(ControlRequest(method="ping"))
            again = AGAIN_IF_SOMEBODY if self._listening else AGAIN_IF_NOBODY
        except TransportError as error:
            self._listening = None  # Those whose calls fail say why it cannot be asked.
            # A broker that refuses would refuse again.
            again = math.inf if error.refused else AGAIN_IF_NOBODY
        self._told = loop.time()
        self._next = self._told + again
