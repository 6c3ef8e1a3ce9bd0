"""One connection to a Redis server: commands leave at once, replies are matched with them in order, pushes go apart.

Nothing here belongs to a caller. One who leaves abandons a future; its reply is taken off the wire all the same, so
the next one's reply is its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import hiredis

from fibo_client.celery.redis.errors import (
    CLOSED,
    IS_IT_WELL,
    GivenUpError,
    RedisFaultError,
    ReplyTooLargeError,
    explain,
    without_traceback,
)
from fibo_client.celery.redis.replies import PipelineReplies, SubscribeReply, WrongReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.replies import ReplyHandler

READ_SIZE: Final = 64 * 1024
"""The most bytes that are read at a time. hiredis moves what it has not parsed, which takes long for much."""

BUDGET: Final = 0.0005
"""Seconds that replies may take before the event loop has its turn. They are more than a `Budget` gives, whose methods
would cost a call a reply: to stop reading and begin anew takes two calls of the system."""

SUSPECT_AFTER: Final = 1.0
"""Seconds without an answer after which another connection is tried: this one may have died without a word."""

MOST_STRINGS: Final = 4
"""A reply may have so many times the bytes that one string of it may have."""

PATIENCE: Final = 2
"""A reply must be whole after so many times the time limit, though bytes come all the time;"""

SLOWEST: Final = 64 * 1024
"""a second later for each of so many bytes of it that have come."""

_EACH: Final = 16
"""So many replies are taken between two looks at the clock, which costs as much as a reply."""

_NOTHING: Final = object()
"""What hiredis returns while a reply is incomplete."""

_PROTOCOL_ERRORS: Final = (hiredis.ProtocolError, TypeError, MemoryError)
"""What hiredis raises over bytes that no Redis writes: also over a list as the key of a dict, and over a huge list."""

_LIKE_PUSHES: Final = (b"message", b"subscribe", b"unsubscribe")

# hiredis declares commands of one word.
pack: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""Write a command as Redis reads it."""


class Listener(Protocol):
    """Whoever has the connection."""

    def suspected(self, connection: Connection) -> None:
        """Learn that an answer has been due for `SUSPECT_AFTER`."""
        ...

    def lost(self, connection: Connection, fault: RedisFaultError) -> None:
        """Learn that the connection is gone."""
        ...

    def answered(self, connection: Connection) -> None:
        """Learn that the server has given an answer that is no error, where `reports_recovery` was set."""
        ...


class Subscriber(Protocol):
    """Whoever takes what is pushed."""

    def pushed(self, push: Sequence[Any]) -> None:
        """Take a message on a channel."""
        ...

    def lost(self, fault: RedisFaultError) -> None:
        """Learn that the connection is gone."""
        ...


