"""What a pool other than Celery's ``prefork`` takes away: said at the start, and made up for where that is possible."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import redis

if TYPE_CHECKING:
    from celery import Celery

    from fibo_worker.guard.guard import Guard

__all__ = ["guarded_pool", "name_of", "start_pool"]

_logger: Final = logging.getLogger(__name__)

_NAMES: Final = {"thread": "threads"}
"""By the last part of a pool's module, the name of the pool on the command line, where it differs."""


def name_of(pool: Any) -> str:
    """Return the name of a pool on the command line, from its class or the path of that."""
    module = pool if isinstance(pool, str) else pool.__module__
    last = module.partition(":")[0].rpartition(".")[2]
    return _NAMES.get(last, last)


def guarded_pool(pool: Any) -> Any:
    """Make a prefork pool that stays where a process has ended just before the worker connects anew.

    Celery's own ends with ``ValueError: file descriptor is None``.

    Args:
        pool: The class of the pool.

    Returns:
        A class like it.
    """

    class Pool(pool.Pool):
        def _track_child_process(self, proc: Any, hub: Any) -> None:
            # None: its end has been seen, and the pool is about to replace it.
            if getattr(proc, "_sentinel_poll", 0) is not None:
                super()._track_child_process(proc, hub)

    return type(pool.__name__, (pool,), {"Pool": Pool, "__module__": pool.__module__})


def start_pool(app: Celery, name: str) -> None:
    """Prepare for the pool of a worker that starts.

    Args:
        app: The worker's app.
        name: The name of the pool.
    """
    guard: Guard = app.fibo_guard
    if name != "prefork":
        _logger.warning("the pool %s keeps no time limits, and cannot terminate a task that runs", name)
    if name == "solo" and guard.has("renewal"):
        # The event loop, which renews with other pools, stands still while a task runs.
        options = app.conf.broker_transport_options or {}
        seconds = min(10.0, options.get("visibility_timeout", 3600) / 10)
        threading.Thread(target=_renew, args=(guard, seconds), name="fibo-renewal", daemon=True).start()


def _renew(guard: Guard, seconds: float) -> None:
    """Renew the messages of this process's channels every so many seconds, as long as the process lives."""
    pause = threading.Event()
    while not pause.wait(seconds):
        for channel in guard.open_channels():
            if channel.closed or not channel.active_queues:
                continue
            try:
                channel.qos.renew()
            except (redis.RedisError, OSError) as error:  # It is logged where the worker itself meets it.
                _logger.debug("the messages could not be renewed: %s", error)
            except Exception:
                _logger.exception("renewing the messages failed")
