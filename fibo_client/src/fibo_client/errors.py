"""Every error that fibo_client raises of its own.

    FiboError
    ├── ConfigError                 a URL, an option or a setting is wrong           (also ValueError)
    ├── ClientStateError            used before open, after close, on another loop   (also RuntimeError)
    ├── MessageError                a task message was refused; nothing was sent     (also ValueError)
    ├── TransportError              the server could not be reached, or refused
    │   ├── PublishError            the task was certainly not sent
    │   ├── PublishUnknownError     the task may or may not have been sent
    │   └── ReadError               the results could not be read
    ├── NotReadyError               no worker answered a check of readiness
    ├── TooManyPendingError         the call would exceed `max_pending`; nothing was sent
    ├── ResultTimeoutError          no answer in time                                (also TimeoutError)
    ├── ResultDecodeError           the client cannot read the stored result         (also ValueError)
    │   ├── ResultTooLargeError     it has more bytes than `max_result_bytes`
    │   ├── ResultInflatesError     it has more bytes than `max_decompressed_bytes` when decompressed
    │   └── ResultTooDeepError      it is nested deeper than `max_json_depth`
    └── TaskError                   the task ended without a value
        ├── TaskFailedError         it raised; the error carries the remote exception as data
        ├── TaskRevokedError        it was revoked, terminated or had expired
        └── ChunkRetriedError       it was retried in a chunk, which never ends

A bad Fibonacci index (negative, not an integer, too large) raises a plain TypeError or ValueError, as in any Python
function.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from fibo_client.text import listed, printable, printable_lines, short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

__all__ = [
    "ChunkRetriedError",
    "ClientStateError",
    "ConfigError",
    "FiboError",
    "MessageError",
    "NotReadyError",
    "PublishError",
    "PublishUnknownError",
    "ReadError",
    "ResultDecodeError",
    "ResultInflatesError",
    "ResultTimeoutError",
    "ResultTooDeepError",
    "ResultTooLargeError",
    "TaskError",
    "TaskFailedError",
    "TaskRevokedError",
    "TooManyPendingError",
    "TransportError",
]

E = TypeVar("E", bound="FiboError")


class FiboError(Exception):
    """The root of everything that fibo_client raises of its own.

    Args:
        message: What went wrong. Parts of it may have come over the wire, so it is cut at 4,096 characters, and
            characters that could control a terminal or a log are escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # The subclasses build their message from typed arguments. Pickle's default, to call the class with `args`,
        # would fail.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[FiboError], args: tuple[Any, ...], state: dict[str, Any]) -> FiboError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    if "__notes__" in state:  # A note added to a copy must not appear on the original.
        error.__notes__ = list(state["__notes__"])
    return error


class ConfigError(FiboError, ValueError):
    """A URL, an option or a setting is wrong. Raised at construction, before any I/O.

    A ``result_backend`` of an unsupported kind is the exception: only calls that need results raise, before they send
    anything.
    """


class ClientStateError(FiboError, RuntimeError):
    """The client was used before it was opened, after it was closed, on another event loop, or in a forked process."""


class MessageError(FiboError, ValueError):
    """The client refused a task message that a worker could not handle. Nothing was sent."""


class TransportError(FiboError):
    """The broker or the result backend could not be reached in time, or refused a command.

    Attributes:
        refused: Whether the server was reached and refused the command. Another attempt will probably fail, too.
    """

    refused: bool = False


class PublishError(TransportError):
    """The tasks were certainly not sent. Sending them again is safe.

    Attributes:
        reason: What went wrong.
        task_ids: The ids of the tasks that were not sent.
        refused: Whether the server was reached and refused the command. Another attempt will probably fail, too.
    """

    def __init__(self, reason: str, task_ids: Sequence[str] = (), *, refused: bool = False) -> None:
        self.reason = reason
        self.task_ids: tuple[str, ...] = tuple(task_ids)
        self.refused = refused
        super().__init__(f"could not send {_tasks(self.task_ids)}: {reason}")


