"""The marks of deliveries whose task has started. Only those count as lost when their worker is lost.

A worker takes many messages that it does not run yet: those that wait for their ``eta``, and prefetched ones. So the
process that runs a task sets a mark in the broker's Redis right before the task's own code runs. The acknowledgement
removes the mark, in one step with the message.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import redis
from celery.signals import task_prerun
from kombu.transport.redis import SentinelTransport, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

__all__ = ["StartMarks", "mark_key", "mark_when_started"]

_logger: Final = logging.getLogger(__name__)

_LIFE: Final = 7 * 24 * 3600
"""Seconds until a mark expires that nobody removes: a stock worker that restores the message does not."""

# It marks only what is still unacknowledged, so that a delivery that was restored in the meantime leaves no mark.
_MARK: Final = """
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
if redis.call('ZADD', KEYS[1], 'XX', 'CH', now, ARGV[1]) == 0 then
    return 0
end
redis.call('SET', KEYS[2], now, 'EX', ARGV[2])
return 1
"""


def mark_key(unacked_key: str, delivery_tag: str) -> str:
    """Name the key of a delivery's mark. The broker's key prefix precedes it."""
    return f"{unacked_key}_started.{delivery_tag}"


def mark_when_started() -> None:
    """Mark each delivery of the protected apps when its task starts, in whatever process or thread that is."""
    task_prerun.connect(_mark, dispatch_uid=__name__)  # Once for all apps of this process.


def _mark(task: Any, **_: Any) -> None:
    guard = getattr(task.app, "fibo_guard", None)
    request = task.request
    tag = (request.properties or {}).get("delivery_tag")
    if (
        guard is not None and guard.has("loss-limit") and isinstance(tag, str)
    ):  # A task that is called as a function has none.
        guard.started.mark(task.app, tag, name=task.name, id=request.id)


class StartMarks:
    """Marks deliveries on the Redis servers that an app's worker may take tasks from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._brokers: list[_Broker] | None = None
        """The one that had the last delivery is the first."""

    def mark(self, app: Celery, tag: str, *, name: str, id: str) -> None:
        """Mark a delivery on the server that has it. If that cannot be reached, the task runs unmarked."""
        problem: Exception | None = None
        for broker in self._all(app):
            try:
                if broker.mark(tag):
                    self._prefer(broker)
                    return
            except (redis.RedisError, OSError) as error:
                problem = error
        if problem is not None:
            _logger.warning(
                "the start of task %.99r (%.99r) could not be recorded, so the loss of its worker will not count: %s",
                *(name, id, problem),
            )

    def _all(self, app: Celery) -> list[_Broker]:
        with self._lock:
            if self._brokers is None:
                connection = app.connection_for_read()
                kind = connection.get_transport_cls()
                if not issubclass(kind, Transport):
                    connections = []
                elif connection.alt and not issubclass(kind, SentinelTransport):  # Those are Sentinels of one server.
                    connections = [app.connection_for_read(url) for url in connection.alt]
                else:
                    connections = [connection]
                self._brokers = [_Broker(each) for each in connections]
            return self._brokers

    def _prefer(self, broker: _Broker) -> None:
        with self._lock:
            if self._brokers and self._brokers[0] is not broker:
                self._brokers = [broker, *(each for each in self._brokers if each is not broker)]


class _Broker:
    """A Redis server that the worker may take tasks from. It is connected to when it is first asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._mark: Callable[[str], object] | None = None

    def mark(self, tag: str) -> bool:
        """Mark a delivery. Return whether this server has it. Raise redis.RedisError or OSError."""
        with self._lock:
            if self._mark is None:
                self._mark = self._connected()
        return bool(self._mark(tag))

    def _connected(self) -> Callable[[str], object]:
        channel = self._connection.channel()
        prefix, index, unacked = channel.global_keyprefix, channel.unacked_index_key, channel.unacked_key
        # Not kombu's own client: that adds the prefix to the first key of a script only.
        script = redis.Redis(connection_pool=channel.pool).register_script(_MARK)
        return lambda tag: script(keys=[prefix + index, prefix + mark_key(unacked, tag)], args=[tag, _LIFE])
