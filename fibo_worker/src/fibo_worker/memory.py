"""How much memory a process of the worker may have."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from celery.signals import worker_process_init

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["MIB", "bound"]

MIB: Final = 1024 * 1024

_logger: Final = logging.getLogger(__name__)


def bound(app: Celery, limit: int) -> None:
    """Have each process of an app's pool bound its own memory when it starts.

    A task that wants more gets a MemoryError. Where a library ends the process instead, as GMP does, the task's
    process is lost, and the others go on.

    Args:
        app: The app. Each process of this program has one at most that runs a worker.
        limit: Mebibytes of address space.
    """

    def limit_this_process(**_: Any) -> None:
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (limit * MIB, resource.getrlimit(resource.RLIMIT_AS)[1]))
        except (ImportError, ValueError, OSError) as error:
            _logger.warning("the memory of this process cannot be bounded (FIBO_MAX_MEMORY): %s", error)

    # Weak by default, and nobody else would keep it.
    worker_process_init.connect(limit_this_process, weak=False, dispatch_uid=f"fibo_worker.memory.{id(app)}")
