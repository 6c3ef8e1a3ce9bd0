"""Concurrent calls that share chunks.

Each caller who wants a number makes a request. Numbers requested in one iteration of the event loop are sent together
in chunks: at once while few chunks are in flight, else when one of them settles, or after a few milliseconds. Requests
for the same number share one computation. A caller who leaves disturbs nobody else; when the last one leaves, the work
is withdrawn or revoked.

A request joins a computation under way only if the task does not expire before the request's deadline.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from contextvars import Context, copy_context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.batching.chunk import decode, signature
from fibo_client.batching.packing import is_large, pack
from fibo_client.contract import MAX_CHUNK
from fibo_client.errors import ClientStateError, FiboError, ResultTimeoutError
from fibo_client.validation import check_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.batching.chunk import Answer, BatchOptions
    from fibo_client.batching.packing import Chunk
    from fibo_client.celery.client import CeleryClient
    from fibo_client.celery.owned_result import OwnedResult

MAX_IN_FLIGHT: Final = 8
"""While a bucket has fewer chunks than this in flight, it is flushed at the end of the loop's iteration. A flush
that has begun sends a chunk in each iteration until nothing is pending."""

MAX_DELAY: Final = 0.005
"""The most seconds that numbers are held back to fill a chunk."""

SLICE: Final = 128
"""The most requests that get their answer in one iteration of the event loop. Their callers go on in the next, perhaps
to make other calls."""

_MANY_BUCKETS: Final = 64

_DEADLINE_STEP: Final = 0.01
"""Deadlines are rounded up to multiples of so many seconds, so that requests made together share one."""


Receiver: TypeAlias = "asyncio.Future[int] | Callable[[Answer], None]"
"""What gets an answer: a future, or a callback."""


class Request:
    """One caller's request for a number.

    Attributes:
        computation: What computes the number, perhaps for other requests, too.
        began: When it was made, by the loop's clock.
        deadline: When to give up. Infinity is never.
        context: The caller's context, for telemetry. None where there is none.
        receiver: What gets the answer; None once it has, or the caller left.
    """

    __slots__ = ("began", "computation", "context", "deadline", "receiver")

    def __init__(
        self, computation: _Computation, began: float, deadline: float, context: Context | None, receiver: Receiver
    ) -> None:
        self.computation: _Computation = computation
        self.began: float = began
        self.deadline: float = deadline
        self.context: Context | None = context
        self.receiver: Receiver | None = receiver


class _Computation:
    """One number, pending or sent, and the requests for it."""

    # Most have one request. A dict for each would double what the garbage collector has to look through.
    __slots__ = ("_first", "_others", "batch", "bucket", "n")

    def __init__(self, n: int, bucket: _Bucket) -> None:
        self.n: int = n
        self.bucket: _Bucket = bucket
        self.batch: _Batch | None = None
        self._first: Request | None = None
        self._others: dict[Request, None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether any request is left."""
        return self._first is not None or bool(self._others)

    @property
    def requests(self) -> list[Request]:
        """The requests that wait for it."""
        first = [] if self._first is None else [self._first]
        return [*first, *self._others] if self._others else first

    def add(self, request: Request) -> None:
        """Add a request."""
        if self._first is None:
            self._first = request
        elif self._others is None:
            self._others = {request: None}
        else:
            self._others[request] = None

    def discard(self, request: Request) -> None:
        """Remove a request. Once none is left, none may join any more."""
        if self._first is request:
            self._first = None
        elif self._others is not None:
            self._others.pop(request, None)
        if not self.wanted:
            self.close()

    def accepts(self, deadline: float) -> bool:
        """Tell whether a request with this deadline may join: the task must not expire before."""
        return self.batch is None or deadline <= self.batch.expires_at

    def close(self) -> None:
        """Let no request join any more."""
        if self.bucket.computations.get(self.n) is self:
            del self.bucket.computations[self.n]

    def finish(self) -> list[Request]:
        """Let no request join any more, and return those that did."""
        self.close()
        return self.requests


