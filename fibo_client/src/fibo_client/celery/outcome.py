"""From stored answers to values and errors: what the end of a wait means to its caller. Pure."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from fibo_client.celery.pending import is_final
from fibo_client.celery.protocol import states
from fibo_client.celery.protocol.meta import TaskMeta
from fibo_client.errors import FiboError, ResultDecodeError, ResultTimeoutError, TaskFailedError, TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.jobs import Job
    from fibo_client.celery.pending import Wait

T = TypeVar("T")

_NOTHING: Final[Mapping[int, Any]] = {}

BARELY: Final = 0.2
"""Seconds in which a server that is well need not have answered a client that had no connection yet."""


class Awaited(Protocol):
    """What must be known of a task to make an answer, or none, into a value or an error. An `AsyncResult` knows it."""

    id: str
    task: str | None
    queue: str | None

    @property
    def cached(self) -> TaskMeta | None:
        """What was last seen of it."""
        ...

    @property
    def decode(self) -> Callable[[Any], Any] | None:
        """Turns the stored result into the value."""
        ...

    @property
    def job(self) -> Job | None:
        """What it was sent with, where this client owns it."""
        ...

    @property
    def expiry_is_timeout(self) -> bool:
        """Whether it carried the deadline of its waits: time was up where a worker found it expired."""
        ...

    @property
    def sent(self) -> bool:
        """Whether it is known to have been sent."""
        ...

    @property
    def ignored(self) -> bool | None:
        """Whether it was sent with ``ignore_result``, where that is known."""
        ...

    def learn(self, answer: TaskMeta | Exception, /) -> None:
        """Remember what was seen of the task."""
        ...


def value_of(
    answer: TaskMeta | Exception, task: str | None, decode: Callable[[Any], T] | None, queue: str | None = None
) -> T:
    """Turn a final answer into the value, or raise what it says.

    Args:
        answer: The meta, or the error with which reading it failed.
        task: The task's name, for errors.
        decode: Turns the stored result into the value.
        queue: The queue that it was sent to, for errors.

    Returns:
        The value.

    Raises:
        TaskFailedError: The task raised.
        TaskRevokedError: The task was revoked or had expired.
        ResultDecodeError: It is not a result, or not what the task should answer.
    """
    if isinstance(answer, Exception):
        error = copy.copy(answer)  # One error may be told to several who wait; each gets its own traceback.
        raise error
    failure = answer.failure
    if answer.state == states.REVOKED:
        said = failure.exc_args[0] if failure and failure.exc_args else None
        reason = said if isinstance(said, str) else "revoked"
        raise TaskRevokedError(task_id=answer.task_id, task=task, reason=reason, info=answer.result)
    if failure is not None:
        raise TaskFailedError(
            task_id=answer.task_id,
            task=task,
            exc_type=failure.exc_type,
            exc_module=failure.exc_module,
            exc_args=failure.exc_args,
            traceback=failure.traceback,
            queue=queue,
            info=answer.result,
        )
    return decoded(answer.result, answer.task_id, task, decode)


def decoded(result: Any, task_id: str, task: str | None, decode: Callable[[Any], T] | None) -> T:
    """Turn what a task returned into the value.

    Args:
        result: What it returned.
        task_id: Its id, for the error.
        task: Its name, for the error.
        decode: Turns the one into the other. None leaves it as it is.

    Returns:
        The value.

    Raises:
        ResultDecodeError: It is not what the task should answer.
    """
    if decode is None:
        value: T = result
        return value
    try:
        return decode(result)
    except (TypeError, ValueError) as error:
        raise ResultDecodeError(f"{task or 'the task'} answered something else: {error}", task_id) from error


def has_expired(error: Exception) -> bool:
    """Tell whether an error says that a worker found the task expired."""
    return isinstance(error, TaskRevokedError) and error.reason == "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of why a wait ended without an answer.

    Attributes:
        timed_out: Whether its deadline ended it.
        waited: Seconds that it took.
        unsent: Why nothing was sent, where that is known.
        unread: Why results could not be read, where they could not.
        no_worker: Whether it is known that no worker listens on the broker.
        published: Whether all tasks without an answer were sent. None is not known.
        looks: How often results without an answer were read.
        broker: Where they were sent.
        backend: Where their results are.
    """

    timed_out: bool
    waited: float
    unsent: str | None
    unread: str | None
    no_worker: bool
    published: bool | None
    looks: int
    broker: Broker
    backend: Backend


