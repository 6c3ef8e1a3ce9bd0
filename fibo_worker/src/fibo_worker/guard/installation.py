"""Install the guard in a Celery app."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name

from fibo_worker.guard import rlimit
from fibo_worker.guard.consumer import guarded_consumer
from fibo_worker.guard.guard import Guard
from fibo_worker.guard.settings import GuardSettings
from fibo_worker.guard.transport import guarded_amqp

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery import Celery

__all__ = ["protect"]


def protect(app: Celery, *, settings: GuardSettings | None = None, without: Collection[str] = ()) -> Celery:
    """Protect the workers of a Celery app.

    Call it before anything uses the app: ``app = protect(Celery("shop", ...))``. Its tasks, its base classes for tasks
    and its settings may come later. What the protections want of Celery's settings are defaults: the app's own win.

    Args:
        app: The app.
        settings: The settings of the protections. None reads the ``FIBO_*`` variables of the environment.
        without: The names of the protections to do without.

    Returns:
        The same app.

    Raises:
        ImproperlyConfigured: A variable of the environment or a name in `without` is wrong.
        RuntimeError: The app is protected already, or something has used it before.
    """
    if hasattr(app, "fibo_guard"):
        raise RuntimeError("protect() was called twice with the same app")
    # What Celery has made of the classes by now would go without protection.
    if app.finalized or not {"amqp", "Task"}.isdisjoint(vars(app)):
        raise RuntimeError(
            "protect() was called too late: the app's tasks or connections are in use already. "
            "Call it where the app is made: app = protect(Celery(...))"
        )
    if isinstance(without, str) or (unknown := set(without)):
        raise ImproperlyConfigured(f"there are no protections named {without if isinstance(without, str) else unknown}")
    if settings is None:
        settings = GuardSettings.from_env(os.environ)
    app.fibo_guard = Guard(settings, frozenset(without))
    app.amqp_cls = guarded_amqp(symbol_by_name(app.amqp_cls))
    app.steps["worker"].add(_Start)
    _set_defaults(app)
    rlimit.limit_memory(app)
    if settings.metrics_port is not None:
        from fibo_worker.guard import prometheus

        prometheus.expose(app)
    return app


class _Start(bootsteps.Step):
    """The bootstep that guards a worker before its other parts are made."""

    name = "fibo-guard"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.consumer_cls = guarded_consumer(symbol_by_name(worker.consumer_cls))


def _set_defaults(app: Celery) -> None:
    """Set the guard's defaults for Celery's settings, now or when the app reads its configuration."""

    def update(**_: Any) -> None:
        # Not by add_defaults(), whose values win over a configuration module. The last map has Celery's own defaults.
        app.conf.maps[-1].update(app.fibo_guard.settings.celery_defaults())

    if app.configured:
        update()
    # Even then: config_from_object() makes a new configuration. weak=False, as nothing else refers to the function.
    app.on_after_configure.connect(update, weak=False)
