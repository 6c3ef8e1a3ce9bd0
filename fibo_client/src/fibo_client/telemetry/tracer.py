"""The contract of a recorder, the one that records nothing, and what keeps a recorder's errors from its client."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SILENCE", "Recorder", "Sending", "Server", "guarded"]

logger: Final = logging.getLogger("fibo_client")

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


class Sending(Protocol):
    """Messages that somebody sends together, from when the first is made until it is known what became of all.

    A sending whose messages are refused before any is sent has no end.
    """

    def carry(self, task: str, task_id: str) -> Mapping[str, Any]:
        """Take note that a message was made, and give headers for it.

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

    def share(self, origin: Any) -> None:
        """Take note that the message works for one more caller. It may be the one that it was begun for.

        Args:
            origin: The caller's, from `Recorder.capture`.
        """
        ...

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """Take note of what became of the messages. Once.

        Args:
            sent: How many the broker has taken.
            failed: How many were tried to be sent, and are not known to have been taken.
            error: Why not all were sent; None if they were.
        """
        ...


@runtime_checkable
class Recorder(Protocol):
    """Is told of the messages that a client sends. It runs on the event loop, and must not block.

    What it raises is logged, and changes nothing for the client.
    """

    def capture(self) -> Any:
        """Give the context of who runs now, for a `send` or `share` that comes later and from elsewhere.

        Returns:
            The context, for this recorder only; None if there is nothing to remember.
        """
        ...

    def send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any], origin: Any) -> Sending:
        """Take note that somebody begins to send.

        Args:
            queue: The queue.
            server: Where it is.
            batch: Whether it may be several messages.
            headers: The headers that the caller gives the messages.
            origin: Who sends, from `capture`. None is who runs now.

        Returns:
            What to tell further.
        """
        ...


class _Silence:
    """Records nothing: a recorder and a sending in one."""

    __slots__ = ()

    def capture(self) -> None:
        """See `Recorder.capture`."""

    def send(self, *_: object, **__: object) -> Sending:
        """See `Recorder.send`."""
        return self

    def carry(self, *_: object, **__: object) -> Mapping[str, Any]:
        """See `Sending.carry`."""
        return _NO_HEADERS

    def share(self, origin: Any) -> None:
        """See `Sending.share`."""

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `Sending.end`."""


SILENCE: Final = _Silence()
"""What a client talks to when nobody wants to know."""


def guarded(recorder: Recorder | None) -> Recorder:
    """Keep a recorder's errors from its client.

    Args:
        recorder: The recorder. None is one that records nothing.

    Returns:
        A recorder that raises nothing.
    """
    return SILENCE if recorder is None else _Guard(recorder)


class _Guard:
    """A recorder whose errors are logged: the first in full, the others at DEBUG.

    As a context manager it ends any block at its first error, logs that, and raises nothing.
    """

    __slots__ = ("_complained", "_recorder")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
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

    def capture(self) -> Any:
        """See `Recorder.capture`."""
        with self:
            return self._recorder.capture()
        return None

    def send(self, queue: str, server: Server, *, batch: bool, headers: Mapping[str, Any], origin: Any) -> Sending:
        """See `Recorder.send`."""
        with self:
            sending = self._recorder.send(queue, server, batch=batch, headers=headers, origin=origin)
            return _GuardedSending(self, sending)
        return SILENCE


class _GuardedSending:
    """A sending whose errors are logged."""

    __slots__ = ("_guard", "_sending")

    def __init__(self, guard: _Guard, sending: Sending) -> None:
        self._guard = guard
        self._sending = sending

    def carry(self, task: str, task_id: str) -> Mapping[str, Any]:
        """See `Sending.carry`."""
        with self._guard:
            return dict(self._sending.carry(task, task_id))
        return _NO_HEADERS

    def share(self, origin: Any) -> None:
        """See `Sending.share`."""
        with self._guard:
            self._sending.share(origin)

    def end(self, *, sent: int, failed: int, error: Exception | None) -> None:
        """See `Sending.end`."""
        with self._guard:
            self._sending.end(sent=sent, failed=failed, error=error)
