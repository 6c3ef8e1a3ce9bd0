"""The marks of deliveries whose task has started. Only those count as lost when their worker is lost.

A worker takes many messages that it does not run yet: those that wait for their ``eta``, and prefetched ones. So the
process that runs a task sets a mark in the broker's Redis right before the task's own code runs. What is taken for a
process that has nothing to do is marked in that step. The acknowledgement removes the mark, in one step with the
message. What is acknowledged early is not marked, for its loss does not count.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
from kombu.transport.redis import SentinelTransport, Transport

from fibo_worker.guard.poison_limit import MARKED
from fibo_worker.guard.scripts import Script, ScriptConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

__all__ = ["LIFE", "StartMarks", "mark_key", "mark_when_started"]

_logger: Final = logging.getLogger(__name__)

LIFE: Final = 7 * 24 * 3600
"""Seconds until a mark expires that nobody removes: a stock worker that restores the message does not."""

# It marks only what is still unacknowledged, so that a delivery that was restored in the meantime leaves no mark.
_MARK: Final = Script("""
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
if redis.call('ZADD', KEYS[1], 'XX', 'CH', now, ARGV[1]) == 0 then
    return 0
end
redis.call('SET', KEYS[2], now, 'EX', ARGV[2])
return 1
""")


def mark_key(unacked_key: str, delivery_tag: str) -> str:
    """Name the key of a delivery's mark. The broker's key prefix precedes it."""
    return f"{unacked_key}_started.{delivery_tag}"


def mark_when_started(app: Celery) -> None:
    """Mark each delivery of an app when its task starts, in whatever process or thread that is.

    Args:
        app: The app, which has read its configuration.
    """
    # A receiver of `task_prerun` would have Celery send that signal for each task, which costs more than all of this.
    loader: Any = app.loader
    if not isinstance(loader.on_task_init, _OnTaskInit):
        loader.on_task_init = _OnTaskInit(app.fibo_guard.started, loader.on_task_init)


class _OnTaskInit:
    """What the loader of an app does before a task, and before that the mark."""

    def __init__(self, marks: StartMarks, found: Callable[[str, Any], object]) -> None:
        self._marks = marks
        self._found = found

    def __call__(self, task_id: str, task: Any) -> None:
        properties = task.request.properties or {}  # A task that is called as a function has none.
        tag = properties.get("delivery_tag")
        if task.acks_late and MARKED not in properties and isinstance(tag, str):
            self._marks.mark(task.app, tag, name=task.name, id=task_id)
        self._found(task_id, task)


class StartMarks:
    """Marks deliveries on the Redis servers that an app's worker may take tasks from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._brokers: list[_Broker] | None = None
        """The one that had the last delivery is the first."""

    def mark(self, app: Celery, tag: str, *, name: str, id: str) -> None:
        """Mark a delivery on the server that has it. If that cannot be reached, the task runs unmarked."""
        what = f"task {name!r:.99} ({id!r:.99})"
        with self._lock:
            if self._brokers is None:
                self._brokers = [_Broker(each) for each in _connections(app)]
            if len(self._brokers) == 1:
                self._brokers[0].send(tag, what)
            elif found := next((each for each in self._brokers if each.mark(tag, what)), None):
                self._brokers.remove(found)
                self._brokers.insert(0, found)


def _connections(app: Celery) -> list[Any]:
    """Return a connection of kombu's to each Redis server that the worker may take tasks from."""
    connection = app.connection_for_read()
    kind = connection.get_transport_cls()
    if not issubclass(kind, Transport):
        return []
    if connection.alt and not issubclass(kind, SentinelTransport):  # Those are Sentinels of one server.
        return [app.connection_for_read(url) for url in connection.alt]
    return [connection]


class _Broker:
    """A Redis server that the worker may take tasks from. It is connected to when it is first asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._made: tuple[ScriptConnection, Callable[[str], Any]] | None = None
        self._last = ""
        """The task whose mark was sent last."""

    def send(self, tag: str, what: str) -> None:
        """Send the mark of a delivery. Whether Redis has taken it is seen at the next one.

        It leaves before the task's own code runs. So a task that ends its worker at once is marked, too.
        """
        with self._reported():
            scripts, _ = self._connected()
            for reply in scripts.replies():
                if isinstance(reply, redis.ResponseError):
                    self._report(reply)
        self._last = what
        with self._reported():
            scripts, arguments = self._connected()
            scripts.send(_MARK, *arguments(tag))

    def mark(self, tag: str, what: str) -> bool:
        """Mark a delivery. Return whether this server has it."""
        self._last = what
        try:
            scripts, arguments = self._connected()
            return bool(scripts.call(_MARK, *arguments(tag)))
        except (redis.RedisError, OSError) as error:
            self._report(error)
            return False

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        _logger.warning(
            "the start of %s could not be recorded, so the loss of its worker will not count: %s", self._last, error
        )

    def _connected(self) -> tuple[ScriptConnection, Callable[[str], Any]]:
        if self._made is None:
            channel = self._connection.channel()
            prefix, index, unacked = channel.global_keyprefix, channel.unacked_index_key, channel.unacked_key
            self._made = (
                ScriptConnection(channel.pool),
                lambda tag: ([prefix + index, prefix + mark_key(unacked, tag)], [tag, LIFE]),
            )
        return self._made