class Outcomes:
    """The values and errors of results that are awaited together, as their answers come.

    Args:
        results: The handles, in the order of the request.
        return_exceptions: Whether an error stands in the place of its value.
        expiry_is_timeout: Whether the tasks carried the wait's own deadline, so that a task that a worker found
            expired is one whose time was up.
        wanted: The ids of those whose values are enough. None is all.

    Attributes:
        must_end: Whether an error ends the wait.
        return_exceptions: See above.
        has_expired: Whether a worker found one of the tasks expired.
    """

    def __init__(
        self,
        results: Sequence[Awaited],
        *,
        return_exceptions: bool,
        expiry_is_timeout: bool = False,
        wanted: Collection[str] | None = None,
    ) -> None:
        self._results = results
        self._wanted = wanted
        self.return_exceptions: bool = return_exceptions
        self._expiry_is_timeout = expiry_is_timeout
        self._values: dict[int, Any] = {}
        self._errors: dict[int, FiboError] = {}
        self.has_expired: bool = False
        self.must_end: bool = False
        self._places: dict[str, int] = {}
        self._places_again: dict[str, list[int]] = {}  # Somebody may ask for one task twice.
        for index, result in enumerate(results):
            if self._places.setdefault(result.id, index) != index:
                self._places_again.setdefault(result.id, []).append(index)

    @property
    def are_late(self) -> bool:
        """Whether values or errors are missing that should be there."""
        if self.must_end or len(self._values) + len(self._errors) == len(self._results):
            return False
        return self._wanted is None or any(
            index not in self._values and index not in self._errors
            for task_id, index in self._places.items()
            if task_id in self._wanted
        )

    def take(self, answers: Mapping[str, TaskMeta | Exception]) -> None:
        """Take answers by task id: turn the final ones into values and errors."""
        for task_id, answer in answers.items():
            self._take(self._places[task_id], answer)
            for index in self._places_again.get(task_id, ()):
                self._take(index, answer)

    def _take(self, index: int, answer: TaskMeta | Exception) -> None:
        result = self._results[index]
        result.learn(answer)
        if not is_final(answer):
            return
        try:
            self._values[index] = value_of(answer, result.task, result.decode, result.queue)
        except FiboError as error:
            if (self._expiry_is_timeout or result.expiry_is_timeout) and has_expired(error):
                self.has_expired = True
            else:
                self._errors[index] = error
                self.must_end = not self.return_exceptions

    def give_up(self, wait: Wait, facts: Facts) -> None:
        """Time is up: put an error in the place of each value that is missing.

        Args:
            wait: The wait.
            facts: Why it ended.
        """
        for index, result in enumerate(self._results):
            if index not in self._values and index not in self._errors:
                self._errors[index] = timeout_error(wait, facts, result, expired=self.has_expired)

    def sort_out(self, start: int, found: dict[int, Any], missing: list[str]) -> None:
        """Add what came, by index, and the ids of what did not. The first index is ``start``.

        Afterwards nothing is kept: many of these at once would take long to free.
        """
        for index, result in enumerate(self._results):
            if index in self._values:
                found[start + index] = self._values[index]
            elif index in self._errors:
                found[start + index] = self._errors[index]
            else:
                missing.append(result.id)
        self._forget()

    def _forget(self) -> None:
        self._values, self._errors, self._places = {}, {}, {}

    @property
    def first_late(self) -> Awaited:
        """The first result without a value or an error."""
        return next(
            result
            for index, result in enumerate(self._results)
            if index not in self._values and index not in self._errors
        )

    def steps_before(self) -> list[Awaited]:
        """Give the steps before the first error that have no answer, and have others after them."""
        wanted = self._wanted or ()
        return [
            result
            for index, result in enumerate(self._results[: min(self._errors, default=None)])
            if index not in self._values and result.id not in wanted
        ]

    def values(self) -> list[Any]:
        """Give the values, in order, or raise the first error in order, unless errors stand in the places of values.

        Afterwards nothing is kept.

        Returns:
            The values, in order; None in the place of one that is not wanted, and did not come.

        Raises:
            TaskFailedError: A task failed.
            TaskRevokedError: A task was revoked or had expired.
            ResultDecodeError: What is stored is not a result.
        """
        if self.must_end:
            raise self._errors[min(self._errors)]
        found = self._values | self._errors if self._errors else self._values
        self._forget()
        if self._wanted is not None:
            return [found.get(index) for index in range(len(self._results))]
        return [found[index] for index in range(len(self._results))]


def timeout_error(
    wait: Wait,
    facts: Facts,
    first: Awaited,
    task_ids: Sequence[str] = (),
    *,
    total: int = 1,
    finished: Mapping[int, Any] = _NOTHING,
    expired: bool = False,
) -> ResultTimeoutError:
    """Say that time is up.

    Args:
        wait: The wait.
        facts: Why it ended.
        first: The first result without an answer.
        task_ids: The ids of all without one, in the order of the request. Without any, it is the first alone.
        total: How many there are, with those that have one.
        finished: What did finish, by index.
        expired: Whether a worker found one of them expired.

    Returns:
        The error.
    """
    missing = wait.missing.get(first.id)
    seen = missing.meta if missing is not None else wait.arrived.get(first.id, first.cached)
    state = seen.state if isinstance(seen, TaskMeta) else states.PENDING
    if isinstance(seen, TaskMeta):
        first.learn(seen)
    published = facts.published
    if published is None and first.sent:
        published = True
    reason = None
    if facts.unsent:
        reason = f"It has not been sent: {facts.unsent}"
    elif facts.unread:
        reason = f"Results cannot be read at present: {facts.unread}"
    elif facts.timed_out and not facts.looks:
        silent = facts.backend if published else facts.broker
        advice = outage_hint(silent) if facts.waited >= BARELY else "A longer timeout is needed to know more."
        reason = f"{silent} had not answered by then. {advice}"
    elif expired and not facts.timed_out:
        reason = (
            "A worker found it expired although its time was not up here: "
            "compare the clocks of this machine and of the worker's"
        )
    elif facts.no_worker and state == states.PENDING:
        reason = (
            f"No worker listens on {facts.broker}: start one, or compare this URL with its own "
            "(one without remote control is not seen)"
        )
    return ResultTimeoutError(
        task=first.task,
        task_ids=task_ids or [first.id],
        queue=first.queue,
        state=state,
        waited=facts.waited,
        total=total,
        finished=finished,
        reason=reason,
        published=published,
        looks=facts.looks,
        unread=facts.unread,
        no_worker=facts.no_worker,
        ignored=first.ignored,
        decoded=first.decode is not None,
    )


def outage_hint(asked: Broker | Backend) -> str:
    """Ask what may be wrong with a server that gives no answer."""
    return "Is it stopped, or very busy?" if asked.health.reached else asked.health.hint
