"""What a pool other than Celery's ``prefork`` takes away: said at the start, and made up for where that is possible."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import redis

from fibo_worker.guard.protections import PROTECTIONS

if TYPE_CHECKING:
    from celery import Celery

    from fibo_worker.guard.guard import Guard

__all__ = ["start_pool"]

_logger: Final = logging.getLogger(__name__)

_NAMES: Final = {"thread": "threads"}
"""By the last part of a pool's module, the name of the pool on the command line, where it differs."""


def start_pool(app: Celery, pool: Any) -> None:
    """Prepare for the pool of a worker that starts.

    Args:
        app: The worker's app.
        pool: The class of the pool, or its name.
    """
    guard: Guard = app.fibo_guard
    module = pool if isinstance(pool, str) else pool.__module__
    last = module.partition(":")[0].rpartition(".")[2]
    name = _NAMES.get(last, last)
    for each in PROTECTIONS.values():
        if guard.has(each.name) and name not in each.pools:
            _logger.warning("the pool %s has no %s: %s", name, each.name, each.against)
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
