"""Result backends on Redis: bounded, and with one round trip for a result.

Celery reads what is stored under the task's id, so as not to overwrite a success, and then stores and publishes the
result in a second trip. In most cases, there is nothing. So a script stores and publishes unless there is something,
which it returns. Only then, what Celery does is done.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import redis
from celery import states
from celery._state import get_current_task
from celery.backends.redis import RedisBackend, SentinelBackend
from kombu.utils.encoding import bytes_to_str

from fibo_worker.guard.connections import TEMPORARY_ERRORS, keepalive
from fibo_worker.guard.scripts import Script, ScriptConnection, are_scripts_refused

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["GuardedRedisBackend", "GuardedSentinelBackend", "bounds", "guard_backend"]

_logger: Final = logging.getLogger(__name__)

_HASTY_RETRIES: Final = 2
"""How often the event loop of a worker retries to store a failure."""

# An empty reply says that the result is stored.
_STORE: Final = Script("""
if redis.call('SET', KEYS[1], ARGV[1], 'NX', unpack(ARGV, 2)) then
    redis.call('PUBLISH', KEYS[1], ARGV[1])
    return false
end
return redis.call('GET', KEYS[1])
""")


class _Thread(threading.local):
    """What a thread has of a backend."""

    storing = False
    """Whether it is storing the result of a task."""
    connection: ScriptConnection | None = None


class _GuardedBackend(RedisBackend):
    """Bounds what a result backend does, and retries it: for as long as it takes in a task, and briefly elsewhere.

    Elsewhere is the event loop of a worker, which stores the failure of a task whose process was lost. Meanwhile, it
    serves nothing else.
    """

    connection_errors: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._thread = _Thread()
        self._has_script = self.app.fibo_guard.has("round-trips")
        if issubclass(self.connparams.get("connection_class", redis.Connection), redis.UnixDomainSocketConnection):
            self.connparams.pop("socket_keepalive", None)  # There is none on a socket of this machine.
        elif self.connparams.get("socket_keepalive"):
            self.connparams.setdefault("socket_keepalive_options", keepalive())
        if self.app.fibo_guard.has("refusals"):
            self.connection_errors = (*self.connection_errors, *TEMPORARY_ERRORS)

    def get(self, key: Any) -> Any:
        """Read a stored result. Where its key has a wrong type, there is none, and storing overwrites the key."""
        try:
            return super().get(key)
        except redis.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            _logger.warning("the key %.200r has the type of something that is no result", bytes_to_str(key))
            return None

    def _store_result(self, *args: Any, **options: Any) -> Any:
        self._thread.storing = self._has_script
        try:
            return super()._store_result(*args, **options)
        finally:
            self._thread.storing = False

    def _get_task_meta_for(self, task_id: Any) -> Any:
        if self._thread.storing:
            return {"status": states.PENDING}  # `_set` looks.
        return super()._get_task_meta_for(task_id)

    def _set(self, key: Any, value: Any, *expires: Any) -> None:
        # Before 5.7, Celery gives no expiry.
        if self._thread.storing:
            stored = self._store(key, value, *expires)
            if stored is _DONE or (stored and self.decode_result(stored)["status"] == states.SUCCESS):
                return
        super()._set(key, value, *expires)

    def _store(self, key: Any, value: Any, expires: Any = None) -> Any:
        """Store and publish a result, unless something is stored. Return that, or _DONE."""
        seconds = self.expires if expires is None else expires
        try:
            stored = self._scripts.call(_STORE, [key], [value, *(("EX", seconds) if seconds else ())])
        except redis.ResponseError as error:
            if are_scripts_refused(error):
                _logger.warning("results take two round trips each, because Redis refuses a script: %s", error)
                self._has_script = False
            elif "WRONGTYPE" not in str(error):
                raise
            return self.get(key)
        return _DONE if stored is None else stored

    @property
    def _scripts(self) -> ScriptConnection:
        if self._thread.connection is None:
            self._thread.connection = ScriptConnection(self.client.connection_pool)
        return self._thread.connection

    @property
    def _is_hasty(self) -> bool:
        return self.app.fibo_guard.serving and get_current_task() is None

    @property
    def max_retries(self) -> float:
        """How often an operation is retried."""
        return min(self._max_retries, _HASTY_RETRIES) if self._is_hasty else self._max_retries

    @max_retries.setter
    def max_retries(self, retries: float) -> None:
        self._max_retries = retries

    def ensure(self, fun: Any, args: Any, **policy: Any) -> Any:
        """Retry as Celery does, but not in a hurry: there `max_retries` says it all."""
        if self._thread.storing and self._has_script:
            with suppress(*self.connection_errors):  # It may be done twice.
                return fun(*args)
        if self._is_hasty:
            policy["max_retries"] = 0
        return super().ensure(fun, args, **policy)


_DONE: Final = object()


class GuardedRedisBackend(_GuardedBackend):
    """Celery's backend for Redis, guarded."""


class GuardedSentinelBackend(_GuardedBackend, SentinelBackend):
    """Celery's backend for a Redis behind Sentinels, guarded."""

    @cached_property
    def _transport_options(self) -> dict[str, Any]:
        # By default, redis-py takes these over from the connections to the master. Celery prevents it.
        bounds = {name: self.connparams[name] for name in ("socket_timeout", "socket_connect_timeout")}
        given = self.app.conf.get("result_backend_transport_options", {})
        return {**given, "sentinel_kwargs": {**bounds, **given.get("sentinel_kwargs", {})}}


def bounds(app: Celery) -> dict[str, Any]:
    """Return the defaults of Celery's settings that bound the operations of a result backend."""
    seconds = app.fibo_guard.settings.socket_timeout
    return {
        "redis_socket_timeout": float(seconds),
        "redis_socket_connect_timeout": float(seconds),
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": seconds,
    }


def guard_backend(app: Celery) -> None:
    """Guard the result backend of an app that has read its configuration."""
    backends = {"redis": GuardedRedisBackend, "rediss": GuardedRedisBackend, "sentinel": GuardedSentinelBackend}
    names = {scheme: f"{each.__module__}:{each.__qualname__}" for scheme, each in backends.items()}
    app.loader.override_backends = {**names, **app.loader.override_backends}
