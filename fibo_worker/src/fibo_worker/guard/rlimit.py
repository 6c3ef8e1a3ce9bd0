"""Limit the memory of each process of a worker's pool, by the resource limit RLIMIT_AS."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from celery import current_app
from celery.signals import worker_process_init

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["MIB", "limit_memory"]

MIB: Final = 1024 * 1024

_logger: Final = logging.getLogger(__name__)


def limit_memory(app: Celery) -> None:
    """Limit the memory of each process of a protected app's pool, when the process starts.

    A task that exceeds the limit gets a MemoryError. Some libraries, such as GMP, end the process instead. Then that
    process is lost, and the others go on.
    """
    mebibytes = app.fibo_guard.settings.max_memory

    def limit_this_process(**_: Any) -> None:
        # The signal comes to every app that was imported. The pool has made its own app, or a copy, the current one.
        if current_app.main != app.main:
            return
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (mebibytes * MIB, resource.getrlimit(resource.RLIMIT_AS)[1]))
        except (ImportError, ValueError, OSError) as error:
            _logger.warning("cannot limit the memory of this process (FIBO_MAX_MEMORY): %s", error)

    # weak=False, as nothing else refers to the function.
    worker_process_init.connect(limit_this_process, weak=False, dispatch_uid=f"{__name__}.{id(app)}")
