"""Find out whether any worker listens at all, so that a timeout error can say so.

The client asks in the background, shortly before a caller's time is up, so that no deadline waits for it. The question
is a ping that asks for no reply: the broker itself counts the listeners.
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
"""Seconds for which the finding that no worker listens is valid."""

AGAIN_IF_NOBODY: Final = 1.0
"""Seconds until the probe asks again, if no worker listened."""

AGAIN_IF_SOMEBODY: Final = 10.0
"""Seconds until the probe asks again, if a worker listened. Each question costs the workers a little."""


class WorkerProbe:
    """Tells whether no worker listens on a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._task: asyncio.Task[None] | None = None
        self._listening: int | None = None
        self._answered = -math.inf
        self._next = -math.inf

    @property
    def nobody(self) -> bool:
        """Whether the probe knows that no worker listens at present."""
        return self._listening == 0 and asyncio.get_running_loop().time() - self._answered < FRESH

    def ask(self) -> None:
        """Ask in the background, unless the last question is too recent."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next and self._broker.unusable is None:
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
            self._listening = None  # The callers' own errors report the outage.
            # A refusal, such as by an ACL, is permanent: another question would only fill the server's ACL log.
            again = math.inf if error.refused else AGAIN_IF_NOBODY
        self._answered = loop.time()
        self._next = self._answered + again
