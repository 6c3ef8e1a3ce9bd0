"""Install the guard in a Celery app."""

from __future__ import annotations

import atexit
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from kombu.utils.imports import symbol_by_name

from fibo_worker.guard import chords, connections, logs, pools, protections, results, rlimit, started
from fibo_worker.guard.consumer import guarded_consumer
from fibo_worker.guard.guard import Guard
from fibo_worker.guard.mailbox import guarded_control
from fibo_worker.guard.settings import GuardSettings
from fibo_worker.guard.transport import guarded_amqp

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery import Celery

__all__ = ["protect"]


def protect(app: Celery, *, settings: GuardSettings | None = None, without: Collection[str] = ()) -> Celery:
    """Protect the workers of a Celery app.

    Call it before anything uses the app: ``app = protect(Celery("shop", ...))``. Its tasks, its base classes for tasks
    and its settings may come later. What a protection needs of Celery's settings becomes their default. A worker does
    not start whose app has another value there, or a broker that is not Redis, or whose pool takes a protection away.

    Args:
        app: The app.
        settings: The settings of the protections. None reads the ``FIBO_*`` variables of the environment.
        without: The names of the protections to do without: ``validation``, ``redelivery``, ``cancellation``,
            ``loss-limit``, ``renewal``, ``refusals``, ``remote-control``, ``task-errors``, ``memory-limit``,
            ``lost-connections``, ``time-limits``, ``chord-polling``, ``log-lines``, ``round-trips``.

    Returns:
        The same app.

    Raises:
        ImproperlyConfigured: A variable of the environment or a name in `without` is wrong, or a protection cannot be
            had on the installed Celery and kombu. A worker raises it at its start for what its settings or its pool
            take away.
        RuntimeError: The app is protected already, or something has used it before.
    """
    if hasattr(app, "fibo_guard"):
        raise RuntimeError("protect() was called twice with the same app")
    # What Celery has made of the classes by now would go without protection.
    if app.finalized or not {"amqp", "control", "Task"}.isdisjoint(vars(app)):
        raise RuntimeError(
            "protect() was called too late: the app's tasks or connections are in use already. "
            "Call it where the app is made: app = protect(Celery(...))"
        )
    without = protections.check_names(without)
    protections.check_hooks(without)
    if settings is None:
        settings = GuardSettings.from_env(os.environ)
    app.fibo_guard = Guard(settings, without)
    app.__reduce__ = partial(_reduce, app, app.amqp_cls, app.control_cls)
    app.amqp_cls = guarded_amqp(symbol_by_name(app.amqp_cls))
    if app.fibo_guard.has("remote-control"):
        app.control_cls = guarded_control(symbol_by_name(app.control_cls))
    app.steps["worker"].add(_Start)
    _set_defaults(app)
    if "memory-limit" not in without:
        rlimit.limit_memory(app)
    if settings.metrics_port is not None:
        from fibo_worker.guard import prometheus

        prometheus.expose(app)
    return app


def _reduce(app: Celery, amqp_cls: Any, control_cls: Any) -> tuple[Any, ...]:
    """Pickle an app for a process of the pool that is not forked, where it is protected once more."""
    guarded = app.amqp_cls, app.control_cls
    app.amqp_cls, app.control_cls = amqp_cls, control_cls  # Pickle finds these, but not what is made of them.
    try:
        reduced = app.__class__.__reduce__(app)
    finally:
        app.amqp_cls, app.control_cls = guarded
    return _remake, (reduced, app.fibo_guard.settings, app.fibo_guard.without, app.fibo_guard.serving)


def _remake(reduced: tuple[Any, ...], settings: GuardSettings, without: frozenset[str], serving: bool) -> Celery:
    make, arguments = reduced
    app = protect(make(*arguments), settings=settings, without=without)
    if serving and app.fibo_guard.has("lost-connections"):
        connections.start_worker(app)
    return app


class _Start(bootsteps.Step):
    """The bootstep that guards a worker before its other parts are made."""

    name = "fibo-guard"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.app.fibo_guard.pool = pool = pools.name_of(worker.pool_cls)
        protections.check_start(worker.app, worker.app.fibo_guard.without, pool)
        if worker.app.fibo_guard.has("lost-connections"):
            connections.start_worker(worker.app)
        if (readiness := worker.app.fibo_guard.readiness) is not None:
            # At the very end, after the pool's. The processes of the pool end without it.
            atexit.register(readiness.remove)
        if worker.app.fibo_guard.has("log-lines"):
            logs.escape_controls()
        if worker.app.fibo_guard.has("chord-polling"):
            chords.bound_polling(worker.app)  # before the pool's processes get their copies of the tasks
        pools.start_pool(worker.app, pool)
        if pool == "prefork":
            worker.pool_cls = pools.guarded_pool(symbol_by_name(worker.pool_cls), worker.app.fibo_guard)
        worker.app.fibo_guard.processes = lambda: worker.pool.num_processes if worker.pool else 0
        worker.app.fibo_guard.time_limits = (worker.time_limit, worker.soft_time_limit)
        worker.consumer_cls = guarded_consumer(symbol_by_name(worker.consumer_cls))


def _set_defaults(app: Celery) -> None:
    """Set the guard's defaults for Celery's settings, now or when the app reads its configuration."""
    defaults: dict[str, Any] = {"broker_connection_retry_on_startup": True}
    for protection in protections.PROTECTIONS.values():
        if app.fibo_guard.has(protection.name):
            defaults |= protection.settings
    if app.fibo_guard.has("memory-limit"):
        # After a task, the worker replaces a process that uses more than a quarter of the limit.
        defaults["worker_max_memory_per_child"] = app.fibo_guard.settings.max_memory * 1024 // 4
    if app.fibo_guard.has("lost-connections"):
        defaults |= results.bounds(app)

    def update(**_: Any) -> None:
        # Not by add_defaults(), whose values win over a configuration module. The last map has Celery's own defaults.
        app.conf.maps[-1].update(defaults)
        if app.fibo_guard.has("lost-connections") or app.fibo_guard.has("round-trips"):
            results.guard_backend(app)
        if app.fibo_guard.has("loss-limit"):
            started.mark_when_started(app)

    if app.configured:
        update()
    # Even then: config_from_object() makes a new configuration. weak=False, as nothing else refers to the function.
    app.on_after_configure.connect(update, weak=False)
