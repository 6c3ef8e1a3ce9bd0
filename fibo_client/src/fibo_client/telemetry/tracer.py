"""The contract of a tracer, the no-op tracer, and a wrapper that keeps a tracer's errors from the client."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NESTED", "NOOP_SPAN", "NOOP_TRACER", "SendSpan", "Server", "SharedSpan", "Tracer", "guarded"]

logger: Final = logging.getLogger("fibo_client")

NESTED: Final = "headers"
"""The header that a task finds as ``self.request.headers``, if the message has it. It is a dict. When a worker retries
the task, it sends the items of this dict as the headers of the next message. On the worker's side, Sentry's integration
for Celery reads only this header. Source: its ``_wrap_tracer``."""

_NO_HEADERS: Final[Mapping[str, Any]] = {}


class Server(NamedTuple):
    """The broker that messages go to.

    Attributes:
        system: The kind of broker, such as ``redis``.
        address: Its host, or the path of its socket. None if only Sentinels know it.
        port: Its port, if it has one.
    """

    system: str
    address: str | None = None
    port: int | None = None


class SendSpan(Protocol):
    """The span of messages that are sent together: from making the first to knowing the outcome of all.

    If the client refuses the messages before it sends any, `end` is never called.
    """

    def inject(self, task: str, task_id: str) -> Mapping[str, Any]:
        """Return headers for a message that was just made.

        Args:
            task: The task's name.
            task_id: The task's id.

        Returns:
            Texts, for the top level of the message. The client leaves out names of the protocol, and those of the
            caller's own headers. One header, ``headers``, may be a dict, as some tools read only that: the task then
            finds its items in ``self.request.headers``, together with the caller's headers, and they win over the
            caller's.
        """
        ...

    def link(self) -> None:
        """Link the current caller to the message that it shares. It may also be the caller that started the span."""
        ...

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """End the span. The client calls it once, when it knows the outcome of all messages.

        Args:
            sent: How many messages the broker accepted.
            failed: How many messages the client tried to send without knowing that the broker accepted them.
            error: Why not all were sent; None if they were.
        """
        ...


@runtime_checkable
class Tracer(Protocol):
    """Traces the messages that a client sends. It runs on the event loop, and must not block.

    The client logs what it raises, and goes on without it. OpenTelemetry's own ``Tracer`` is another class.
    """

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> SendSpan:
        """Start the span of messages that the client is about to make and send, below the current caller's.

        Args:
            queue: The queue.
            server: The broker.
            batch: Whether there may be several messages.
            headers: The caller's own headers.

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


class SharedSpan:
    """A span that several jobs share, which are sent together. It ends with the last of them.

    Args:
        span: The span.
    """

    def __init__(self, span: SendSpan) -> None:
        self._span = span
        self._expected: int | None = None
        self._ended = 0
        self._sent = 0
        self._failed = 0
        self._error: Exception | None = None

    def inject(self, task: str, task_id: str) -> Mapping[str, Any]:
        """See `SendSpan.inject`."""
        return self._span.inject(task, task_id)

    def link(self) -> None:
        """See `SendSpan.link`."""
        self._span.link()

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """Take the end of one of the jobs."""
        self._ended += 1
        self._sent += sent
        self._failed += failed
        self._error = self._error or error
        self._end_if_over()

    def expect(self, count: int) -> None:
        """Say how many jobs there are, once that is known."""
        self._expected = count
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._expected and self._ended == self._expected:
            self._span.end(sent=self._sent, failed=self._failed, error=self._error)


class _NoopTracer:
    """A tracer that records nothing."""

    __slots__ = ()

    def start_send(self, *_: object, **__: object) -> SendSpan:
        """See `Tracer.start_send`."""
        return NOOP_SPAN


NOOP_TRACER: Final = _NoopTracer()
"""The no-op tracer."""


def guarded(tracer: Tracer | None) -> Tracer:
    """Wrap a tracer so that it logs its errors and raises none. None gives the no-op tracer."""
    return NOOP_TRACER if tracer is None else _GuardedTracer(tracer)


class _GuardedTracer:
    """A tracer that logs its errors: the first at ERROR, the others at DEBUG, each with its traceback.

    As a context manager, it logs and suppresses the error of a block.
    """

    __slots__ = ("_has_failed", "_tracer")

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._has_failed = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        level = logging.DEBUG if self._has_failed else logging.ERROR
        self._has_failed = True
        logger.log(level, "the telemetry failed; calls go on without it", exc_info=True)
        return True

    def start_send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any]) -> SendSpan:
        """See `Tracer.start_send`."""
        with self:
            span = self._tracer.start_send(queue, server, batch=batch, headers=headers)
            return _GuardedSpan(self, span)
        return NOOP_SPAN


class _GuardedSpan:
    """A span that logs its errors and raises none."""

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
