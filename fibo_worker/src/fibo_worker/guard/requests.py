"""Celery's request, with the poison limit and with metrics."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery import states
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from fibo_worker.guard.dead_letters import DeadLetter
from fibo_worker.guard.poison_limit import MAX_LOSSES, losses, without_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from fibo_worker.guard.guard import Guard

__all__ = ["OutOfMemoryError", "guarded_request"]


class OutOfMemoryError(Exception):
    """A task exceeded the memory limit of its process. Logs and events have this; the caller gets a MemoryError."""


class _GuardedRequest(Request):
    """A task that a worker has received. It can kill two processes of the pool at most, and never the worker itself."""

    on_success: Callable[..., Any]
    time_limits: Any
    _seconds: float | None = None
    _ended = False

    def __init_subclass__(cls, **options: Any) -> None:
        # Celery makes a subclass for each task. Its on_success does not call super().
        super().__init_subclass__(**options)
        cls.on_success = _with_metrics(cls.on_success)

    def __init__(self, message: Any, *, app: Celery, decoded: bool = False, **options: Any) -> None:
        guard: Guard = app.fibo_guard
        if guard.pool == "prefork" and guard.has("round-trips") and not decoded:
            # The process gets the arguments with the request, and need not decode the body to find them once more.
            decoded, options["body"] = True, message.payload
        super().__init__(message, app=app, decoded=decoded, **options)
        if guard.has("time-limits"):
            own = (self.task.time_limit, self.task.soft_time_limit)
            self.time_limits = tuple(map(_lower_limit, self.time_limits, own, guard.time_limits))

    def report_end(self, state: str) -> None:
        """Report to the app's metrics that the task has ended in a state. Only the first report counts."""
        if not self._ended:
            self._ended = True
            if self._seconds is None and self.time_start is not None:  # The pool reports the runtime of successes only.
                self._seconds = time.time() - self.time_start
            self._app.fibo_guard.metrics.task_ended(self.name, state, self._seconds)

    def cancel(self, pool: Any, signal: Any = None, **options: Any) -> None:
        """Cancel the task as Celery does after a lost connection, so that it runs again."""
        if self.time_start:
            # Celery notes it only after the result backend, which may be gone as well, has taken a RETRY. Without the
            # note, the end of the process is taken for a revocation: told to the caller, and never run again.
            self._already_cancelled = True
        super().cancel(pool, signal, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a time limit as Celery does. Report the end of the task at the hard limit."""
        if not soft:
            self.report_end(states.FAILURE)
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle a failure as Celery does, except for a lost process and a MemoryError."""
        guard: Guard = self._app.fibo_guard
        error = _raised(exc_info)
        if (
            guard.has("task-errors")
            and isinstance(error, (SystemExit, KeyboardInterrupt))
            and not (self._already_cancelled or self._already_revoked)
        ):
            # The task ended its own process. Celery 5.7 makes a WorkerLostError of this, after the check below.
            exc_info = _lost(error)
            error = _raised(exc_info)
        if not isinstance(error, _NO_END):
            self.report_end(_state(error))
        if isinstance(error, MemoryError) and guard.has("task-errors"):
            # Celery treats a MemoryError as the worker's own, and stops the worker.
            exc_info.exception = OutOfMemoryError("the task wanted more memory than FIBO_MAX_MEMORY")
        if isinstance(error, WorkerLostError) and self.task.acks_late and guard.has("loss-limit"):
            if losses(self.message.properties) + 1 >= MAX_LOSSES:
                return self._dead_letter(error)
            self.message.channel.qos.mark_lost(self.message.delivery_tag)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _dead_letter(self, error: WorkerLostError) -> None:
        """Dead-letter the message, store the failure, and only then acknowledge."""
        task_ready(self)
        channel = self.message.channel
        dead_letter = DeadLetter.now(
            f"its process was lost {MAX_LOSSES} times; the last time: {error}",
            without_losses(self.message._raw),  # noqa: SLF001 # as it was published; serializable() gives it decompressed
            queue=self.message.delivery_info["routing_key"],
            task=self.name,
            id=self.id,
        )
        # mark_as_failure also tells a chain, a chord or an errback that waits for the task.
        channel.dead_letter(
            dead_letter,
            store=lambda: self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=True),
        )
        self.acknowledge()
        self.send_event("task-failed", exception=repr(error), traceback=None)


def _lower_limit(wanted: float | None, own: float | None, general: float | None) -> float | None:
    """Return the limit for a task: the sender's, if it is no more than that of the task, or else of the worker."""
    most = own or general
    return min(wanted, most) if wanted and most else wanted or most


def _with_metrics(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an on_success so that it also reports to the metrics."""

    @functools.wraps(on_success)
    def wrapper(self: _GuardedRequest, failed__retval__runtime: tuple[Any, Any, float], **options: Any) -> Any:
        failed, _, self._seconds = failed__retval__runtime
        if not failed:
            self.report_end(states.SUCCESS)
        return on_success(self, failed__retval__runtime, **options)

    return wrapper


def _state(error: BaseException) -> str:
    """Return the state of a task that raised this error."""
    return next((state for kind, state in _STATES.items() if isinstance(error, kind)), states.FAILURE)


_NO_END: Final = (Terminated, SystemExit, KeyboardInterrupt)
"""The errors of a task that was revoked, which Celery's signal reports, or that is redelivered after a lost
connection."""

_STATES: Final[dict[type[BaseException], str]] = {
    Retry: states.RETRY,
    Reject: states.REJECTED,
    Ignore: states.IGNORED,
    WorkerLostError: "LOST",
}


def _lost(error: BaseException) -> Any:
    """Return the information on a WorkerLostError for a task that ended its own process."""
    how = f"status {error.code!r:.100}" if isinstance(error, SystemExit) else type(error).__name__
    try:
        raise WorkerLostError(f"Worker exited prematurely: {how}.")
    except WorkerLostError:
        return ExceptionInfo()


def _raised(exc_info: Any) -> BaseException:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error  # type: ignore[no-any-return] # billiard's


@functools.cache
def guarded_request(found: type) -> type:
    """Guard a class of requests: that of Celery, or one of a task's own."""
    if issubclass(found, _GuardedRequest):
        return found
    return _GuardedRequest if found is Request else type(found.__name__, (_GuardedRequest, found), {})
