"""Scripts for the Redis server, and connections on which they are called.

A call by redis-py's client takes a connection out of a pool, looks at it and puts it back. That costs a worker more
than the call itself, so these connections are kept: each has one purpose, in one process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import redis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Script", "ScriptConnection", "are_scripts_refused", "of_its_kind"]

_KINDS: Final[Mapping[str, type[redis.ResponseError]]] = {
    "OOM": redis.exceptions.OutOfMemoryError,
    "READONLY": redis.ReadOnlyError,
    "MASTERDOWN": redis.exceptions.MasterDownError,
    "NOPERM": redis.exceptions.NoPermissionError,
}
_KIND: Final = re.compile(rf"\b({'|'.join(_KINDS)}) ")

_FORBIDDEN: Final = "The user executing the script can't"
"""How Redis begins to say that a script did what its user may not do. Redis 7 gives it no code of its own."""


@dataclass(frozen=True, eq=False)
class Script:
    """A script in Lua."""

    text: str
    sha: str = field(init=False)
    """Its name on the server."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class ScriptConnection:
    """A connection to the server of a pool, beside the pool's own, on which one thread at a time calls scripts."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool: Any = pool
        self._connection: Any = None
        self._connected = False
        self._pid = 0
        self._loaded: set[Script] = set()
        self._unanswered: deque[bool] = deque()
        """For each command whose reply was not read yet, whether somebody wants it."""

    def call(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Call a script that may run twice, and wait for its reply. Drop the replies to what was sent before.

        Args:
            script: The script.
            keys: The keys, prefix included.
            arguments: Its other arguments.

        Returns:
            The reply.

        Raises:
            redis.ResponseError: Redis refused the script.
            redis.ConnectionError: The connection was lost, and the script may have run.
            redis.TimeoutError: There was no reply in time, and the script may have run.
        """
        was_connected = self._connected
        try:
            reply = self._call(script, keys, arguments)
        except redis.ConnectionError:
            if not was_connected:
                raise
            # Redis may have closed the connection since its last use.
            reply = self._call(script, keys, arguments)
        if isinstance(reply, redis.exceptions.NoScriptError):
            reply = self._call(script, keys, arguments)
        if isinstance(reply, redis.ResponseError):
            raise reply
        return reply

    def _call(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        self._write(script, keys, arguments)
        return self.replies()[-1]

    def send(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Call a script, and leave its reply to `replies`.

        Args:
            script: The script.
            keys: The keys, prefix included.
            arguments: Its other arguments.

        Raises:
            redis.RedisError: The connection was lost. What was sent before on it may be lost, too.
        """
        if self._connected and not self._unanswered and self._is_closed():
            self.drop()
        self._write(script, keys, arguments)

    def _write(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> None:
        connection = self._ready()
        packed = connection.pack_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        is_new = script not in self._loaded
        if is_new:
            # Each time a server has started, it knows none. Such a connection is a new one then.
            packed = [*connection.pack_command("SCRIPT", "LOAD", script.text), *packed]
            self._loaded.add(script)
        try:
            connection.send_packed_command(packed, check_health=not self._unanswered)
        except BaseException:  # A time limit may end it anywhere.
            self.drop()
            raise
        self._unanswered.extend([False, True] if is_new else [True])

    def replies(self, *, wait: bool = True) -> list[Any]:
        """Read the replies to what was sent since the last time.

        Args:
            wait: Whether to wait for those that have not come yet.

        Returns:
            The replies, in the order of the calls. Those by which Redis refuses something are a redis.ResponseError.

        Raises:
            redis.RedisError: The connection was lost before the last reply, or Redis is read-only.
        """
        found = []
        try:
            while self._unanswered and (wait or self._connection.can_read(timeout=0)):
                reply = self._read()
                if self._unanswered.popleft():
                    found.append(reply)
        except BaseException:  # A reply that is read later would be taken for that to another command.
            self.drop()
            raise
        return found

    def drop(self) -> None:
        """Close the connection. The next call makes one anew."""
        self._unanswered.clear()
        self._loaded.clear()
        self._connected = False
        if self._connection is not None:
            self._connection.disconnect()

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.exceptions.NoScriptError as error:
            self._loaded.clear()
            return error
        except redis.ResponseError as error:
            if isinstance(found := of_its_kind(error), redis.ReadOnlyError):
                raise found from None  # This was the master. A new connection finds the one that is.
            return found

    def _ready(self) -> Any:
        if self._pid != os.getpid():
            # The socket of a process from which this one was forked is not to be touched.
            self._pid = os.getpid()
            self._connection = self._pool.connection_class(**self._pool.connection_kwargs)
            self._loaded.clear()
            self._unanswered.clear()
            self._connected = False
        if not self._connected:
            self._connection.connect()  # Behind Sentinels, sending does not find the master.
            self._connected = True
        return self._connection

    def _is_closed(self) -> bool:
        try:
            # Nothing is due. So this is the end of the connection, or Redis says why it ends.
            return bool(self._connection.can_read(timeout=0))
        except (redis.RedisError, OSError):
            return True


def of_its_kind(error: redis.ResponseError) -> redis.ResponseError:
    """Find out what an error is that a script met. Redis 6.2 puts its code into the text of another one."""
    if type(error) is not redis.ResponseError:
        return error
    if _FORBIDDEN in str(error):
        return redis.exceptions.NoPermissionError(str(error))
    found = _KIND.search(str(error))
    return _KINDS[found[1]](str(error)) if found else error


def are_scripts_refused(error: redis.ResponseError) -> bool:
    """Tell whether an error says that this user may not call scripts, or that this server has none."""
    refused = (redis.exceptions.NoPermissionError, redis.exceptions.NoScriptError)
    return isinstance(error, refused) or "unknown command" in str(error)
