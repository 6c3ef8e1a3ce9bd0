"""What takes the replies of Redis, in the order of the commands, and refuses those that a command does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from fibo_client.celery.redis.commands import ITEMS, KINDS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from fibo_client.celery.redis.commands import Command


class ReplyHandler(Protocol):
    """Whoever is owed a reply."""

    def set_result(self, reply: Any, /) -> None:
        """Take the reply: bytes, a number, a list, None, or a `hiredis.ReplyError`.

        Raises:
            WrongReplyError: The command has no such replies. The connection is given up, and `set_exception` is told.
        """
        ...

    def set_exception(self, error: BaseException, /) -> None:
        """Learn that none will come."""
        ...


class WrongReplyError(Exception):
    """A command was given a reply that it does not have: some replies may have gone to others.

    Attributes:
        owed: Who was owed another reply.
    """

    def __init__(self, owed: ReplyHandler, command: Command) -> None:
        self.owed: ReplyHandler = owed
        super().__init__(f"an answer that {command[0]!s} does not have")


class PipelineReplies:
    """The replies to several commands that were written together."""

    __slots__ = ("_commands", "_replies", "future")

    def __init__(self, future: asyncio.Future[list[Any]], commands: Sequence[Command]) -> None:
        self.future: asyncio.Future[list[Any]] = future
        self._replies: list[Any] = []
        self._commands = commands

    def set_result(self, reply: Any, /) -> None:
        """See `ReplyHandler`."""
        replies, commands = self._replies, self._commands
        command = commands[len(replies)]
        name, kind = command[0], type(reply)
        if kind not in KINDS.get(name, (kind,)):
            raise WrongReplyError(self, command)
        if kind is list and name in ITEMS:
            is_short = name == "MGET" and len(reply) != len(command) - 1
            if is_short or not ITEMS[name].issuperset(map(type, reply)):
                raise WrongReplyError(self, command)
        replies.append(reply)
        if len(replies) == len(commands) and not self.future.done():
            self.future.set_result(replies)

    def set_exception(self, error: BaseException, /) -> None:
        """See `ReplyHandler`."""
        if not self.future.done():
            self.future.set_exception(error)


class SubscribeReply:
    """What SUBSCRIBE or UNSUBSCRIBE is owed: a push for each channel, or one error for all of them.

    Attributes:
        left: How many pushes are still to come.
        end: Is given None after the last one, or the error.
    """

    __slots__ = ("end", "left")

    def __init__(self, left: int, end: Callable[[object], None]) -> None:
        self.left: int = left
        self.end: Callable[[object], None] = end

    def set_result(self, reply: object, /) -> None:
        """See `ReplyHandler`."""
        self.end(reply)

    def set_exception(self, error: BaseException, /) -> None:
        """See `ReplyHandler`. The listener learns of it, too."""


class _Ignored:
    """Is owed a reply that nobody wants."""

    def set_result(self, reply: Any, /) -> None:
        """See `ReplyHandler`."""

    def set_exception(self, error: BaseException, /) -> None:
        """See `ReplyHandler`."""


IGNORED: Final = _Ignored()
