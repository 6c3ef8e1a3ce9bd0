"""Calls that come one by one, of a stream or a list: each is a task of its own, or shares a chunk with others."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fibo_client.celery.budget import Budget
from fibo_client.celery.chunk import chunk_of, positional
from fibo_client.celery.outcome import decoded
from fibo_client.celery.owned_result import start_owned
from fibo_client.celery.protocol import states
from fibo_client.celery.signature import check_signature
from fibo_client.errors import (
    ChunkRetriedError,
    ClientStateError,
    FiboError,
    MessageError,
    ResultTimeoutError,
)
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fibo_client.celery.owned_result import OwnedResult
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import SendOptions, Signature

T = TypeVar("T")

MAX_DELAY: Final = 0.005
"""The most seconds that calls are held back to fill a chunk."""


class Call:
    """One call, until its answer is there.

    Attributes:
        signature: The task with its arguments.
        args: The arguments by their positions, where it may share a chunk.
        began: When it was asked for, by the loop's clock.
        deadline: When to give up. Infinity is never.
        receiver: What gets the answer. None once it has, or nobody wants it any more.
        sending: What it was sent with. None before.
    """

    __slots__ = ("args", "began", "deadline", "receiver", "sending", "signature")

    def __init__(
        self, signature: Signature[Any], began: float, deadline: float, receiver: Callable[[Any], None]
    ) -> None:
        self.signature: Signature[Any] = signature
        self.args: Sequence[Any] = ()
        self.began: float = began
        self.deadline: float = deadline
        self.receiver: Callable[[Any], None] | None = receiver
        self.sending: _Sending | None = None

    def settle(self, answer: Any) -> None:
        """Hand on the answer, unless nobody wants it any more."""
        receiver, self.receiver, self.sending = self.receiver, None, None
        if receiver is not None:
            receiver(answer)


class _Sending:
    """One message: the calls in it, and the task that waits for their answers."""

    __slots__ = ("calls", "result", "waiting", "wanted")

    def __init__(self, result: OwnedResult[Any], calls: Sequence[Call]) -> None:
        self.result: OwnedResult[Any] = result
        self.calls: Sequence[Call] = calls
        self.wanted: int = len(calls)
        self.waiting: asyncio.Task[None] | None = None


class Calls(Generic[T]):
    """Sends calls that are asked for one by one, and hands each its answer.

    Args:
        session: The client's running parts.
        call: Makes the call for an input.
        options: The options of all of them, which win over those of each.
        chunk_size: The most calls in one message.
        retry: Whether to send messages again, until the deadline, if sending fails.
        terminate_on_cancel: Whether to end a message's task even while it runs, once nobody waits for it any more.
    """

    def __init__(
        self,
        session: Session,
        call: Callable[[T], Signature[Any]],
        options: SendOptions,
        *,
        chunk_size: int,
        retry: bool,
        terminate_on_cancel: bool,
    ) -> None:
        self._session = session
        self._call = call
        self._options = options
        self._chunk_size = chunk_size
        self._retry = retry
        self._terminate_on_cancel = terminate_on_cancel
        self._open: dict[str, list[Call]] = {}
        """The calls of each task that are held back."""
        self._ready: list[list[Call]] = []
        """What is sent next, last first."""
        self._flush: asyncio.Handle | None = None
        self._sending: asyncio.Handle | None = None

    def join(self, value: T, deadline: float, receiver: Callable[[Any], None]) -> Call:
        """Ask for the answer of a call.

        Args:
            value: The input.
            deadline: When to give up, by the loop's clock. Infinity is never.
            receiver: Gets the answer, or an exception, once and never during this call.

        Returns:
            The call, for `leave`.

        Raises:
            TypeError: The input does not fit the task, or gives no signature.
            ValueError: The task refuses the input. MessageError, if it cannot be called in chunks.
            ClientStateError: The client is not open here.
        """
        loop = self._session.check()
        signature = self._call(value)
        check_signature(signature)
        if self._session.routes is not None:
            signature = self._session.routes.apply(signature, self._options)
        call = Call(signature, loop.time(), deadline, receiver)
        if self._chunk_size == 1:
            self._send_soon([call])
            return call
        call.args = positional(signature)
        held = self._open.setdefault(signature.task, [])
        if held and held[0].signature.options != signature.options:
            self._send_soon(self._open.pop(signature.task))
            held = self._open.setdefault(signature.task, [])
        held.append(call)
        if len(held) == self._chunk_size:
            self._send_soon(self._open.pop(signature.task))
        elif self._flush is None:
            self._flush = loop.call_later(MAX_DELAY, self._send_open)
        return call

    def leave(self, call: Call) -> None:
        """Give up a call. With the last of its message, that is revoked. Again, or after the answer, it does nothing.

        Args:
            call: From `join`.
        """
        if call.receiver is None:
            return
        call.receiver = None
        sending, call.sending = call.sending, None
        if sending is not None:
            sending.wanted -= 1
            if not sending.wanted and sending.waiting is not None:
                sending.waiting.cancel()

    # Sending.

    def _send_open(self) -> None:
        self._flush = None
        held, self._open = self._open, {}
        for calls in held.values():
            self._send_soon(calls)

    def _send_soon(self, calls: list[Call]) -> None:
        self._ready.insert(0, calls)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().call_soon(self._send_some)

    def _send_some(self) -> None:
        """Send what is ready: as much as the event loop has time for, and the rest in its next turns."""
        self._sending = None
        budget = Budget()
        while self._ready:
            self._send([call for call in self._ready.pop() if call.receiver is not None])
            if self._ready and budget.is_spent(16):
                self._sending = asyncio.get_running_loop().call_soon(self._send_some)
                return

    def _send(self, calls: list[Call]) -> None:
        if not calls:
            return
        loop = asyncio.get_running_loop()
        deadline = max(call.deadline for call in calls)
        alone = len(calls) == 1
        try:
            result: OwnedResult[Any] = start_owned(
                self._session,
                calls[0].signature if alone else chunk_of(calls[0].signature, [call.args for call in calls]),
                self._options.copy(),
                timeout=None if deadline == math.inf else max(0.0, deadline - loop.time()),
                retry=self._retry,
                terminate_on_cancel=self._terminate_on_cancel,
            )
        except MessageError as error:
            if alone:
                calls[0].settle(error)
            else:
                self._send_apart(calls)
            return
        except FiboError as error:
            for call in calls:
                call.settle(copy.copy(error))
            return
        sending = _Sending(result, calls)
        for call in calls:
            call.sending = sending
        # An empty context: it may serve several callers.
        sending.waiting = loop.create_task(_settle(sending), name="fibo_client.calls", context=Context())
        sending.waiting.add_done_callback(partial(_ended, sending))

    def _send_apart(self, calls: list[Call]) -> None:
        """Send a chunk that cannot be sent without the calls that are to blame; in halves, if it is none of them."""
        good = []
        for call in calls:
            try:
                self._session.encoder.one(call.signature, self._options, NOOP_SPAN)
            except MessageError as error:
                call.settle(error)
            else:
                good.append(call)
        if len(good) < len(calls):
            self._send(good)
        else:
            middle = len(good) // 2
            self._send(good[:middle])
            self._send(good[middle:])


async def _settle(sending: _Sending) -> None:
    """Wait for the answer of a message, and hand each call its own."""
    result, calls = sending.result, sending.calls
    try:
        answers: Iterable[Any] = [await result.get()] if len(calls) == 1 else await _chunk_answers(result, calls)
    except FiboError as error:
        now = asyncio.get_running_loop().time()
        for call in calls:
            if isinstance(error, ResultTimeoutError):
                call.settle(error.replace(waited=now - call.began))
            else:
                call.settle(copy.copy(error))
        return
    if len(calls) == 1:
        calls[0].settle(*answers)
        return
    budget = Budget()
    for call, answer in zip(calls, answers, strict=True):
        signature = call.signature
        try:
            value: Any = decoded(answer, result.id, signature.task, signature.decode)
        except FiboError as error:
            value = error
        call.settle(value)
        if budget.is_spent():
            await budget.pause()


async def _chunk_answers(result: OwnedResult[list[Any]], calls: Sequence[Call]) -> list[Any]:
    """Wait for the answers of a chunk. A retry ends it: it would run again and again, and store no answer."""
    async with contextlib.aclosing(result.updates()) as metas:
        async for meta in metas:
            if meta.state == states.RETRY:
                raise ChunkRetriedError(task_id=result.id, task=calls[0].signature.task, info=meta.result)
    return await result.get()


def _ended(sending: _Sending, waiting: asyncio.Task[None]) -> None:
    """Revoke a message whose answer nobody wants any more, or delete its result. Leave no call without an answer."""
    sending.result.close()
    error = None if waiting.cancelled() else waiting.exception()
    for call in sending.calls:
        if call.receiver is not None:
            call.settle(
                ClientStateError("a task of the client's own, which waited for this call, was cancelled")
                if error is None
                else RuntimeError(f"waiting for a call failed: {error!r}")
            )


async def call_in_chunks(
    session: Session,
    signatures: Sequence[Signature[Any]],
    options: SendOptions,
    *,
    chunk_size: int,
    timeout: float | None,
    retry: bool,
    return_exceptions: bool,
    terminate_on_cancel: bool,
) -> list[Any]:
    """Send calls in chunks and wait for all their answers.

    Args:
        session: The client's running parts.
        signatures: The calls.
        options: The options of all of them.
        chunk_size: The most calls in one message.
        timeout: Seconds for all of it. None is no limit.
        retry: Whether to send messages again, until the deadline, if sending fails.
        return_exceptions: Whether to put the error of a call that failed, or gave no answer in time, in its place.
        terminate_on_cancel: As for `Calls`.

    Returns:
        The answers, in order.

    Raises:
        MessageError: A call cannot be in a chunk, or sent.
        ResultTimeoutError: Not all answers came in time. The error carries what did, by index.
        FiboError: Another error of a call. The others are revoked.
    """
    loop = session.check()
    began = loop.time()
    deadline = math.inf if timeout is None else began + timeout
    for signature in signatures:  # Before any of them is sent.
        positional(signature)
    calls: Calls[Signature[Any]] = Calls(
        session, _same, options, chunk_size=chunk_size, retry=retry, terminate_on_cancel=terminate_on_cancel
    )
    answers: dict[int, Any] = {}
    over: asyncio.Future[None] = loop.create_future()

    def receive(index: int, answer: Any) -> None:
        answers[index] = answer
        ends = isinstance(answer, Exception) and not (return_exceptions or isinstance(answer, ResultTimeoutError))
        if (ends or len(answers) == len(signatures)) and not over.done():
            over.set_result(None)

    asked: list[Call] = []
    budget = Budget()
    try:
        for index, signature in enumerate(signatures):
            asked.append(calls.join(signature, deadline, partial(receive, index)))
            if budget.is_spent():
                await budget.pause()
        await over
    finally:
        for call in asked:
            calls.leave(call)
    if not return_exceptions:
        _raise_first(answers, len(signatures), loop.time() - began)
    return [answers[index] for index in range(len(signatures))]


def _raise_first(answers: dict[int, Any], total: int, waited: float) -> None:
    """Raise the error of the first call that failed; else, if answers are missing, one error for all of these."""
    errors = {index: answer for index, answer in sorted(answers.items()) if isinstance(answer, Exception)}
    for error in errors.values():
        if not isinstance(error, ResultTimeoutError):
            raise error
    late = [error for error in errors.values() if isinstance(error, ResultTimeoutError)]
    if late:
        raise late[0].replace(
            task_ids=list(dict.fromkeys(task_id for each in late for task_id in each.task_ids)),
            total=total,
            finished={index: answer for index, answer in answers.items() if index not in errors},
            waited=waited,
        )


def _same(signature: Signature[Any]) -> Signature[Any]:
    return signature
