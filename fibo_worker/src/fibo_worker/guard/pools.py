"""What a pool other than Celery's ``prefork`` takes away: said at the start, and made up for where that is possible."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from select import PIPE_BUF
from typing import TYPE_CHECKING, Any, Final

import redis

from fibo_worker.guard.event_loop import LeanHub

if TYPE_CHECKING:
    from collections.abc import Callable

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


def guarded_pool(pool: Any, guard: Guard) -> Any:
    """Make a prefork pool that stays where a process has ended just before the worker connects anew.

    Celery's own ends with ``ValueError: file descriptor is None``.

    Args:
        pool: The class of the pool.
        guard: The guard of the app.

    Returns:
        A class like it.
    """
    bases = (_Lean,) if guard.has("round-trips") else ()

    class Pool(*bases, pool.Pool):  # type: ignore[misc] # it depends on what the app goes without
        def _track_child_process(self, proc: Any, hub: Any) -> None:
            # None: its end has been seen, and the pool is about to replace it.
            if getattr(proc, "_sentinel_poll", 0) is not None or not guard.has("lost-connections"):
                super()._track_child_process(proc, hub)

        if guard.has("round-trips"):

            class ResultHandler(_LeanResults, pool.Pool.ResultHandler):
                """Reads the messages of the processes."""

    return type(pool.__name__, (pool,), {"Pool": Pool, "__module__": pool.__module__})


class _LeanResults:
    """Leaves the pipes from the processes with the event loop, as it reads their messages."""

    def _make_process_result(self, hub: Any) -> Any:
        return super()._make_process_result(LeanHub(hub))  # type: ignore[misc] # Celery's ResultHandler


class _Lean:
    """Gives a task to a process that has nothing to do at once, and by one write.

    Celery puts it into a buffer, tells the event loop to wait until any pipe can be written, and writes its length and
    the task at the next turn, each by itself, so that the process wakes up twice.
    """

    outbound_buffer: Any
    sched_strategy: Any
    on_poll_start: Callable[[], None]
    _quick_put: Callable[[Any], None]
    _cache: Any
    _all_inqueues: set[int]
    _active_writes: set[int]
    _busy_workers: set[int]

    def _create_write_handlers(self, hub: Any, **options: Any) -> None:
        from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR  # not in each process that only sends tasks

        lean: Any = LeanHub(hub)
        super()._create_write_handlers(lean, **options)  # type: ignore[misc] # Celery's AsynPool
        hub.consolidate_callback = write = lean.consolidate_callback
        poll_start, put = self.on_poll_start, self._quick_put

        def on_poll_start() -> None:
            # Otherwise, there is no pipe to wait for, nor one to wait for no more.
            if self.outbound_buffer or hub.writers:
                poll_start()

        def quick_put(job: Any) -> None:
            put(job)
            found = self._cache[job[1][0]]
            header, body, size = found._payload  # noqa: SLF001 # only the pool's own writer reads it, too
            if len(header) + size <= PIPE_BUF:  # The kernel writes so much as a whole, or not at all.
                found._payload = memoryview(b"".join((header, body))), body[:0], 0  # noqa: SLF001
            if self.sched_strategy == SCHED_STRATEGY_FAIR:
                idle = self._all_inqueues - self._active_writes - self._busy_workers
                if idle:
                    with suppress(OSError):  # The process has ended. As soon as that is seen, the task is put back.
                        write(list(idle)[: len(self.outbound_buffer)])

        self.on_poll_start, self._quick_put = on_poll_start, quick_put


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
