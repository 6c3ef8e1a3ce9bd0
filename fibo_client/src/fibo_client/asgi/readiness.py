"""Whether a worker answers, for the probes of a load balancer or an orchestrator."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import math
from typing import TYPE_CHECKING, Final

from fibo_client.errors import FiboError, NotReadyError

if TYPE_CHECKING:
    from fibo_client.celery import CeleryClient, WorkerInfo

FAILURE_AGE: Final = 1.0
"""The most seconds for which it counts that no worker answered: a service that is ready again is to be used again."""


class Readiness:
    """Tells whether a worker answers, without a question for each probe.

    An answer counts for some seconds, and there is one question at a time, however many probes come meanwhile.

    Args:
        client: The client, open. That of a `FiboClient` is its ``celery``.
        timeout: Seconds that a worker has to answer, and that a probe waits at most.
        max_age: Seconds for which an answer counts. That there was none counts for a second at most.

    Raises:
        ValueError: One of the times is not a number of seconds, or the timeout is 0.
    """

    def __init__(self, client: CeleryClient, *, timeout: float = 1.0, max_age: float = 5.0) -> None:
        for name, seconds, least in (("timeout", timeout, 0.001), ("max_age", max_age, 0)):
            if not (math.isfinite(seconds) and seconds >= least):
                raise ValueError(f"{name} must be a number of seconds and at least {least}, not {seconds}")
        self._client = client
        self._timeout = timeout
        self._max_age = max_age
        self._answer: list[WorkerInfo] | FiboError = []
        self._valid_until = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def check(self) -> list[WorkerInfo]:
        """Check that a worker answers, or did so a moment ago.

        Returns:
            The workers that answered.

        Raises:
            NotReadyError: None did in time.
            TransportError: The broker could not be asked.
            ClientStateError: The client is not open here.
        """
        self._client.check()
        loop = asyncio.get_running_loop()
        if loop.time() >= self._valid_until:
            if self._asking is None or self._asking.done():
                # Of its own: a probe that is cancelled takes nothing from the others.
                self._asking = loop.create_task(
                    self._ask(), name="fibo_client.readiness", context=contextvars.Context()
                )
            done, _ = await asyncio.wait([self._asking], timeout=self._timeout)
            if not done:
                raise NotReadyError(self._timeout)
            self._asking.result()
        if isinstance(self._answer, FiboError):
            error = copy.copy(self._answer)  # Each caller gets a traceback of its own.
            raise error
        return list(self._answer)

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._answer = await self._client.ping(timeout=self._timeout) or NotReadyError(self._timeout)
        except FiboError as error:
            self._answer = error.with_traceback(None)
        failed = isinstance(self._answer, FiboError)
        self._valid_until = loop.time() + (min(FAILURE_AGE, self._max_age) if failed else self._max_age)