class PublishUnknownError(TransportError):
    """The command was written, but no reply came. The tasks may or may not be in the queue.

    A task that is sent again may run twice. Wait for the ids; or, if the task is idempotent, send it again under the
    same ids, as ``retry=True`` does.

    Attributes:
        reason: What went wrong.
        task_ids: The ids of the tasks that may have been sent.
    """

    def __init__(self, reason: str, task_ids: Sequence[str] = ()) -> None:
        self.reason = reason
        self.task_ids: tuple[str, ...] = tuple(task_ids)
        super().__init__(f"{_tasks(self.task_ids)} may or may not have been sent: {reason}")


class ReadError(TransportError):
    """The results could not be read. The tasks themselves may be fine."""


class NotReadyError(FiboError):
    """No worker answered a check of readiness in time. See `fibo_client.asgi.Readiness`.

    Attributes:
        waited: The seconds that workers had to answer.
    """

    def __init__(self, waited: float) -> None:
        self.waited = waited
        super().__init__(f"no worker answered within {waited:g} s")


class TooManyPendingError(FiboError):
    """The call would wait for more results at once than ``max_pending`` allows. Nothing was sent.

    Attributes:
        limit: The value of ``max_pending``.
        pending: How many results the client already waits for.
        wanted: How many more the call asked for.
    """

    def __init__(self, *, limit: int, pending: int, wanted: int) -> None:
        self.limit = limit
        self.pending = pending
        self.wanted = wanted
        super().__init__(
            f"{pending} results are pending, and {wanted} more would exceed max_pending={limit}; this call sent "
            "nothing. Wait for fewer results at once, or raise max_pending"
        )


class ResultTimeoutError(FiboError, TimeoutError):
    """No answer came in time.

    Attributes:
        task: The task's name, or None where only an id was known.
        task_ids: The ids that had no answer.
        queue: The queue that the task was sent to, or None where only an id was known.
        state: The last known state of the (first) unanswered task: ``PENDING`` where nothing was stored.
        waited: Seconds from the call to this error.
        total: How many results the call waited for.
        finished: The results that did arrive, by their index in the request.
        reason: Why there was no answer, where the client knows.
        published: Whether the (first) unanswered task was sent. None where this client does not know.
        looks: How often the client read unanswered results and found no final state; the sum over all results.
        unread: Why results could not be read when time was up; None where they could.
        no_worker: Whether the client knows that no worker listened on the broker when time was up.
        ignored: Whether the task was sent with ``ignore_result=True``. None where the task's declaration decides, or
            where this client does not know.
        decoded: Whether the result has a decoder (`decode` of a `RemoteTask`), so that the task certainly returns one.
        step: Where the task stands in what was composed, such as ``step 2 of 3``; None for a task alone. Those after it
            were not waited for yet.
    """

    def __init__(
        self,
        *,
        task: str | None,
        task_ids: Sequence[str],
        state: str,
        waited: float,
        queue: str | None = None,
        total: int = 1,
        finished: Mapping[int, Any] | None = None,
        reason: str | None = None,
        published: bool | None = None,
        looks: int = 0,
        unread: str | None = None,
        no_worker: bool = False,
        ignored: bool | None = None,
        decoded: bool = False,
        step: str | None = None,
    ) -> None:
        self.published = published
        self.step = step
        self.looks = looks
        self.unread = unread
        self.no_worker = no_worker
        self.ignored = ignored
        self.decoded = decoded
        self.task = task
        self.task_ids: tuple[str, ...] = tuple(task_ids)
        self.queue = queue
        self.state = state
        self.waited = waited
        self.total = total
        self.finished: dict[int, Any] = dict(finished or {})
        self.reason = reason
        name, last = printable(task or "task", _LONGEST_NAME), printable(state, _LONGEST_NAME)
        if total == 1 or step is not None:
            sent = f"sent to {short_repr(queue, _LONGEST_NAME)}, " if published and queue else _SENT[published]
            seen = f"{sent}looked for {looks} {'time' if looks == 1 else 'times'}"
            what = (
                f"no answer from {name}[{self.task_ids[0]}]{_where(step)} within {waited:.3g} s ({seen}); "
                f"its last known state is {last}"
            )
        else:
            what = (
                f"{len(self.finished)} of {total} results of {name} arrived within {waited:.3g} s; "
                f"the first missing one is [{self.task_ids[0]}], its last known state is {last}"
            )
        hint = _DECLARED[ignored] if state == "PENDING" and not decoded else ""
        super().__init__(f"{what}. {reason or _ASK + hint}")

    def replace(self, **changes: Any) -> Self:
        """Make one that differs in some attributes, and whose message says so.

        Args:
            **changes: The attributes.

        Returns:
            The error.
        """
        return _replaced(self, changes)


