"""Celery's consumer, which receives every task by a guarded request."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import redis
from celery.worker.consumer import Consumer
from kombu.utils.imports import symbol_by_name

from fibo_worker.guard.refusals import PatientConsumer
from fibo_worker.guard.requests import guarded_request
from fibo_worker.readiness import INTERVAL

if TYPE_CHECKING:
    from fibo_worker.guard.guard import Guard

__all__ = ["guarded_consumer"]


class _GuardedConsumer(PatientConsumer):
    """Guards the requests of all tasks, whatever their base classes and their own ``Request`` are.

    Keeps the readiness file, too.
    """

    _touches: Any = None

    def update_strategies(self) -> None:
        for task in self.app.tasks.values():
            task.Request = guarded_request(symbol_by_name(task.Request))
        super().update_strategies()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        if self.app.fibo_guard.readiness is None:
            return
        if self._touches is not None:  # Before 5.7, Celery leaves the timers of a connection that was lost.
            self._touches.cancel()
        self._touches = hub.call_repeatedly(INTERVAL, self._touch)

    def _touch(self) -> None:
        guard: Guard = self.app.fibo_guard
        overdue = any(channel.overdue() for channel in guard.open_channels())
        if guard.readiness is not None and self.connection and not overdue:
            guard.readiness.touch()

    def stop(self) -> None:
        self.app.fibo_guard.stopping = True
        for channel in self.app.fibo_guard.open_channels():
            with suppress(redis.RedisError, OSError):  # It is logged, and said again when the channel closes.
                channel.end_turn()
        if self._touches is not None:
            self._touches.cancel()
        if (readiness := self.app.fibo_guard.readiness) is not None:
            readiness.stop()
        super().stop()


@cache
def guarded_consumer(found: type) -> type:
    """Guard a class of consumers: that of Celery, or one of the app's own."""
    if issubclass(found, _GuardedConsumer):
        return found
    bases: tuple[Any, ...] = (_GuardedConsumer,) if found is Consumer else (_GuardedConsumer, found)
    return type(found.__name__, bases, {})
