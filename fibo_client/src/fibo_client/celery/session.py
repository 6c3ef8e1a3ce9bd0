"""The running parts of a client, and the two ways to use them: jobs are submitted, and results are waited for.

What a job *owns* belongs to its caller: it is revoked when the caller leaves, and its results are deleted once they
have been read. Tasks that were *handed out* are only waited for: giving up a wait changes nothing, and it can be
repeated.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import math
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import anyio

from fibo_client.celery.budget import EACH, Budget
from fibo_client.celery.cleaner import Cleaner
from fibo_client.celery.config import EXPIRY_MARGIN
from fibo_client.celery.encoder import Encoder
from fibo_client.celery.jobs import Job
from fibo_client.celery.lifetime import Lifetime
from fibo_client.celery.outcome import Facts, outage_hint
from fibo_client.celery.pending import Wait
from fibo_client.celery.protocol.jsontypes import JSONCodec
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.publisher import Publisher
from fibo_client.celery.reader import Reader
from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.celery.routes import Routes
from fibo_client.celery.stats import ClientStats
from fibo_client.celery.timer import Timer
from fibo_client.celery.worker_probe import WorkerProbe
from fibo_client.errors import ClientStateError, ConfigError, ReadError, TooManyPendingError
from fibo_client.telemetry.tracer import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.jobs import Sizes
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.signature import SendOptions, Signature
    from fibo_client.telemetry.tracer import SendSpan, Tracer

T = TypeVar("T")

_NO_HEADERS: Final[Mapping[str, Any]] = {}

SETTLED: Final = 5.0
"""Seconds after which most tasks that were revoked, or had begun, have stored their result."""

SETTLED_LATE: Final = 30.0
"""Seconds after the deadline at which slower ones have, too."""

KEEP_ALIVE: Final = 2.5
"""Seconds between two looks at whether connections are well, while somebody waits."""


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
        self.routes: Routes | None = None if config.task_routes is None else Routes(config.task_routes)
        self.tracer: Tracer = guarded(config.telemetry)
        self._probe = WorkerProbe(broker)
        self._reader = Reader(backend, config, self._probe.ask, types)
        self._publisher = Publisher(broker, backend, self._reader)
        self._keep_alive_timer = Timer(self._keep_alive)
        self._lifetime = Lifetime()
        self.check: Callable[[], asyncio.AbstractEventLoop] = self._lifetime.check
        """See `Lifetime.check`."""
        self._closing: asyncio.Task[None] | None = None
        self._owned: weakref.WeakSet[Job] = weakref.WeakSet()

    async def open(self) -> None:
        """Start to run on the present event loop. No connection is made yet.

        Raises:
            ClientStateError: It was opened before.
        """
        self._lifetime.open()
        self._publisher.start()
        self._reader.start()
        self.cleaner.start()

    async def aclose(self) -> None:
        """Stop. Calls in flight end with an error; connections are closed. Closing twice does nothing more.

        In a forked process, it only forgets: the connections are the parent's, and closing them would disturb it.

        Raises:
            ClientStateError: It runs on another event loop.
        """
        if self._lifetime.close():
            self._closing = asyncio.create_task(
                self._close(), name="fibo_client.closing", context=contextvars.Context()
            )
        if self._closing is not None and not self._closing.done() and not self._lifetime.is_forked:
            # Closing goes on although its caller is cancelled; a caller whose scope has expired still waits.
            with anyio.CancelScope(shield=True):
                await asyncio.shield(self._closing)

    def _keep_alive(self) -> None:
        """See that connections are well while somebody waits. While nobody does, no command is sent."""
        if self._reader.awaited or not self._publisher.is_idle:
            self.broker.keep_alive()
            self.backend.keep_alive()
            self._keep_alive_timer.set_by(asyncio.get_running_loop().time() + KEEP_ALIVE)

    async def _close(self) -> None:
        self._keep_alive_timer.cancel()
        await self._publisher.aclose("the client was closed")
        await self._reader.aclose(ClientStateError("the client was closed while this call was waiting"))
        budget = Budget()
        for job in list(self._owned):  # Their callers may come too late for the cleaner, or not at all.
            self.end(job)
            if budget.is_spent(EACH):
                await budget.pause()
        await self._probe.aclose()
        await self.cleaner.aclose(self.config.io_timeout)
        await self.broker.aclose()
        await self.backend.aclose()

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
            pending=len(reader.awaited),
            in_flight=sum(job.tasks_in_flight for job in list(self._owned)),
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
            TooManyPendingError: They would be more than ``max_pending``.
        """
        if self.backend.unreadable is not None:
            self.check_readable()
        pending, limit = len(self._reader.awaited), self.config.max_pending
        if pending + wanted > limit:
            raise TooManyPendingError(limit=limit, pending=pending, wanted=wanted)

    def check_readable(self) -> None:
        """Check that results can be asked for at all.

        Raises:
            ConfigError: They are stored where this client cannot read them, or nowhere.
        """
        if self.backend.unreadable is not None:
            raise ConfigError(self.backend.unreadable)

    def routed(self, signatures: Iterable[Signature[T]], options: SendOptions) -> Iterable[Signature[T]]:
        """Give calls the options of their routes, where there are any. One alone goes through `routes` directly.

        Args:
            signatures: The calls.
            options: The options of the call that sends them.

        Returns:
            The calls as they go to the encoder, one by one as they are taken.
        """
        routes = self.routes
        return signatures if routes is None else (routes.apply(each, options) for each in signatures)

    def queue_for(self, task: str | RemoteTask[..., Any] | None) -> str:
        """Tell which queue a task goes to, unless its call says otherwise.

        Args:
            task: The task. None is any.

        Returns:
            The queue.
        """
        if isinstance(task, RemoteTask) and "queue" in task.options:
            return check_name("queue", task.options["queue"])
        if self.routes is None or task is None:
            return self.config.queue
        return self.routes.queue_of(task if isinstance(task, str) else task.name) or self.config.queue

    def start_send(self, signature: Signature[Any], options: SendOptions, *, batch: bool) -> SendSpan:
        """Start the span of messages that are about to be made and sent.

        Args:
            signature: The first of the tasks, whose options the span tells.
            options: The options of the call, which win over those of the signature.
            batch: Whether there may be several.

        Returns:
            The span, for the encoder, and then for `submit`.
        """
        return self.tracer.start_send(
            options.get("queue") or signature.options.get("queue", self.config.queue),
            self.broker.server,
            batch=batch,
            headers=options.get("headers") or signature.options.get("headers", _NO_HEADERS),
        )

    def submit(
        self,
        messages: Sequence[TaskMessage],
        span: SendSpan,
        *,
        awaits: Sequence[str],
        timeout: float | None,
        retry: bool,
        end_on_failure: bool = False,
        enough: set[str] | None = None,
        sizes: Sizes | None = None,
        counters: Sequence[str] = (),
        keep_results: bool = False,
        terminate_on_cancel: bool = False,
        began: float,
    ) -> Job:
        """Leave messages to be sent, and let the caller wait for what they are sent for. The caller must `end` the job.

        It has called `check` since it last gave the event loop its turn.

        Args:
            messages: What is published; at least one.
            span: From `start_send`.
            awaits: The ids of the tasks that are awaited, which the job then owns. Where there are none, the job waits
                for its messages to be sent.
            timeout: Seconds for all of it. None is no limit.
            retry: Whether to send messages again after a failure.
            end_on_failure: Whether to wait no longer once a task has failed. The others are revoked.
            enough: The tasks whose answers are enough. None is all.
            sizes: What is stored before the messages are sent, where they are of chords.
            counters: Names of what chords have stored beside results. They are deleted if not all is sent, and where
                tasks are awaited, unless they have succeeded.
            keep_results: Whether to delete no result.
            terminate_on_cancel: Whether to end its tasks even while they run, where they are revoked.
            began: When the caller's call began, by the loop's clock: the timeout counts from then, as making the
                messages is part of it.

        Returns:
            The job, whose future the caller awaits.

        Raises:
            ConfigError: There is no broker, or no result can be read where they are stored; nothing was sent.
            TooManyPendingError: They are too many to wait for; nothing was sent.
        """
        if self.broker.unusable is not None:
            raise ConfigError(self.broker.unusable)
        if sizes is not None and not sizes.stored and self.backend.unreadable is not None:
            raise ConfigError(f"a chord counts results where they are stored. {self.backend.unreadable}")
        if awaits:
            self.check_room(len(awaits))
        loop = asyncio.get_running_loop()
        now = loop.time()
        job = Job(
            messages,
            awaits,
            loop.create_future(),
            now,
            None if timeout is None else max(0.0, timeout - now + began),
            retry=retry,
            end_on_failure=end_on_failure,
            enough=enough,
            sizes=sizes,
            counters=counters,
            keep_results=keep_results,
            terminate_on_cancel=terminate_on_cancel,
            span=span,
        )
        # Both happen in this iteration of the loop: subscribing takes time, too.
        self._reader.enter(job, awaits, sent=False)
        self._publisher.put(job)
        self._keep_alive_timer.set_by(now + KEEP_ALIVE)
        if awaits:
            self._owned.add(job)
        return job

    def end(self, job: Job) -> None:
        """Send no more of a job, and wait for it no longer. What it owns is revoked if it is unanswered, else deleted.

        After its last deadline a task is not revoked: by default it expires then. Ending twice does nothing more.
        """
        if job.ended:
            return
        job.ended = True
        if not job.over:
            self._reader.leave(job)
        if job.other_waits:
            self._reader.fail(job.other_waits, ClientStateError("the result was closed while this call was waiting"))
        if not job.is_sent:
            self._publisher.withdraw(job)
        if not job.awaits:
            if job.counters and job.unsent:  # These chords never end.
                self.cleaner.delete(job.counters, named=True)
            return
        self._owned.discard(job)
        if job.missing:
            self._abandon(job)
        elif not job.keep_results:
            self.cleaner.delete(job.awaits)
            if job.failed and job.counters:
                self.cleaner.delete(job.counters, SETTLED, named=True, again=SETTLED_LATE)

    def _abandon(self, job: Job) -> None:
        """Revoke and delete what a job owns, where not all of it has an answer."""
        unsent = () if job.is_sent else job.unsent_tasks()
        abandoned = [task_id for task_id in job.missing if task_id not in unsent]
        # Where the outcome of sending is unknown, the caller is told so, and may yet wait for the task.
        spared = job.maybe_sent if job.error is not None else ()
        now = asyncio.get_running_loop().time()
        terminate = job.terminate_on_cancel
        is_running = abandoned and not job.has_enough and now < job.last_deadline
        if is_running and (self.config.revoke_on_cancel or terminate):
            self.cleaner.revoke([task_id for task_id in abandoned if task_id not in spared], terminate=terminate)
        if job.keep_results:
            return
        # Workers store more results after this: of steps that run, of those that were revoked, and of later ones of a
        # chain, or when they expire. Nobody needs these, so they are deleted again.
        left = 0.0 if job.has_enough else job.deadline - now
        late = left + 2 * EXPIRY_MARGIN
        again = (left if left < math.inf else 0.0) + SETTLED_LATE
        soon = min(late, SETTLED)
        kept = [task_id for task_id in abandoned if task_id in spared]
        self.cleaner.delete([task_id for task_id in abandoned if task_id not in spared], soon, again=again)
        if kept and late < math.inf:
            self.cleaner.delete(kept, late, again=again)
        if job.counters and (job.failed or not job.has_enough):
            counted = late if kept else soon
            if counted < math.inf:
                self.cleaner.delete(job.counters, counted, named=True, again=again)
        if answered := [task_id for task_id in job.awaits if task_id not in job.missing]:
            self.cleaner.delete(answered)

    async def publish(
        self,
        messages: Sequence[TaskMessage],
        span: SendSpan,
        *,
        timeout: float | None,
        retry: bool,
        sizes: Sizes | None = None,
        counters: Sequence[str] = (),
        began: float,
    ) -> None:
        """Send tasks that are handed out.

        Args:
            messages: The tasks.
            span: From `start_send`.
            timeout: Seconds that sending may take. None is no limit.
            retry: Whether to send messages again after a failure.
            sizes: As for `submit`.
            counters: As for `submit`.
            began: As for `submit`.

        Raises:
            PublishError: They were not sent.
            PublishUnknownError: They may or may not have been sent.
        """
        job = self.submit(
            messages, span, awaits=(), timeout=timeout, retry=retry, sizes=sizes, counters=counters, began=began
        )
        try:
            await job.future
        finally:
            self.end(job)
        if job.timed_out:
            raise job.publish_error(f"{self.broker}: no answer within {timeout:g} s. {outage_hint(self.broker)}")
        if job.error is not None:
            raise job.error

    def enter(
        self,
        task_ids: Iterable[str],
        *,
        timeout: float | None,
        wants_changes: bool = False,
        end_on_failure: bool = False,
        enough: set[str] | None = None,
        began: float | None = None,
        jobs: Sequence[Job] = (),
    ) -> Wait:
        """Let a caller wait for results of tasks. The caller must `leave`.

        Args:
            task_ids: The ids. Where there are none, the wait is not to be awaited.
            timeout: Seconds to wait. None is no limit; 0 is one read, as where all were spent since ``began``.
            wants_changes: Whether the wait's future tells of new states that are not final, too.
            end_on_failure: Whether to wait no longer once a task has failed.
            enough: The tasks whose answers are enough. None is all.
            began: When the caller's call began, by the loop's clock: the timeout counts from then. None is now.
            jobs: The jobs that have some of these tasks, where another caller started them.

        Returns:
            The wait, whose future the caller awaits.

        Raises:
            ConfigError: No result can be read where they are stored.
            TooManyPendingError: They are too many to wait for. A single read of each is not bounded by that.
            PublishError: One of the jobs was not sent.
            PublishUnknownError: One of the jobs may or may not have been sent.
            ClientStateError: One of the jobs has been ended.
        """
        loop = self.check()
        now = loop.time()
        left = None if timeout is None else max(0.0, timeout - now + (now if began is None else began))
        task_ids = list(task_ids)
        sent = True
        for job in jobs:
            if job.ended:
                raise ClientStateError(f"{job.awaits[0]}: this result was closed, and cannot be awaited any more")
            if (failure := job.was_not_sent) is not None:
                error = copy.copy(failure)
                raise error
            sent = sent and job.sending_ended
        once = left == 0
        if once:
            self.check_readable()
            # A single read has the time that a command may take, once for the one under way and once for its own.
            left = 2 * self.config.io_timeout
        elif len(task_ids) > len(jobs):  # Those of the jobs are awaited already.
            self.check_room(len(task_ids) - len(jobs))
        wait = Wait(
            loop.create_future(),
            now,
            left,
            once=once,
            end_on_failure=end_on_failure,
            enough=enough,
            wants_changes=wants_changes,
        )
        for job in jobs:
            job.other_waits.append(wait)
            if not once:
                job.last_deadline = max(job.last_deadline, wait.deadline)
        # Where some have been sent, all are read: what has not been is merely not there yet.
        self._reader.enter(wait, task_ids, sent=sent or len(task_ids) > 1)
        self._keep_alive_timer.set_by(now + KEEP_ALIVE)
        return wait

    def leave(self, wait: Wait, jobs: Sequence[Job] = ()) -> None:
        """Wait no longer, also for tasks that another caller started."""
        self._reader.leave(wait)
        for job in jobs:
            job.other_waits.remove(wait)

    def end_in_turns(self, jobs: list[Job]) -> None:
        """Wait no longer for jobs, as `end`, for many. The event loop gets its turn now and then."""
        for job in jobs:  # At once: their caller is told what was not sent.
            job.withdrawn = True
        budget = Budget()
        while jobs:
            self.end(jobs.pop())
            if jobs and budget.is_spent(EACH):
                asyncio.get_running_loop().call_soon(self.end_in_turns, jobs, context=contextvars.Context())
                return

    def leave_in_turns(self, leaving: list[tuple[Wait, Sequence[Job]]]) -> None:
        """Wait no longer, as `leave`, for many. The event loop gets its turn now and then."""
        budget = Budget()
        while leaving:
            self.leave(*leaving.pop())
            if leaving and budget.is_spent(EACH):
                asyncio.get_running_loop().call_soon(self.leave_in_turns, leaving, context=contextvars.Context())
                return

    def check_error(self, wait: Wait) -> None:
        """Raise what ended a wait, unless it was its deadline.

        Raises:
            PublishError: Nothing, or not all, was sent.
            PublishUnknownError: Something may or may not have been sent.
            ReadError: The results could not be read, and one read was all that was asked for.
            ClientStateError: The client was closed meanwhile.
        """
        if wait.error is not None:
            error = copy.copy(wait.error)  # It may be told to many; each gets a traceback of its own.
            raise error
        if wait.once and wait.timed_out:
            raise ReadError(
                f"{self.backend}: no answer within {2 * self.config.io_timeout:g} s. {outage_hint(self.backend)}"
            )

    def facts(self, wait: Wait, waited: float, job: Job | None = None) -> Facts:
        """Tell what is known of why a wait ended without an answer.

        Args:
            wait: The wait, which is over.
            waited: Seconds that it took.
            job: The job whose tasks were awaited, where there is one.

        Returns:
            The facts.
        """
        return Facts(
            timed_out=wait.timed_out,
            waited=waited,
            unsent=self._unsent_reason(job) if job is not None and job.was_nothing_sent else None,
            unread=self._reader.unreadable_reason if wait.timed_out else None,
            no_worker=wait.timed_out and self._probe.nobody,
            published=None if job is None else job.were_sent(list(wait.missing)),
            looks=wait.looks,
            broker=self.broker,
            backend=self.backend,
        )

    def _unsent_reason(self, job: Job) -> str:
        """Say why nothing of a job was sent."""
        if job.failure is not None:
            return job.failure.reason
        if not self.broker.ready:
            return f"{self.broker}: there is no connection yet. {outage_hint(self.broker)}"
        return "the command before it has had no answer yet"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a client and its handles cannot be pickled or copied: their connections belong to this process. Make a "
            "client in each process, and hand over ids: AsyncResult.id, of which CeleryClient.result(id) makes a handle"
        )

    def __del__(self) -> None:
        if self._lifetime.was_left_open:
            warnings.warn(
                "a fibo_client client was not closed; use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
