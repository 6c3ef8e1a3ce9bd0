"""What becomes of a message whose task took its process down with it."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery import Task, states
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from fibo_worker.guard.dead_letters import DeadLetter
from fibo_worker.transport import MAX_LOSSES, losses, without_losses

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OutOfMemoryError"]


class OutOfMemoryError(Exception):
    """A task wanted more memory than its process may have: what logs and events say. The caller gets a MemoryError."""


class _GuardedRequest(Request):
    """A task in a worker's hands, which can cost it one process, and one more, but no third and not the worker."""

    on_success: Callable[..., Any]
    _seconds: float | None = None
    _ended = False

    def __init_subclass__(cls, **options: Any) -> None:
        # Of this class Celery makes one for each task, with an on_success of its own, which calls no other.
        super().__init_subclass__(**options)
        cls.on_success = _metered(cls.on_success)

    def note_end(self, state: str) -> None:
        """Tell the app's metrics what became of the task. Only the first word counts.

        Args:
            state: What became of it.
        """
        if not self._ended:
            self._ended = True
            if self._seconds is None and self.time_start is not None:  # Its process measures successes only.
                self._seconds = time.time() - self.time_start
            self._app.fibo_metrics.task_ended(self.name, state, self._seconds)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a time limit, as Celery does.

        Args:
            soft: Whether the task was only told to stop.
            timeout: The limit, in seconds.
        """
        if not soft:
            self.note_end(states.FAILURE)
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle a failure, as Celery does but for two.

        Args:
            exc_info: What was raised.
            send_failed_event: Whether to tell those who watch events.
            return_ok: Whether the task's process has stored the failure.

        Returns:
            None.
        """
        error = _raised(exc_info)
        if isinstance(error, (SystemExit, KeyboardInterrupt)) and not (
            self._already_cancelled or self._already_revoked
        ):
            # The task has ended its process. Celery says so only further on, where it is not counted any more.
            exc_info = self._worker_lost_info(error)
            error = _raised(exc_info)
        if not isinstance(error, _NO_END):
            self.note_end(_state(error))
        if isinstance(error, MemoryError):
            # Of this one Celery thinks that the worker itself is out of memory, and ends it.
            exc_info.exception = OutOfMemoryError("the task wanted more memory than FIBO_MAX_MEMORY")
        if isinstance(error, WorkerLostError) and self.task.acks_late:
            if losses(self.message._raw) + 1 >= MAX_LOSSES:  # noqa: SLF001 # kombu keeps it so
                return self._give_up(error)
            self.message.channel.qos.note_loss(self.message.delivery_tag)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _give_up(self, error: WorkerLostError) -> None:
        """Put the message aside, tell the caller, and only then forget it."""
        task_ready(self)
        channel = self.message.channel
        letter = DeadLetter.now(
            f"its process was lost {MAX_LOSSES} times; the last time: {error}",
            without_losses(self.message._raw),  # noqa: SLF001 # what kombu itself would put back
            queue=self.message.delivery_info["routing_key"],
            task=self.name,
            id=self.id,
        )
        # Of a chain, a chord or an errback, too, somebody may wait for the end.
        channel.bury(
            letter,
            tell=lambda: self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=True),
        )
        self.acknowledge()
        self.send_event("task-failed", exception=repr(error), traceback=None)


def _metered(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """Have what handles the end of a task tell it to the metrics, too."""

    @functools.wraps(on_success)
    def metered(self: _GuardedRequest, failed__retval__runtime: tuple[Any, Any, float], **options: Any) -> Any:
        failed, _, self._seconds = failed__retval__runtime
        if not failed:
            self.note_end(states.SUCCESS)
        return on_success(self, failed__retval__runtime, **options)

    return metered


def _state(error: BaseException) -> str:
    """Name what becomes of a task that has raised this."""
    return next((state for kind, state in _STATES.items() if isinstance(error, kind)), states.FAILURE)


_NO_END: Final = (Terminated, SystemExit, KeyboardInterrupt)
"""What ends a task that was revoked, which Celery announces itself, or that comes again after a lost connection."""

_STATES: Final[dict[type[BaseException], str]] = {
    Retry: states.RETRY,
    Reject: states.REJECTED,
    Ignore: states.IGNORED,
    WorkerLostError: "LOST",
}


def _raised(exc_info: Any) -> BaseException:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error  # type: ignore[no-any-return] # billiard's


class _GuardedTask(Task):
    """The base of the app's tasks: their requests are guarded."""

    Request: str = f"{__name__}:{_GuardedRequest.__qualname__}"
