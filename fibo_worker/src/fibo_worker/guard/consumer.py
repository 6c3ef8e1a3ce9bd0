"""Celery's consumer, which receives every task by a guarded request."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.worker.consumer import Consumer
from kombu.utils.imports import symbol_by_name

from fibo_worker.guard.refusals import PatientConsumer
from fibo_worker.guard.requests import guarded_request

__all__ = ["guarded_consumer"]


class _GuardedConsumer(PatientConsumer):
    """Guards the requests of all tasks, whatever their base classes and their own ``Request`` are."""

    def update_strategies(self) -> None:
        for task in self.app.tasks.values():
            task.Request = guarded_request(symbol_by_name(task.Request))
        super().update_strategies()


@cache
def guarded_consumer(found: type) -> type:
    """Guard a class of consumers: that of Celery, or one of the app's own."""
    if issubclass(found, _GuardedConsumer):
        return found
    bases: tuple[Any, ...] = (_GuardedConsumer,) if found is Consumer else (_GuardedConsumer, found)
    return type(found.__name__, bases, {})