class Connection(asyncio.BufferedProtocol):
    """A connection, open or lost. It is never opened again.

    Args:
        listener: Whoever has it.
        name: The server, for errors.
        io_timeout: Seconds without any answer, while one is due, after which it is given up.
        max_reply: The most bytes in one string of a reply; the reply may have `MOST_STRINGS` times as many. The
            connection is given up over a longer one.

    Attributes:
        is_lost: Whether it is gone.
        is_usable: Whether something can be written.
        is_resp2: Whether pushes are to be expected on it that look like any other reply, as in RESP2.
        made: When it was made, by the loop's clock.
        heard: When something came last.
        reports_recovery: Whether the listener wants to know that the server answers. It is told once.
        is_proven: Whether the server has answered on it, other than with errors, since it was ready for use.
        subscriber: Takes what is pushed. None is nobody.
    """

    def __init__(self, listener: Listener, name: str, io_timeout: float, max_reply: int) -> None:
        self._listener = listener
        self._name = name
        self._io_timeout = io_timeout
        self._max_reply = max_reply
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(notEnoughData=_NOTHING)
        # hiredis takes any buffer, and declares bytes.
        self._feed = cast("Callable[[bytearray, int, int], None]", self._parser.feed)
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.Transport
        self._unanswered: deque[ReplyHandler] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0.0
        self._replied = 0.0
        """When a whole reply came last."""
        self._incomplete = 0
        """How many bytes have come since."""
        self._suspected = -math.inf
        """The start of the silence that was reported last, so that each silence is reported once."""
        self.is_resp2: bool = False
        self._last_error_reply: hiredis.ReplyError | None = None
        self._is_retired = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.is_lost: bool = False
        self.is_usable: bool = True
        self.reports_recovery: bool = False
        self.is_proven: bool = False
        self.subscriber: Subscriber | None = None
        self.made: float = self._loop.time()
        self.heard: float = self.made

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self.heard = self._loop.time()
        self._incomplete += nbytes
        self._feed(self._buffer, 0, nbytes)
        try:
            is_done = self._take_replies()
        except (WrongReplyError, *_PROTOCOL_ERRORS) as error:
            if isinstance(error, WrongReplyError):
                self._unanswered.appendleft(error.owed)  # It is told what the others are told.
            self.abort(self.fault("unknown", f"Protocol error: {explain(error)}"), error)
            return
        if self.is_lost:
            return
        if self._parser.len() > self._max_reply or self._incomplete > MOST_STRINGS * self._max_reply:
            self._refuse_reply()
        elif not is_done:
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)
        elif self._is_retired and not self._unanswered:
            self.close()

    def eof_received(self) -> bool:
        """See `asyncio.BaseProtocol`."""
        self.is_usable = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        # A server may say why it closes the connection, right before.
        cause = (
            self._last_error_reply if self._last_error_reply and self._loop.time() < self.heard + SUSPECT_AFTER else exc
        )
        self._lose(self.fault("unknown", explain(cause) if cause else CLOSED), cause)
        if not self._closed.done():
            self._closed.set_result(None)

    # Replies.

    def _take_replies(self) -> bool:
        """Take what has come; tell whether that is all, or else the event loop should have its turn."""
        gets, owed = self._parser.gets, self._unanswered
        count, end, last, is_unasked, is_done = 0, 0.0, None, False, True
        while (reply := gets()) is not _NOTHING:
            if type(reply) is hiredis.PushNotification or (self.is_resp2 and _is_like_push(reply)):
                if not reply or reply[0] != b"message":
                    self._take_confirmation(reply)
                elif self.subscriber is not None:
                    self.subscriber.pushed(reply)
            elif owed:
                owed.popleft().set_result(reply)
            elif isinstance(reply, hiredis.ReplyError):
                is_unasked = True
            else:
                raise hiredis.ProtocolError("an answer that nobody asked for")
            count, last = count + 1, reply
            if not count % _EACH:
                now = time.perf_counter()
                if not end:
                    end = now + BUDGET
                elif now > end:
                    is_done = False
                    break
        if count:
            self._incomplete, self._replied = 0, self.heard
        is_error = isinstance(last, hiredis.ReplyError)
        # Who was answered with the last error was refused that one thing. It says nothing of the connection.
        self._last_error_reply = last if is_error and (owed or is_unasked) else None
        if self.reports_recovery and count and not is_error:
            self.reports_recovery = False
            self._listener.answered(self)
        return is_done

    def _go_on(self) -> None:
        if not self.is_lost:
            self._transport.resume_reading()
            self.buffer_updated(0)

    def _take_confirmation(self, push: Sequence[Any]) -> None:
        if not push:
            raise hiredis.ProtocolError("an empty push")
        if push[0] not in (b"subscribe", b"unsubscribe"):
            return
        entry = self._unanswered[0] if self._unanswered else None
        if not isinstance(entry, SubscribeReply):
            raise hiredis.ProtocolError("a confirmation that nobody asked for")
        entry.left -= 1
        if not entry.left:
            self._unanswered.popleft()
            entry.end(None)

    def _refuse_reply(self) -> None:
        """Give the connection up over a reply that is too large: none of it shall be in memory."""
        reason = f"an answer has more than the {self._max_reply} bytes that are taken"
        if self._incomplete > MOST_STRINGS * self._max_reply:
            reason = f"an answer has more than the {MOST_STRINGS * self._max_reply} bytes that are taken together"
        if self._unanswered:
            self._unanswered.popleft().set_exception(ReplyTooLargeError("refused", f"{self._name}: {reason}"))
        self.abort(GivenUpError("unknown", f"{self._name}: the connection was given up: {reason}"))

    # Commands.

    @property
    def is_idle(self) -> bool:
        """Whether no answer is due."""
        return not self._unanswered

    def write(self, data: bytes, owed: Iterable[ReplyHandler]) -> None:
        """Send packed commands. It must be usable.

        Args:
            data: The commands.
            owed: Who is owed their replies, in order.
        """
        if not self._unanswered:
            self._asked = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(min(SUSPECT_AFTER, self._io_timeout), self._look)
        self._unanswered.extend(owed)
        self._transport.write(data)

    def request(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands together.

        Args:
            commands: The commands; at least one.

        Returns:
            Their replies, in order. One that is an error is a `hiredis.ReplyError`.
        """
        answers = PipelineReplies(self._loop.create_future(), commands)
        self.write(b"".join(map(pack, commands)), [answers] * len(commands))
        return answers.future

    def _look(self) -> None:
        """Look whether an answer has been due for too long."""
        self._timer = None
        if self.is_lost or not self._unanswered:
            return
        since, now = max(self.heard, self._asked), self._loop.time()
        silent = now - since
        if silent >= self._io_timeout - 0.001:
            self.abort(self.fault("unknown", f"no answer within {self._io_timeout:g} s. {IS_IT_WELL}"), TimeoutError())
            return
        patience = PATIENCE * self._io_timeout + self._incomplete / SLOWEST
        if now - max(self._replied, self._asked) >= patience:
            self.abort(self.fault("unknown", f"no whole answer within {patience:g} s. {IS_IT_WELL}"), TimeoutError())
            return
        end = since + SUSPECT_AFTER
        if silent >= SUSPECT_AFTER - 0.001:
            if self._suspected != since:
                self._suspected = since
                self._listener.suspected(self)
            end = now + SUSPECT_AFTER  # It may answer, and fall silent anew.
        self._timer = self._loop.call_at(min(end, since + self._io_timeout), self._look)

    # The end.

    def fault(self, outcome: Any, reason: str) -> RedisFaultError:
        """Make an error of this server."""
        return RedisFaultError(outcome, f"{self._name}: {reason}")

    def abort(self, fault: RedisFaultError, cause: BaseException | None = None) -> None:
        """Close the connection at once. What was not answered has an unknown outcome."""
        self._transport.abort()
        self._lose(fault, cause)

    def close(self) -> None:
        """Close the connection once what was written has left."""
        self.is_usable = False
        self._transport.close()

    def retire(self) -> None:
        """Write nothing more, and close the connection once nobody is owed a reply."""
        self._is_retired, self.is_usable = True, False
        if not self._unanswered:
            self.close()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._closed

    def _lose(self, fault: RedisFaultError, cause: BaseException | None) -> None:
        if self.is_lost:
            return
        self.is_lost, self.is_usable = True, False
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(cause, Exception):
            fault.__cause__ = without_traceback(cause)
        while self._unanswered:
            self._unanswered.popleft().set_exception(fault.again())
        self._listener.lost(self, fault)
        if self.subscriber is not None:
            self.subscriber.lost(fault)


def _is_like_push(reply: object) -> bool:
    return type(reply) is list and bool(reply) and reply[0] in _LIKE_PUSHES
