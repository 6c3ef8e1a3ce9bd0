"""Every error that fibo_client raises of its own.

    FiboError
    ├── ConfigError                 a URL, an option or a setting is wrong           (also ValueError)
    ├── ClientStateError            used before open, after close, on another loop   (also RuntimeError)
    ├── MessageError                a task message was refused; nothing was sent     (also ValueError)
    ├── TransportError              a server could not be reached, or said no
    │   ├── PublishError            the task was certainly not sent
    │   ├── PublishUnknownError     the task may or may not have been sent
    │   ├── ReadError               the results could not be read
    │   └── TooManyConnectionsError all of `max_connections` stayed busy
    ├── TooManyInFlightError        more results would be waited for than `max_in_flight`; nothing was sent
    ├── ResultTimeoutError          no answer in time                                (also TimeoutError)
    ├── ResultDecodeError           what stands in place of the result is not one    (also ValueError)
    │   ├── ResultTooLargeError     it has more bytes than `max_result_bytes`
    │   ├── ResultInflatesError     it has more bytes than `max_decompressed_bytes` when decompressed
    │   └── ResultTooDeepError      it is nested deeper than `max_json_depth`
    └── TaskError                   the task ended without a value
        ├── TaskFailedError         it raised; the remote exception is carried as data
        └── TaskRevokedError        it was revoked, terminated or had expired

A bad Fibonacci number (negative, not an integer, too large) is a plain TypeError or ValueError, as it would be
for any Python function.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fibo_client.text import listed, printable, printable_lines, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ClientStateError",
    "ConfigError",
    "FiboError",
    "MessageError",
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
    "TooManyConnectionsError",
    "TooManyInFlightError",
    "TransportError",
]


class FiboError(Exception):
    """The root of everything that fibo_client raises of its own.

    Args:
        message: What it says. Whoever wrote parts of it: it is cut short where it is very long, and what could act on
            a terminal or a log is escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # The classes build their message from typed fields, so the default way (call the class with `args`)
        # would fail when an error crosses a process boundary.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[FiboError], args: tuple[Any, ...], state: dict[str, Any]) -> FiboError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    if "__notes__" in state:  # A copy is annotated without the others.
        error.__notes__ = list(state["__notes__"])
    return error


class ConfigError(FiboError, ValueError):
    """A URL, an option or a setting is wrong. Raised at construction, before any I/O.

    A ``result_backend`` that cannot be read is wrong only for calls that need results: they raise it before anything is
    sent.
    """


class ClientStateError(FiboError, RuntimeError):
    """The client was used before it was opened, after it was closed, on another event loop, or in a forked process."""


class MessageError(FiboError, ValueError):
    """A task message was refused before a byte was sent, because a worker could not take it."""


class TransportError(FiboError):
    """The broker or the result backend could not be reached in time, or refused a command.

    Attributes:
        refused: Whether the server was reached and said no, so that trying again is likely to fail again.
    """

    refused: bool = False


class PublishError(TransportError):
    """The tasks were certainly not sent. Sending them again is safe.

    Attributes:
        reason: What went wrong.
        task_ids: The ids of the tasks that were not sent.
        refused: Whether the server was reached and said no, so that trying again is likely to fail again.
    """

    def __init__(self, reason: str, task_ids: Sequence[str] = (), *, refused: bool = False) -> None:
        self.reason = reason
        self.task_ids: tuple[str, ...] = tuple(task_ids)
        self.refused = refused
        super().__init__(f"nothing was sent of {_tasks(self.task_ids)}: {reason}")


class PublishUnknownError(TransportError):
    """The command left, its answer did not come: the tasks may or may not be in the queue.

    Sending the same task under a new id may run it twice. Wait on the ids, or resend under the same ids
    (``retry=True`` does that) if the task may run twice without harm.

    Attributes:
        reason: What went wrong.
        task_ids: The ids of the tasks of which it is not known whether they were sent.
    """

    def __init__(self, reason: str, task_ids: Sequence[str] = ()) -> None:
        self.reason = reason
        self.task_ids: tuple[str, ...] = tuple(task_ids)
        super().__init__(f"whether {_tasks(self.task_ids)} went out is not known: {reason}")


class ReadError(TransportError):
    """The results could not be read. It says nothing about the tasks themselves."""


class TooManyConnectionsError(TransportError):
    """All connections that ``max_connections`` allows stayed busy for as long as a command may take.

    Sending and reading tell it as the cause of their PublishError or ReadError.
    """


class TooManyInFlightError(FiboError):
    """More results would be waited for at once than ``max_in_flight`` allows. Nothing was sent.

    Attributes:
        limit: How many are allowed.
        pending: How many were waited for already.
        wanted: How many more were asked for.
    """

    def __init__(self, *, limit: int, pending: int, wanted: int) -> None:
        self.limit = limit
        self.pending = pending
        self.wanted = wanted
        super().__init__(
            f"{pending} results are waited for and {wanted} more would be over the limit of {limit}; "
            "this call sent nothing. Wait for fewer at once, or raise max_in_flight"
        )