class _Bucket:
    """The numbers that may share chunks, as their options and cost class are equal: pending ones and sent ones."""

    __slots__ = ("computations", "delayed", "in_flight", "options", "packed", "pending", "scheduled")

    def __init__(self, options: BatchOptions) -> None:
        self.options: BatchOptions = options
        self.computations: dict[int, _Computation] = {}
        self.pending: deque[_Computation] = deque()
        self.packed: deque[Chunk] = deque()
        self.in_flight: int = 0
        self.scheduled: asyncio.Handle | None = None
        self.delayed: bool = False
        """Whether the scheduled flush is delayed: more numbers may share the chunk by then."""

    @property
    def idle(self) -> bool:
        """Whether nothing is pending or in flight."""
        return not self.computations and not self.in_flight


class _DeadlineGroup:
    """The requests of a batch whose rounded deadlines are equal, and the task that waits for all of them."""

    __slots__ = ("requests", "waiting")

    def __init__(self, waiting: asyncio.Task[list[Any]]) -> None:
        self.waiting = waiting
        self.requests: dict[Request, None] = {}


class _Batch:
    """A chunk that was sent, and the requests that wait for it."""

    __slots__ = ("answered", "computations", "expires_at", "groups", "result", "task_id")

    def __init__(self, result: OwnedResult[list[Any]], computations: Sequence[_Computation]) -> None:
        # None once it is over: a batch and its computations refer to each other, and would keep the text of the answer
        # until the garbage collector comes.
        self.result: OwnedResult[list[Any]] | None = result
        self.task_id: str = result.id
        self.expires_at: float = result.expires_at
        self.computations: Sequence[_Computation] = computations
        self.groups: dict[float, _DeadlineGroup] = {}
        self.answered: bool = False