_LONGEST_NAME = 200
"""Messages cut the name of a task, a queue or an exception at this many characters."""

_SENT = {True: "sent, ", False: "not sent, ", None: ""}
_ASK = "CeleryClient.diagnose(error) asks the queue and the workers why"
_DECLARED = {
    True: "",
    False: " (before Celery 5.6.3, a task that is declared with ignore_result=True gives none)",
    None: " (a task that is declared with ignore_result=True gives none)",
}


class ResultDecodeError(FiboError, ValueError):
    """The client cannot read what is stored as the result.

    Attributes:
        task_id: The id of the task, or None where it is not known.
    """

    def __init__(self, reason: str, task_id: str | None = None) -> None:
        self.task_id = task_id
        super().__init__(f"the result of task {task_id} cannot be read: {reason}" if task_id else reason)


class ResultTooLargeError(ResultDecodeError):
    """The result has more bytes, as they are stored, than ``max_result_bytes`` allows."""


class ResultInflatesError(ResultDecodeError):
    """The result has more bytes, once decompressed, than ``max_decompressed_bytes`` allows."""


class ResultTooDeepError(ResultDecodeError):
    """The lists and dicts of the result are nested deeper than ``max_json_depth`` allows."""


class TaskError(FiboError):
    """The task ended without a value.

    Attributes:
        task_id: The id of the task.
        task: The task's name, or None where only an id was known.
        info: What the task itself stored with ``update_state``; None where Celery stored the final state.
        step: Where the task stands in what was composed, such as ``step 2 of 3``; None for a task alone.
    """

    task_id: str
    task: str | None
    info: Any
    step: str | None = None

    def replace(self, **changes: Any) -> Self:
        """Make one that differs in some attributes, and whose message says so.

        Args:
            **changes: The attributes.

        Returns:
            The error.
        """
        return _replaced(self, changes)


class TaskFailedError(TaskError):
    """The task raised. The error carries the remote exception as data; it imports and builds none of its classes.

    Attributes:
        task_id: The id of the task.
        task: The task's name, or None where only an id was known.
        exc_type: The name of the remote exception's class, such as ``ValueError``.
        exc_module: The module of that class, where the worker stored it.
        exc_args: The remote exception's arguments.
        traceback: The remote traceback as text, where the worker stored one. It is also added as a note.
        queue: The queue that the task was sent to, or None where this client does not know.
        info: What the task itself stored, unchanged (``update_state("FAILURE", meta=info)``); None where Celery stored
            the exception.
        step: Where the task stands in what was composed, such as ``member 4 of 10 of the header``; None for a task
            alone.
    """

    def __init__(
        self,
        *,
        task_id: str,
        task: str | None,
        exc_type: str,
        exc_module: str | None,
        exc_args: tuple[Any, ...],
        traceback: str | None,
        queue: str | None = None,
        info: Any = None,
        step: str | None = None,
    ) -> None:
        self.step = step
        self.info = info
        self.queue = queue
        self.task_id = task_id
        self.task = task
        self.exc_type = exc_type
        self.exc_module = exc_module
        self.exc_args = exc_args
        self.traceback = traceback
        arguments = listed(exc_args, lambda argument: short_repr(argument, 500), longest=_LONGEST_ARGUMENTS)
        # A task that raises NotRegistered itself leaves a traceback.
        unknown = exc_type == "NotRegistered" and not traceback
        source = f"the queue {short_repr(queue, _LONGEST_NAME)}" if queue else "its queue"
        advice = _NOT_REGISTERED.format(source) if unknown else ""
        super().__init__(
            f"{printable(task or 'task', _LONGEST_NAME)}[{task_id}]{_where(step)} raised "
            f"{printable(exc_type, _LONGEST_NAME)}({arguments}){advice}"
        )
        if traceback:
            self.add_note(f"Remote traceback:\n{printable_lines(traceback.rstrip())}")