class ResultTimeoutError(FiboError, TimeoutError):
    """No answer came in time.

    Attributes:
        task: The task's name, or None where only an id was known.
        task_ids: The ids that had no answer.
        queue: The queue that it was sent to, or None where only an id was known.
        state: The last state seen of the (first) unanswered task: ``PENDING`` where nothing was stored.
        waited: Seconds from the call to this error.
        total: How many results were waited for.
        finished: What did finish, by its index in the request.
        reason: Why there was no answer, where more is known than that there was none.
        published: Whether the (first) unanswered task was sent. None where this client does not know.
        looks: How often unanswered results were read, and there was no final one. Of many results, all together.
        unread: Why results could not be read when time was up; None where they could.
        no_worker: Whether it is known that no worker listened on the broker when time was up.
        ignored: Whether it was sent with ``ignore_result=True``. None where that was left to how the task is declared,
            or is not known.
        decoded: Whether the answer was to be decoded (`decode` of a `RemoteTask`): who says how to read the answer
            knows that the task gives one.
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
    ) -> None:
        self.published = published
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
        if total == 1:
            sent = f"sent to {shown(queue, _LONGEST_NAME)}, " if published and queue else _SENT[published]
            seen = f"{sent}looked for {looks} {'time' if looks == 1 else 'times'}"
            what = (
                f"no answer from {name}[{self.task_ids[0]}] within {waited:.3g} s ({seen}); "
                f"its last known state is {last}"
            )
        else:
            what = (
                f"{len(self.finished)} of {total} results of {name} arrived within {waited:.3g} s; "
                f"the first missing one is [{self.task_ids[0]}], its last known state is {last}"
            )
        doubt = _DECLARED[ignored] if state == "PENDING" and not decoded else ""
        super().__init__(f"{what}. {reason or _ASK + doubt}")

    def replace(self, **changes: Any) -> ResultTimeoutError:
        """Make one that differs in some attributes, and says so.

        Args:
            **changes: The attributes.

        Returns:
            The error.
        """
        return ResultTimeoutError(**{**{name: getattr(self, name) for name in _OF_A_TIMEOUT}, **changes})


_OF_A_TIMEOUT = tuple(inspect.signature(ResultTimeoutError).parameters)

_LONGEST_NAME = 200
"""The most characters that a message has of a name: a task's, a queue's, an exception's."""

_SENT = {True: "sent, ", False: "not sent, ", None: ""}
_ASK = "CeleryClient.diagnose(error) asks the queue and the workers why"
_DECLARED = {
    True: "",
    False: " (before Celery 5.6.3, a task that is declared with ignore_result=True gives none)",
    None: " (a task that is declared with ignore_result=True gives none)",
}


class ResultDecodeError(FiboError, ValueError):
    """What stands in place of the result is not a result that this client can read.

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
        info: What the task stored by hand, with ``update_state``; None where Celery stored how it ended.
    """

    task_id: str
    task: str | None
    info: Any


class TaskFailedError(TaskError):
    """The task raised. The remote exception is carried as data; no class of it is imported or built.

    Attributes:
        task_id: The id of the task.
        task: The task's name, or None where only an id was known.
        exc_type: The name of the remote exception's class, such as ``ValueError``.
        exc_module: The module of that class, where the worker said it.
        exc_args: The remote exception's arguments.
        traceback: The remote traceback as text, where the worker stored one. It is also added as a note.
        queue: The queue that it was sent to, or None where this client does not know.
        info: What the task stored by hand (``update_state("FAILURE", meta=info)``), as it is; None where Celery stored
            the exception.
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
    ) -> None:
        self.info = info
        self.queue = queue
        self.task_id = task_id
        self.task = task
        self.exc_type = exc_type
        self.exc_module = exc_module
        self.exc_args = exc_args
        self.traceback = traceback
        said = listed(exc_args, lambda argument: shown(argument, 500), longest=_LONGEST_ARGUMENTS)
        # Of a task that raises this itself, there is a traceback.
        unknown = exc_type == "NotRegistered" and not traceback
        whence = f"the queue {shown(queue, _LONGEST_NAME)}" if queue else "its queue"
        advice = _NOT_REGISTERED.format(whence) if unknown else ""
        super().__init__(
            f"{printable(task or 'task', _LONGEST_NAME)}[{task_id}] raised "
            f"{printable(exc_type, _LONGEST_NAME)}({said}){advice}"
        )
        if traceback:
            self.add_note(f"Remote traceback:\n{printable_lines(traceback.rstrip())}")


_LONGEST_ARGUMENTS = 2000
"""The most characters that a message has of a remote exception's arguments."""

_NOT_REGISTERED = (
    ": the worker that took it from {} knows no task of that name. Load its module there, mind the name, or see "
    "whether another program's worker takes from that queue, too"
)


class TaskRevokedError(TaskError):
    """A worker says that the task was revoked before it ran, terminated while it ran, or had expired.

    A worker of Celery 5.6, from 5.6.2 on, says so of a task that runs, too; that goes on, and its answer is stored.

    Attributes:
        task_id: The id of the task.
        task: The task's name, or None where only an id was known.
        reason: ``revoked``, ``terminated`` or ``expired``, as the worker said it.
        info: What the task stored by hand (``update_state("REVOKED", meta=info)``), as it is; else None.
    """

    def __init__(self, *, task_id: str, task: str | None, reason: str, info: Any = None) -> None:
        self.info = info
        self.task_id = task_id
        self.task = task
        self.reason = reason
        super().__init__(
            f"{printable(task or 'task', _LONGEST_NAME)}[{task_id}] has no answer: "
            f"it was {_STOPPED.get(reason) or printable(reason, _LONGEST_NAME)}"
        )


_STOPPED = {"expired": "too late to be run (expired)", "terminated": "terminated while it ran"}


def _tasks(task_ids: tuple[str, ...]) -> str:
    if not task_ids:
        return "the tasks"
    return f"task {task_ids[0]}" if len(task_ids) == 1 else f"{len(task_ids)} tasks"