class Batcher:
    """Sends numbers that are requested one by one in shared chunks, for all users of a client.

    Args:
        celery: The client.
        chunk_size: The most numbers in one chunk.
    """

    def __init__(self, celery: CeleryClient, chunk_size: int) -> None:
        self._celery = celery
        self._chunk_size = chunk_size
        self._traced = celery.config.telemetry is not None
        self._buckets: dict[tuple[BatchOptions, bool], _Bucket] = {}
        self._many_buckets = _MANY_BUCKETS
        self._deliveries: deque[Iterator[tuple[Request, Answer]]] = deque()
        self._left_in_slice = 0
        self._next_slice: asyncio.Handle | None = None

    def join(self, n: int, options: BatchOptions, deadline: float, receiver: Receiver) -> Request:
        """Request a number.

        Args:
            n: Its index, checked before.
            options: How it is sent.
            deadline: When to give up, by the loop's clock. Infinity is never.
            receiver: Gets the number or an error of its own, once and never during this call.

        Returns:
            The request, for `leave`.

        Raises:
            ClientStateError: The client is not open here.
        """
        self._celery.check()
        loop = asyncio.get_running_loop()
        key = (options, is_large(n))
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._many_buckets:  # A program may use any number of queues, one after the other.
                self._buckets = {key: each for key, each in self._buckets.items() if not each.idle}
                self._many_buckets = max(_MANY_BUCKETS, 2 * len(self._buckets))
            bucket = self._buckets[key] = _Bucket(options)
        computation = bucket.computations.get(n)
        if computation is None or not computation.accepts(deadline):
            computation = bucket.computations[n] = _Computation(n, bucket)
            bucket.pending.append(computation)
            if bucket.scheduled is None:
                self._schedule_flush(bucket, loop)
        context = copy_context() if self._traced else None
        request = Request(computation, loop.time(), deadline, context, receiver)
        computation.add(request)
        if computation.batch is not None:
            self._join_batch(computation.batch, request)
        return request

    def leave(self, request: Request) -> None:
        """Give up a request. Doing so again, or after the answer, does nothing.

        Args:
            request: From `join`.
        """
        if request.receiver is None:
            return
        request.receiver = None
        request.computation.discard(request)
        batch = request.computation.batch
        if batch is None or batch.answered:
            return
        deadline = _rounded(request.deadline)
        group = batch.groups.get(deadline)
        if group is not None:
            group.requests.pop(request, None)
            if not group.requests:
                del batch.groups[deadline]
                self._leave_batch(batch, group)

    # Sending.

    def _schedule_flush(self, bucket: _Bucket, loop: asyncio.AbstractEventLoop) -> None:
        """Have the bucket flushed: at once, or when there has been time to fill a chunk."""
        if bucket.in_flight < MAX_IN_FLIGHT:
            bucket.scheduled = loop.call_soon(self._flush, bucket)
        else:
            bucket.scheduled = loop.call_later(MAX_DELAY, self._flush, bucket)
            bucket.delayed = True

    def _flush(self, bucket: _Bucket) -> None:
        """Send one chunk, and more of them in the next iterations of the loop."""
        bucket.scheduled = None
        bucket.delayed = False
        if not bucket.packed:
            ready = [bucket.pending.popleft() for _ in range(min(len(bucket.pending), MAX_CHUNK))]
            wanted = [each.n for each in ready if each.wanted and each.batch is None]
            bucket.packed.extend(pack(wanted, chunk_size=self._chunk_size))
            if bucket.pending and len(bucket.packed) > 1:  # The last one may take more of those that follow.
                bucket.pending.extendleft(bucket.computations[n] for n in reversed(bucket.packed.pop().numbers))
        if bucket.packed:
            chunk = bucket.packed.popleft()
            # A computation that everybody has left since may have been replaced by a pending one. That is sent now.
            computations = [each for n in chunk.numbers if (each := bucket.computations.get(n)) and each.batch is None]
            if computations:
                self._send(bucket, chunk._replace(numbers=[each.n for each in computations]), computations)
        if bucket.packed or bucket.pending:
            bucket.scheduled = asyncio.get_running_loop().call_soon(self._flush, bucket)

    def _send(self, bucket: _Bucket, chunk: Chunk, computations: Sequence[_Computation]) -> None:
        now = asyncio.get_running_loop().time()
        deadline = max(request.deadline for each in computations for request in each.requests)
        start = partial(
            self._celery.start,
            signature(chunk, bucket.options, self._celery.last_priority, decoded=False),
            timeout=None if deadline == math.inf else max(deadline - now, 0.0),
            retry=True,
        )
        # Many may have asked for its numbers. It is sent for the first of them, and shared by the others.
        context = computations[0].requests[0].context
        try:
            result = start() if context is None else context.run(start)
        except FiboError as error:
            self._refuse(computations, error)
            return
        batch = _Batch(result, computations)
        bucket.in_flight += 1
        for computation in computations:
            computation.batch = batch
            for request in computation.requests:
                self._join_batch(batch, request)

    def _join_batch(self, batch: _Batch, request: Request) -> None:
        """Have the request wait for the batch, in the group of its deadline."""
        result = batch.result
        if batch.answered or result is None:  # Its answer is about to be delivered: until then no deadline counts.
            return
        deadline = _rounded(request.deadline)
        group = batch.groups.get(deadline)
        if group is None:
            loop = asyncio.get_running_loop()
            left = None if deadline == math.inf else max(0.0, deadline - loop.time())
            # An empty context: the task serves everybody in the group.
            waiting = loop.create_task(result.get(left), name="fibo_client.batch", context=Context())
            waiting.add_done_callback(partial(self._settled, batch, deadline))
            group = batch.groups[deadline] = _DeadlineGroup(waiting)
        group.requests[request] = None
        if request.context is not None:
            request.context.run(result.link)

    def _leave_batch(self, batch: _Batch, group: _DeadlineGroup) -> None:
        """Have the group wait for the batch no longer. With the last group, the batch is over."""
        group.waiting.cancel()
        result = batch.result
        if batch.groups or result is None:
            return
        result.close()
        batch.result = None
        if not batch.answered:
            for computation in batch.computations:
                computation.close()
        bucket = batch.computations[0].bucket
        bucket.in_flight -= 1
        if bucket.pending and bucket.delayed and bucket.scheduled is not None:
            bucket.scheduled.cancel()
            bucket.delayed = False
            bucket.scheduled = asyncio.get_running_loop().call_soon(self._flush, bucket)

    # Answering.

    def _settled(self, batch: _Batch, deadline: float, waiting: asyncio.Task[list[Any]]) -> None:
        """Deliver the answer, or the timeouts of the group with this deadline."""
        group = batch.groups.get(deadline)
        if group is None or group.waiting is not waiting:  # All of the group have left.
            return
        del batch.groups[deadline]
        outcome = _outcome(waiting)
        if isinstance(outcome, ResultTimeoutError):
            timed_out = outcome  # A worker that finds the task expired says so to all groups, each in its turn.
            now = asyncio.get_running_loop().time()
            self._deliver((request, timed_out.replace(waited=now - request.began)) for request in group.requests)
        elif not batch.answered:
            batch.answered = True
            self._deliver(self._answers(batch, outcome))
        self._leave_batch(batch, group)

    def _answers(self, batch: _Batch, outcome: list[Any] | Exception) -> Iterator[tuple[Request, Answer]]:
        """Pair requests with their answers. What takes time is done when a pair is taken."""
        task_id = batch.task_id
        if isinstance(outcome, Exception):
            failure = outcome
            for computation in batch.computations:
                computation.close()  # At once: a request made from now on has an attempt of its own.
            return (
                (request, copy.copy(failure)) for computation in batch.computations for request in computation.requests
            )
        return (
            (request, copy.copy(answer) if isinstance(answer, Exception) else answer)
            for computation, item in zip(batch.computations, outcome, strict=True)
            if computation.wanted
            for answer in [decode(item, task_id)]
            for request in computation.finish()
        )

    def _refuse(self, computations: Sequence[_Computation], error: FiboError) -> None:
        """Fail all requests of computations that could not be sent."""
        for computation in computations:
            computation.close()
        self._deliver((request, copy.copy(error)) for each in computations for request in each.requests)

    def _deliver(self, answers: Iterator[tuple[Request, Answer]]) -> None:
        """Deliver answers: what is left of this iteration's slice, the others in the next iterations of the loop."""
        self._deliveries.append(answers)
        if self._next_slice is None:
            self._deliver_slice()
        else:
            self._deliver_some()

    def _deliver_slice(self) -> None:
        self._next_slice = None
        if self._deliveries:
            self._left_in_slice = SLICE
            self._next_slice = asyncio.get_running_loop().call_soon(self._deliver_slice)
            self._deliver_some()

    def _deliver_some(self) -> None:
        while self._left_in_slice and self._deliveries:
            for request, answer in islice(self._deliveries[0], self._left_in_slice):
                self._answer(request, answer)
                self._left_in_slice -= 1
            if self._left_in_slice:
                self._deliveries.popleft()

    def _answer(self, request: Request, answer: Answer) -> None:
        receiver, request.receiver = request.receiver, None
        if receiver is None:
            return
        request.computation.discard(request)
        if not isinstance(receiver, asyncio.Future):
            receiver(answer)
        elif not receiver.done():  # Or its owner was cancelled, and has not left yet.
            if isinstance(answer, Exception):
                receiver.set_exception(answer)
            else:
                receiver.set_result(answer)