_LONGEST_ARGUMENTS = 2000
"""Messages cut the arguments of a remote exception at this many characters."""

_NOT_REGISTERED = (
    ": the worker that took it from {} knows no task of that name. Load the task's module in that worker, check the "
    "spelling, or check whether another program's worker takes tasks from that queue"
)


class TaskRevokedError(TaskError):
    """A worker reports that the task was revoked before it ran, was terminated while it ran, or had expired.

    From Celery 5.6.2 on, workers of 5.6 report it of a running task, too. Such a task goes on, and its answer is
    stored.

    Attributes:
        task_id: The id of the task.
        task: The task's name, or None where only an id was known.
        reason: ``revoked``, ``terminated`` or ``expired``, as the worker reported it.
        info: What the task itself stored, unchanged (``update_state("REVOKED", meta=info)``); else None.
        step: As of a TaskFailedError.
    """

    def __init__(
        self, *, task_id: str, task: str | None, reason: str, info: Any = None, step: str | None = None
    ) -> None:
        self.step = step
        self.info = info
        self.task_id = task_id
        self.task = task
        self.reason = reason
        super().__init__(
            f"{printable(task or 'task', _LONGEST_NAME)}[{task_id}]{_where(step)} has no answer: "
            f"it {_STOPPED.get(reason) or f'was {printable(reason, _LONGEST_NAME)}'}"
        )


_STOPPED = {"expired": "expired before it ran", "terminated": "was terminated while it ran"}


class ChunkRetriedError(TaskError):
    """A task in a chunk called ``self.retry()``, which runs the whole chunk again and stores no answer of any of it.

    Attributes:
        task_id: The id of the chunk's task.
        task: The name of the task that is called in the chunk.
        info: What the worker stored about the retry.
    """

    def __init__(self, *, task_id: str, task: str, info: Any = None) -> None:
        self.task_id: str = task_id
        self.task: str = task
        self.info: Any = info
        super().__init__(
            f"{printable(task, _LONGEST_NAME)} was retried in the chunk [{task_id}]; a task that retries must be sent "
            "alone, with chunk_size=1"
        )


def _tasks(task_ids: tuple[str, ...]) -> str:
    """Name the tasks in a message."""
    if not task_ids:
        return "the tasks"
    return f"task {task_ids[0]}" if len(task_ids) == 1 else f"{len(task_ids)} tasks"


def _where(step: str | None) -> str:
    """Say in a message where a task stands."""
    return "" if step is None else f", {step},"


def _replaced(error: E, changes: Mapping[str, Any]) -> E:
    """Make an error again, with some attributes changed."""
    cls: Any = type(error)
    again: E = cls(**{**{name: getattr(error, name) for name in _attributes(cls)}, **changes})
    return again


@functools.cache
def _attributes(cls: type[FiboError]) -> tuple[str, ...]:
    """Name the parameters of an error, which are its attributes."""
    return tuple(inspect.signature(cls).parameters)
