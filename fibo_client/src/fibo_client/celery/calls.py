"""Calls that come one by one, of a stream or a list: each is a task of its own, or shares a chunk with others."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fibo_client.celery.budget import Budget, cancel_in_turns
from fibo_client.celery.canvas import signatures_of
from fibo_client.celery.chunk import STARMAP, chunk_of, positional
from fibo_client.celery.flows import call_flow
from fibo_client.celery.gather import conclude
from fibo_client.celery.outcome import decoded
from fibo_client.celery.owned_result import start_owned
from fibo_client.celery.protocol import states
from fibo_client.celery.signature import Signature, check_flow, is_flow
from fibo_client.errors import ChunkRetriedError, FiboError, MessageError, ResultTimeoutError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.celery.owned_result import OwnedResult
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Flow, SendOptions

T = TypeVar("T")

MAX_DELAY: Final = 0.02
"""The most seconds that calls are held back to fill a chunk, which has one message for all of them."""

_SLACK: Final = 0.001
"""Seconds by which a timer may go off before its time."""


class Call:
    """One call, until its answer is there.

    Attributes:
        flow: The task with its arguments, or a flow.
        args: The arguments by their positions, where it may share a chunk.
        began: When it was asked for, by the loop's clock.
        deadline: When to give up. Infinity is never.
        receiver: What gets the answer. None once it has, or nobody wants it any more.
        message: What it was sent with. None before.
    """

    __slots__ = ("args", "began", "deadline", "flow", "message", "receiver")

    def __init__(
        self,
        flow: Any,
        args: Sequence[Any],
        began: float,
        deadline: float,
        receiver: Callable[[Any], None],
    ) -> None:
        self.flow: Any = flow
        self.args: Sequence[Any] = args
        self.began: float = began
        self.deadline: float = deadline
        self.receiver: Callable[[Any], None] | None = receiver
        self.message: _Message | _FlowMessage | None = None

    def settle(self, answer: Any) -> None:
        """Hand on the answer, unless nobody wants it any more."""
        receiver, self.receiver, self.message = self.receiver, None, None
        if receiver is not None:
            receiver(answer)


class _Message:
    """One message: the calls in it, how many of them somebody wants, and its task."""

    __slots__ = ("calls", "result", "wanted")

    def __init__(self, result: OwnedResult[Any], calls: Sequence[Call]) -> None:
        self.result: OwnedResult[Any] = result
        self.calls: Sequence[Call] = calls
        self.wanted: int = len(calls)

    def give_up(self) -> None:
        """Revoke its task: nobody waits for it any more."""
        self.result.close()
        self.result.job.future.cancel()  # Nobody wakes it any more, and it would keep the message alive.


class _FlowMessage:
    """One flow, which an asyncio task of its own calls."""

    __slots__ = ("calling", "wanted")

    def __init__(self, calling: asyncio.Task[Any]) -> None:
        self.calling: asyncio.Task[Any] = calling
        self.wanted: int = 1

    def give_up(self) -> None:
        """Revoke its tasks: nobody waits for it any more."""
        self.calling.cancel()


class Calls(Generic[T]):
    """Sends calls that are asked for one by one, and hands each its answer.

    Args:
        session: The client's running parts.
        call: Makes the call for an input.
        options: The options of all of them, which win over those of each.
        chunk_size: The most calls in one message.
        retry: Whether to send messages again, until the deadline, if sending fails.
        terminate_on_cancel: Whether to end a message's task even while it runs, once nobody waits for it any more.
        deadline: When to give up all of them, by the loop's clock. Infinity is never.
        max_delay: The most seconds that calls are held back to fill a chunk. Infinity is until `flush`.

    Raises:
        MessageError: An option cannot be sent.
    """

    def __init__(
        self,
        session: Session,
        call: Callable[[T], Flow[Any]],
        options: SendOptions,
        *,
        chunk_size: int,
        retry: bool,
        terminate_on_cancel: bool,
        deadline: float = math.inf,
        max_delay: float = MAX_DELAY,
    ) -> None:
        session.encoder.one(Signature(STARMAP), options, NOOP_SPAN)  # To say so before an input is pulled.
        self._session = session
        self._call = call
        self._options = options
        self._chunk_size = chunk_size
        self._retry = retry
        self._terminate_on_cancel = terminate_on_cancel
        self._deadline = deadline
        self._max_delay = max_delay
        self._loop: asyncio.AbstractEventLoop
        self._held: dict[tuple[str, str], list[Call]] = {}
        """The calls that are held back, by their task and options."""
        self._ready: deque[list[Call]] = deque()
        self._messages: set[_Message | _FlowMessage] = set()
        """What was sent and has no answer."""
        self._flush: asyncio.Handle | None = None
        self._sending: asyncio.Handle | None = None

    def make(self, value: T) -> tuple[Flow[Any], int]:
        """Make the call of an input.

        Args:
            value: The input.

        Returns:
            The call, for `join`, and how many tasks it has.

        Raises:
            TypeError: The input does not fit the task, or gives nothing that can be called.
            ValueError: The task refuses the input.
        """
        flow = self._call(value)
        if isinstance(flow, Signature):
            return flow, 1
        check_flow(flow)
        return flow, sum(1 for _ in signatures_of(flow))

    def join(self, flow: Flow[Any], deadline: float, receiver: Callable[[Any], None]) -> Call:
        """Ask for the answer of a call.

        Args:
            flow: The call, from `make`.
            deadline: When to give up, by the loop's clock. Infinity is never.
            receiver: Gets the answer, or an exception, once and never during this call.

        Returns:
            The call, for `leave`.

        Raises:
            TypeError: The arguments do not fit the task's parameters.
            MessageError: It cannot be called in chunks.
            ClientStateError: The client is not open here.
        """
        if not isinstance(flow, Signature) or is_flow(flow):
            return self._join_flow(flow, deadline, receiver)
        signature = flow
        if self._session.routes is not None:
            signature = self._session.routes.apply(signature, self._options)
        args = signature.args if self._chunk_size == 1 else positional(signature)
        # By their text: not every option can be hashed, and to Python 1 is True.
        kind = signature.task, repr(signature.options) if signature.options else ""
        held = self._held.get(kind)
        if held is None:  # What shares its message comes soon after it.
            self._loop = self._session.check()
            held = self._held[kind] = []
        call = Call(signature, args, self._loop.time(), min(deadline, self._deadline), receiver)
        held.append(call)
        if len(held) == self._chunk_size:
            self._send_soon(self._held.pop(kind))
        elif self._flush is None and self._max_delay < math.inf:
            self._flush = self._loop.call_later(self._max_delay, self._send_old)
        return call

    def _join_flow(self, flow: Flow[Any], deadline: float, receiver: Callable[[Any], None]) -> Call:
        if self._chunk_size > 1:
            raise MessageError("chunk_size is for tasks: a chain, a group or a chord has messages of its own")
        self._loop = self._session.check()
        call = Call(flow, (), self._loop.time(), min(deadline, self._deadline), receiver)
        self._send_soon([call])
        return call

    def leave(self, call: Call) -> None:
        """Give up a call. With the last of its message, that is revoked. Again, or after the answer, it does nothing.

        Args:
            call: From `join`.
        """
        call.receiver = None
        message, call.message = call.message, None
        if message is not None:
            message.wanted -= 1
            if not message.wanted:
                self._messages.discard(message)
                message.give_up()

    def flush(self) -> None:
        """Send what is held back: no more calls come soon."""
        held, self._held = self._held, {}
        for calls in held.values():
            self._send_soon(calls)

    def close(self) -> None:
        """Give up all calls. The event loop gets its turn now and then."""
        self._held.clear()
        self._ready.clear()
        self._session.end_in_turns([each.result.job for each in self._messages if isinstance(each, _Message)])
        cancel_in_turns([each.calling for each in self._messages if isinstance(each, _FlowMessage)])
        self._messages.clear()

    # Sending.

    def _send_old(self) -> None:
        """Send what has been held back long enough."""
        self._flush = None
        old = self._loop.time() - self._max_delay + _SLACK
        for kind in [kind for kind, calls in self._held.items() if calls[0].began <= old]:
            self._send_soon(self._held.pop(kind))
        if self._held:
            oldest = min(calls[0].began for calls in self._held.values())
            self._flush = self._loop.call_at(oldest + self._max_delay, self._send_old)

    def _send_soon(self, calls: list[Call]) -> None:
        self._ready.append(calls)
        if self._sending is None:
            self._sending = self._loop.call_soon(self._send_some)

    def _send_some(self) -> None:
        """Send what is ready: as much as the event loop has time for, and the rest in its next turns."""
        self._sending = None
        budget = Budget()
        while self._ready:
            wanted = [call for call in self._ready.popleft() if call.receiver is not None]
            if wanted:
                self._send(wanted)
            if self._ready and budget.is_spent(len(wanted)):
                self._sending = self._loop.call_soon(self._send_some)
                return

    def _send(self, calls: list[Call]) -> None:
        first, alone = calls[0], len(calls) == 1
        deadline = max(call.deadline for call in calls)
        timeout = None if deadline == math.inf else max(0.0, deadline - self._loop.time())
        if not isinstance(first.flow, Signature) or is_flow(first.flow):
            self._send_flow(first, timeout)
            return
        result = _tried(
            start_owned,
            self._session,
            first.flow if alone else chunk_of(first.flow, [call.args for call in calls]),
            self._options.copy(),
            timeout=timeout,
            retry=self._retry,
            terminate_on_cancel=self._terminate_on_cancel,
        )
        if isinstance(result, Exception):
            if alone or not isinstance(result, MessageError):
                self._deliver(_failed(calls, result))
            else:  # One of them is to blame, or they are too large together.
                middle = len(calls) // 2
                self._ready.extendleft((calls[middle:], calls[:middle]))
            return
        message = _Message(result, calls)
        self._messages.add(message)
        for call in calls:
            call.message = message
        if not alone:
            result.task = first.flow.task  # For errors: what the caller knows.
            result.job.changes = deque()
        self._listen(message)

    def _send_flow(self, call: Call, timeout: float | None) -> None:
        calling = call_flow(
            self._session,
            call.flow,
            self._options.copy(),
            timeout=timeout,
            began=self._loop.time(),
            retry=self._retry,
            terminate_on_cancel=self._terminate_on_cancel,
        )
        message = call.message = _FlowMessage(self._loop.create_task(calling, name="fibo_client.calls"))
        self._messages.add(message)
        message.calling.add_done_callback(partial(self._flow_ended, call, message))

    def _flow_ended(self, call: Call, message: _FlowMessage, calling: asyncio.Task[Any]) -> None:
        self._messages.discard(message)
        if not calling.cancelled():
            call.settle(calling.exception() or calling.result())

    # Answering.

    def _listen(self, message: _Message) -> None:
        # An empty context: it may serve several callers.
        message.result.job.future.add_done_callback(partial(self._heard, message), context=Context())

    def _heard(self, message: _Message, future: asyncio.Future[None]) -> None:
        """Take note of the answer of a message, of its end without one, or of another state of a chunk."""
        if future.cancelled():  # Nobody wants it any more.
            return
        result, job = message.result, message.result.job
        retry = next((meta for meta in job.changes or () if meta.state == states.RETRY), None)
        if retry is not None and job.missing:
            # It would run again and again, or never, and would store no answer.
            error = ChunkRetriedError(task_id=result.id, task=message.calls[0].flow.task, info=retry.result)
            self._deliver(_failed(message.calls, error))
        elif job.over:
            self._deliver(self._answers(message))
        else:
            job.future = self._loop.create_future()
            self._listen(message)
            return
        self._messages.discard(message)
        result.close()

    def _answers(self, message: _Message) -> Iterator[tuple[Call, Any]]:
        """Pair the calls of a message with their answers. What takes time is done when a pair is taken."""
        calls, task_id = message.calls, message.result.id
        answer = _tried(conclude, self._session, message.result, message.result.job, calls[0].began)
        if isinstance(answer, Exception):
            return _failed(calls, answer)
        if len(calls) == 1:
            return iter([(calls[0], answer)])
        return (
            (call, item if decode is None else _tried(decoded, item, task_id, call.flow.task, decode))
            for call, item in zip(calls, answer, strict=True)
            for decode in [call.flow.decode]
        )

    def _deliver(self, answers: Iterator[tuple[Call, Any]]) -> None:
        """Hand on answers: as many as the event loop has time for, and the rest in its next turns."""
        budget = Budget()
        for call, answer in answers:
            call.settle(answer)
            if budget.is_spent():
                self._loop.call_soon(self._deliver, answers)
                return


def _failed(calls: Sequence[Call], error: Exception) -> Iterator[tuple[Call, Exception]]:
    """Pair calls with the error of all of them."""
    if len(calls) == 1 or not isinstance(error, FiboError):  # Not every error can be copied.
        return ((call, error) for call in calls)
    if not isinstance(error, ResultTimeoutError):
        return ((call, copy.copy(error)) for call in calls)
    now = asyncio.get_running_loop().time()
    return ((call, error.replace(waited=now - call.began)) for call in calls)


def _tried(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Give what a function returns, or the error that it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - a task's own `decode` may raise anything, and each call needs an answer
        return error
