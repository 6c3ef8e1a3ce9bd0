"""The contract of a tracer, the no-op one, and what keeps a tracer's errors from its client."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NESTED", "NOOP_SPAN", "NOOP_TRACER", "SendSpan", "Server", "Tracer", "guarded"]

logger: Final = logging.getLogger("fibo_client")

NESTED: Final = "headers"
"""The header that a task finds as ``self.request.headers``, if it is there. It is a dict: a worker that tries the task
again sends what is in it as the headers of the next message. Sentry's integration of Celery looks into no other header
on the worker's side. Source: its ``_wrap_tracer``."""

_NO_HEADERS: Final[Mapping[str, Any]] = {}


class Server(NamedTuple):
    """Where messages are sent.

    Attributes:
        system: What kind of broker it is, such as ``redis``.
        address: Its host or the path of its socket. None where that is not known beforehand: with Sentinels.
        port: Its port, where it has one.
    """

    system: str
    address: str | None = None
    port: int | None = None


class SendSpan(Protocol):
    """The span of messages that are sent together: from making the first until the outcome of all is known.

    A span whose messages are refused before any is sent has no end.
    """

    def inject(self, task: str, task_id: str) -> Mapping[str, Any]:
        """Give headers for a message that was just made.

        Args:
            task: The task's name.
            task_id: The task's id.

        Returns:
            Headers, as text, at the top level of the message. One with a name of the protocol's, or one that the caller
            has given, is left out. One called ``headers`` is a dict: some tools look in that one alone. The task then
            finds what is in it as ``self.request.headers``, and the caller's headers beside it, but for those whose
            names are in it.
        """
        ...

    def link(self) -> None:
        """Link the current caller to the message that works for it, too. It may be the one that started the span."""
        ...

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """End the span, once, when the outcome of all messages is known.

        Args:
            sent: How many the broker has taken.
            failed: How many were tried to be sent, and are not known to have been taken.
            error: Why not all were sent; None if they were.
        """
        ...


@runtime_checkable
class Tracer(Protocol):
    """Traces the messages that a client sends. It runs on the event loop, and must not block.

    What it raises is logged, and changes nothing for the client. OpenTelemetry's own ``Tracer`` is another class.
    """

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> SendSpan:
        """Start the span of messages that are about to be made and sent.

        Args:
            queue: The queue.
            server: Where it is.
            batch: Whether it may be several messages.
            headers: The headers that the caller gives the messages.

        Returns:
            The span.
        """
        ...


class _NoopSpan:
    """A span that records nothing."""

    __slots__ = ()

    def inject(self, *_: object, **__: object) -> Mapping[str, Any]:
        """See `SendSpan.inject`."""
        return _NO_HEADERS

    def link(self) -> None:
        """See `SendSpan.link`."""

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `SendSpan.end`."""


NOOP_SPAN: Final = _NoopSpan()
"""The no-op span."""


class _NoopTracer:
    """A tracer that records nothing."""

    __slots__ = ()

    def start_send(self, *_: object, **__: object) -> SendSpan:
        """See `Tracer.start_send`."""
        return NOOP_SPAN


NOOP_TRACER: Final = _NoopTracer()
"""The no-op tracer."""


def guarded(tracer: Tracer | None) -> Tracer:
    """Keep a tracer's errors from its client.

    Args:
        tracer: The tracer. None is the no-op one.

    Returns:
        A tracer that raises nothing.
    """
    return NOOP_TRACER if tracer is None else _GuardedTracer(tracer)


class _GuardedTracer:
    """A tracer whose errors are logged: the first in full, the others at DEBUG.

    As a context manager it ends any block at its first error, logs that, and raises nothing.
    """

    __slots__ = ("_complained", "_tracer")

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._complained = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        level = logging.DEBUG if self._complained else logging.ERROR
        self._complained = True
        logger.log(level, "the telemetry failed; calls go on without it", exc_info=True)
        return True

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> SendSpan:
        """See `Tracer.start_send`."""
        with self:
            span = self._tracer.start_send(queue, server, batch=batch, headers=headers)
            return _GuardedSpan(self, span)
        return NOOP_SPAN


class _GuardedSpan:
    """A span whose errors are logged."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: _GuardedTracer, span: SendSpan) -> None:
        self._tracer = tracer
        self._span = span

    def inject(self, task: str, task_id: str) -> Mapping[str, Any]:
        """See `SendSpan.inject`."""
        with self._tracer:
            return dict(self._span.inject(task, task_id))
        return _NO_HEADERS

    def link(self) -> None:
        """See `SendSpan.link`."""
        with self._tracer:
            self._span.link()

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `SendSpan.end`."""
        with self._tracer:
            self._span.end(sent=sent, failed=failed, error=error)