class NumberRequests:
    """The requests of one stream of numbers.

    Args:
        batcher: What answers them.
        options: How they are sent.
        max_n: The largest index that is allowed.
    """

    def __init__(self, batcher: Batcher, options: BatchOptions, max_n: int) -> None:
        self._batcher = batcher
        self._options = options
        self._max_n = max_n
        self.leave: Callable[[Request], None] = batcher.leave

    def join(self, value: int, deadline: float, receiver: Callable[[Answer], None]) -> Request:
        """Request a number. See `Batcher.join`.

        Args:
            value: Its index.
            deadline: When to give up, by the loop's clock. Infinity is never.
            receiver: Gets the number or an error of its own, once and never during this call.

        Returns:
            The request.

        Raises:
            TypeError: It is not an integer.
            ValueError: It is negative or too large.
            ClientStateError: The client is not open here.
        """
        return self._batcher.join(check_index(value, self._max_n), self._options, deadline, receiver)


def _outcome(waiting: asyncio.Task[list[Any]]) -> list[Any] | Exception:
    """Give the items of an answer, or why there are none."""
    if waiting.cancelled():  # As by a program that cancels all tasks of its loop.
        return ClientStateError("a task of the client's own, which waited for this number, was cancelled")
    error = waiting.exception()
    if error is None:
        return waiting.result()
    return error if isinstance(error, Exception) else RuntimeError(f"a batch failed: {error!r}")


def _rounded(deadline: float) -> float:
    return deadline if deadline == math.inf else math.ceil(deadline / _DEADLINE_STEP) * _DEADLINE_STEP
