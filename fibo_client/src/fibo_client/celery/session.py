"""The running parts of a client, and the two ways to use them: waiting for results, and having jobs done.

An *owned* job (`run`) belongs to the call that asked for it: it is revoked when the caller is cancelled, and its
results are deleted once they have been read. Tasks that were *handed out* are only waited for (`wait`): giving up a
wait changes nothing, and it can be repeated.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import enum
import math
import os
import warnings
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio

from fibo_client.celery.cleaner import Cleaner
from fibo_client.celery.config import LONGEST_TIMEOUT, UNSET
from fibo_client.celery.encoder import Encoder
from fibo_client.celery.jobs import Job
from fibo_client.celery.protocol.jsontypes import JSONCodec
from fibo_client.celery.publisher import Publication, Publisher
from fibo_client.celery.reader import Reader
from fibo_client.celery.stats import ClientStats
from fibo_client.celery.worker_probe import WorkerProbe
from fibo_client.errors import ClientStateError, ConfigError, ReadError, TooManyInFlightError
from fibo_client.telemetry.tracer import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.config import CeleryConfig, Unset
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.publisher import Failure
    from fibo_client.celery.registry import Waiter
    from fibo_client.celery.signature import SendOptions
    from fibo_client.telemetry.tracer import SendSpan, Tracer

_NO_HEADERS: Final[Mapping[str, Any]] = {}
_LOOP_CLOSED: Final = (
    "the event loop that this client was opened on has been closed; open another client, and close it before its loop "
    "(each asyncio.run() has a loop of its own: do everything in one)"
)


class _State(enum.Enum):
    UNOPENED = "not opened yet"
    OPENED = "open already"
    CLOSED = "closed"


@dataclass(slots=True)
class Outcome:
    """How a wait ended.

    Attributes:
        arrived: The answers by id: final ones, errors in their place, and for missing ids the last state seen.
        missing: The ids that have no final answer, in order.
        timed_out: Whether the deadline ended it.
        waited: Seconds that it took.
        unsent: Why the tasks have not been sent, where that is known.
        unread: Why the results could not be read, where they could not.
        nobody: Whether no worker listens on the broker; False if it is not known.
        published: Whether all tasks without an answer were sent. None where that is not known.
        looks: How often results without an answer were read.
    """

    arrived: dict[str, TaskMeta | Exception]
    missing: list[str]
    timed_out: bool
    waited: float
    unsent: str | None = None
    unread: str | None = None
    nobody: bool = False
    published: bool | None = None
    looks: int = 0


class Session:
    """The parts of a client that run: the publisher, the reader and the cleaner, over one transport.

    Args:
        config: The settings.
        broker: Where tasks go.
        backend: Where results come from.
    """

    def __init__(self, config: CeleryConfig, broker: Broker, backend: Backend) -> None:
        self.config = config
        self.broker = broker
        self.backend = backend
        self.cleaner: Cleaner = Cleaner(broker, backend)
        types = JSONCodec(config.json_types)
        self.encoder: Encoder = Encoder(broker, config.queue, hide_arguments=config.hide_arguments, types=types)
        self.tracer: Tracer = guarded(config.telemetry)
        self._publisher = Publisher(broker)
        self._probe = WorkerProbe(broker)
        self._reader = Reader(backend, config, self._probe.ask, types)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._state = _State.UNOPENED
        self._closing: asyncio.Task[None] | None = None
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()

    async def open(self) -> None:
        """Start to run on the present event loop. No connection is made yet.

        Raises:
            ClientStateError: It was opened before.
        """
        if self._state is not _State.UNOPENED:
            if self._state is _State.OPENED:
                self.check()  # It may be open elsewhere.
            advice = "use it as it is" if self._state is _State.OPENED else "make a new one"
            raise ClientStateError(f"this client is {self._state.value}, and can be opened once only; {advice}")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientStateError(
                "no asyncio event loop runs here, and the client needs one; trio will not do"
            ) from None
        self._pid = os.getpid()
        self._state = _State.OPENED
        self._publisher.start()
        self._reader.start()
        self.cleaner.start()

    async def aclose(self) -> None:
        """Stop. Calls in flight end with an error; connections are closed. Closing twice does nothing more.

        In a forked process, it only forgets: the connections are the parent's, and closing them would disturb it.

        Raises:
            ClientStateError: It runs on another event loop.
        """
        if self._forked:
            self._state = _State.CLOSED
            return
        if self._state is _State.OPENED and self._loop is not None:
            if self._loop.is_closed():
                raise ClientStateError(_LOOP_CLOSED)
            if asyncio.get_running_loop() is not self._loop:
                raise ClientStateError("this client was opened on another event loop; close it there")
            self._state = _State.CLOSED
            self._closing = asyncio.create_task(
                self._close(), name="fibo_client.closing", context=contextvars.Context()
            )
        self._state = _State.CLOSED
        if self._closing is not None and not self._closing.done():
            # Closing goes on although its caller is cancelled; and who only has a scope that has ended waits for it.
            with anyio.CancelScope(shield=True):
                await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._publisher.aclose("the client was closed")
        await self._reader.aclose(ClientStateError("the client was closed while this call was waiting"))
        await self._probe.aclose()
        await self.cleaner.aclose(self.config.io_timeout)
        await self.broker.aclose()
        await self.backend.aclose()

    @property
    def _forked(self) -> bool:
        return self._state is not _State.UNOPENED and self._pid != os.getpid()

    def check(self) -> asyncio.AbstractEventLoop:
        """Check that the client can be used here and now.

        Returns:
            The event loop that it runs on.

        Raises:
            ClientStateError: It is not open, runs on another event loop, or is a forked copy of the parent's.
        """
        if self._forked:
            # Before the loop is looked at: the copy of a loop that was running is not running in the child.
            raise ClientStateError(
                "this client was opened before this process was forked, and is the parent's; open one in each process"
            )
        if self._state is not _State.OPENED or self._loop is None:
            advice = (
                "use it inside `async with`, or await its open() first"
                if self._state is _State.UNOPENED
                else "make a new one: it cannot reopen"
            )
            raise ClientStateError(f"this client is {self._state.value}; {advice}")
        if self._loop.is_closed():
            raise ClientStateError(_LOOP_CLOSED)
        if asyncio.get_running_loop() is not self._loop:
            raise ClientStateError(
                "this client was opened on another event loop; open one client on each loop that uses it"
            )
        return self._loop

    def queue_of(self, task_id: str) -> str | None:
        """Tell which queue a task was sent to. The last thousand that this client sent are remembered.

        Args:
            task_id: The task's id.

        Returns:
            The queue. None says little: it may be long ago, or another client's.
        """
        return self._publisher.recent.get(task_id)

    def stats(self) -> ClientStats:
        """Count what was done so far. No I/O.

        Returns:
            The numbers.
        """
        publisher, reader = self._publisher, self._reader
        return ClientStats(
            pending=reader.pending,
            in_flight=sum(job.in_flight for job in list(self._jobs)),
            unsent=publisher.unsent,
            published=publisher.published,
            answers=reader.answers,
            pushes=reader.pushes,
            polls=reader.polls,
            reconnects=sum(each.reconnects for each in {self.broker.health, self.backend.health}),
            retries=publisher.retries + reader.retries,
            decode_failures=reader.decode_failures,
            revocations=copy.copy(self.cleaner.revocations),
        )

    def check_room(self, wanted: int) -> None:
        """Check that more results can be waited for, before anything is sent for them.

        Args:
            wanted: How many more.

        Raises:
            ConfigError: No result can be read where they are stored.
            TooManyInFlightError: They would be more than ``max_in_flight``.
        """
        self.check_readable()
        pending, limit = self._reader.pending, self.config.max_in_flight
        if pending + wanted > limit:
            raise TooManyInFlightError(limit=limit, pending=pending, wanted=wanted)

    def check_readable(self) -> None:
        """Check that results can be asked for at all.

        Raises:
            ConfigError: They are stored in something else than a Redis, or nowhere.
        """
        if self.backend.unreadable is not None:
            raise ConfigError(self.backend.unreadable)

    def seconds(self, timeout: float | Unset | None) -> float | None:
        """Resolve the timeout of a call.

        Args:
            timeout: Seconds, None for no limit, or UNSET for the client's default.

        Returns:
            Seconds, or None.

        Raises:
            TypeError: It is not a number.
            ValueError: It is negative, or more than `LONGEST_TIMEOUT`.
        """
        if timeout is UNSET:
            return self.config.timeout
        if timeout is None:
            return None
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout={timeout} must be 0 or more; None is no limit")
        if timeout > LONGEST_TIMEOUT:
            raise ValueError(f"timeout={timeout} must be at most {LONGEST_TIMEOUT:.0f} seconds; None is no limit")
        return timeout

    def start_send(self, options: SendOptions, *, batch: bool, context: object = None) -> SendSpan:
        """Start the span of messages that are about to be made and sent.

        Args:
            options: The options that they will have.
            batch: Whether there may be several.
            context: The caller's, from the tracer's ``current_context``. None is the current one.

        Returns:
            The span, for the encoder, and then for `publish`, `run` or `job`.
        """
        return self.tracer.start_send(
            options.get("queue", self.config.queue),
            self.broker.server,
            batch=batch,
            headers=options.get("headers", _NO_HEADERS),
            context=context,
        )

    async def publish(
        self, messages: Sequence[TaskMessage], span: SendSpan, *, timeout: float | None, retry: bool
    ) -> None:
        """Send tasks that are handed out.

        Args:
            messages: The tasks.
            span: From `start_send`.
            timeout: Seconds that sending may take. None is no limit.
            retry: Whether to send messages again after a failure.

        Raises:
            PublishError: They were not sent.
            PublishUnknownError: They may or may not have been sent.
        """
        loop = self.check()
        done: asyncio.Future[None] = loop.create_future()
        outcome: list[Failure | None] = []
        until = None if not retry else loop.time() + (timeout if timeout is not None else math.inf)

        def published(failure: Failure | None) -> None:
            outcome.append(failure)
            _wake(done)

        publication = Publication(messages, published, until, span)
        self._publisher.put(publication)
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            self._publisher.withdraw(publication)
            if not outcome:  # The answer may have come in the very step in which time was up.
                outcome.append(
                    publication.failed(f"{self.broker}: no answer within {timeout:g} s. {doubt(self.broker)}")
                )
        except BaseException:
            self._publisher.withdraw(publication)
            raise
        if outcome[0] is not None:
            raise outcome[0]

    async def wait(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | None,
        on_change: Callable[[TaskMeta], None] | None = None,
        end_on_failure: bool = False,
        began: float | None = None,
    ) -> Outcome:
        """Wait for results of tasks that were handed out.

        Args:
            task_ids: The ids; at least one.
            timeout: Seconds to wait. None is no limit; 0 is one read, as where all were spent since ``began``.
            on_change: Called with each new state that is not final.
            end_on_failure: Whether to wait no longer once a task has failed.
            began: When the caller's call began, by the loop's clock: the timeout counts from then. None is now.

        Returns:
            How it ended.

        Raises:
            ConfigError: No result can be read where they are stored.
            ReadError: The results could not be read, and one read was all that was asked for.
            TooManyInFlightError: They are too many to wait for. A single read of each is not bounded by that.
        """
        loop = self.check()
        began = loop.time() if began is None else began
        left = _left(timeout, loop.time() - began)
        once = left == 0
        task_ids = list(task_ids)
        if once:
            self.check_readable()
        else:
            self.check_room(sum(not self._reader.awaits(task_id) for task_id in task_ids))
        over: asyncio.Future[None] = loop.create_future()
        waiter = self._reader.enter(
            task_ids,
            # A single read has the time that a command may take, once for the one under way and once for its own.
            timeout=2 * self.config.io_timeout if once else left,
            on_over=lambda: _wake(over),
            on_change=on_change,
            once=once,
            end_on_failure=end_on_failure,
        )
        try:
            await over
        finally:
            self._reader.leave(waiter)
        if waiter.error is not None:
            error = copy.copy(waiter.error)  # It may be told to many; each gets a traceback of its own.
            raise error
        if once and waiter.timed_out:
            raise ReadError(f"{self.backend}: no answer within {2 * self.config.io_timeout:g} s. {doubt(self.backend)}")
        return self._outcome(waiter, loop.time() - began)

    async def run(
        self,
        messages: Sequence[TaskMessage],
        span: SendSpan,
        *,
        task_ids: Sequence[str] | None = None,
        timeout: float | None,
        retry: bool,
        bulky: bool = False,
        end_on_failure: bool = False,
        keep_results: bool = False,
        on_answer: Callable[[str, TaskMeta | Exception], None] | None = None,
        began: float,
    ) -> Outcome:
        """Send tasks and wait for their results; the tasks are owned by this call.

        Args:
            messages: What is published; at least one.
            span: From `start_send`.
            task_ids: What is awaited. None is the tasks of the messages.
            timeout: Seconds for all of it. None is no limit.
            retry: Whether to send messages again after a failure.
            bulky: Whether large answers are expected.
            end_on_failure: Whether to wait no longer once a task has failed. The others are revoked.
            keep_results: Whether to delete no result.
            on_answer: Called with each answer, as it comes: with the task's id, and its meta or an error.
            began: When the caller's call began, by the loop's clock: the timeout counts from then, as making the
                messages is part of it.

        Returns:
            How it ended.

        Raises:
            PublishError: Nothing, or not all, was sent.
            PublishUnknownError: Something may or may not have been sent.
            ClientStateError: The client is not open, or was closed meanwhile.
            ConfigError: No result can be read where they are stored; nothing was sent.
            TooManyInFlightError: They are too many to wait for; nothing was sent.
        """
        loop = self.check()
        self.check_room(len(messages if task_ids is None else task_ids))
        over: asyncio.Future[None] = loop.create_future()
        job = self.job(
            messages,
            span,
            task_ids=task_ids,
            retry=retry,
            bulky=bulky,
            end_on_failure=end_on_failure,
            keep_results=keep_results,
        )
        job.send()  # Before it subscribes: that takes time, too, and both happen in this iteration of the loop.
        waiter = job.enter(_left(timeout, loop.time() - began), lambda: _wake(over), on_answer)
        try:
            await over
        finally:
            job.leave(waiter, loop.time())
        return self.outcome(job, waiter, loop.time() - began)

    def job(
        self,
        messages: Sequence[TaskMessage],
        span: SendSpan,
        *,
        task_ids: Sequence[str] | None = None,
        retry: bool,
        bulky: bool = False,
        end_on_failure: bool = False,
        keep_results: bool = False,
    ) -> Job:
        """Make a job. It is sent when its maker says so.

        Args:
            messages: What is published; at least one.
            span: From `start_send`.
            task_ids: What is awaited. None is the tasks of the messages.
            retry: Whether to send messages again after a failure.
            bulky: Whether large answers are expected.
            end_on_failure: Whether to wait no longer once a task has failed. The others are revoked.
            keep_results: Whether to delete no result.

        Returns:
            The job.
        """
        job = Job(
            messages,
            task_ids,
            self._publisher,
            self._reader,
            self.cleaner,
            retry=retry,
            bulky=bulky,
            end_on_failure=end_on_failure,
            revoke_on_cancel=self.config.revoke_on_cancel,
            keep_results=keep_results,
            span=span,
        )
        self._jobs.add(job)
        return job

    def outcome(self, job: Job, waiter: Waiter, waited: float) -> Outcome:
        """Tell how somebody's wait for owned job ended.

        Args:
            job: The job.
            waiter: Who waited. It is over.
            waited: Seconds that it took.

        Returns:
            How it ended.

        Raises:
            PublishError: Nothing, or not all, was sent.
            PublishUnknownError: Something may or may not have been sent.
            ClientStateError: The client was closed meanwhile.
        """
        if waiter.error is not None:
            error = copy.copy(waiter.error)  # It may be told to many; each gets a traceback of its own.
            raise error
        outcome = self._outcome(waiter, waited)
        outcome.unsent = job.unsent
        outcome.published = job.sent(outcome.missing)
        return outcome

    def _outcome(self, waiter: Waiter, waited: float) -> Outcome:
        unread = self._reader.trouble if waiter.timed_out else None
        return Outcome(
            waiter.arrived,
            list(waiter.missing),
            waiter.timed_out,
            waited,
            unread=unread,
            nobody=waiter.timed_out and self._probe.nobody,
            looks=waiter.looks,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a client and its handles cannot be pickled or copied: their connections belong to this process. Make a "
            "client in each process, and hand over ids: AsyncResult.id, of which CeleryClient.result(id) makes a handle"
        )

    def __del__(self) -> None:
        if self._state is _State.OPENED and not self._forked:
            warnings.warn(
                "a fibo_client client was not closed; use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


def doubt(asked: Broker | Backend) -> str:
    """Ask what may be wrong with a server that gives no answer.

    Args:
        asked: What talks to it.

    Returns:
        The question.
    """
    if asked.health.reached:
        return "Is it stopped, or very busy?"
    return "Is that a Redis, with TLS or without as the URL says?"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _left(timeout: float | None, spent: float) -> float | None:
    return None if timeout is None else max(0.0, timeout - spent)
