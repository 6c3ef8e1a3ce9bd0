"""A stream of answers: a bounded window that moves over a source of inputs, which may never end.

One task a stream, the feeder, pulls inputs from the source and requests the answer of each; the answers come back by
callbacks. Everything that runs belongs to a `_Window`, which knows nothing of the `Stream` that owns it: so a
stream that is dropped halfway (a ``break`` without ``async with``) is collected, and its finaliser stops the rest.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Iterable
from dataclasses import dataclass, field
from inspect import isasyncgen
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, TypeVar

import anyio

from fibo_client.celery.budget import Budget
from fibo_client.errors import ClientStateError
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Stream"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
V = TypeVar("V")

SLICE: Final = 256
"""The most inputs that are pulled, and the most answers that are delivered, before the event loop gets its turn."""

_LONGEST_REPR: Final = 100

# The event loop holds its tasks weakly. A feeder that waits for room is held by nothing but its stream, and both could
# be collected together, without a chance to stop it first.
_FEEDERS: Final[set[asyncio.Task[None]]] = set()


_NO_ANSWER: Final = object()
"""Stands in the place of an answer that has not come. None may be one."""


class Requests(Protocol[T_contra]):
    """What answers the inputs. A stream keeps what `join` returns for `leave`, and does not look into it."""

    def join(self, value: T_contra, deadline: float, receiver: Callable[[Any], None]) -> Any:
        """Request the answer for an input. TypeError and ValueError say that it is none, and go into its place.

        Args:
            value: The input.
            deadline: When to give up, by the loop's clock. Infinity is never.
            receiver: Gets the answer, or an exception, once and never during this call.

        Returns:
            The request.
        """

    def leave(self, request: Any) -> None:
        """Give up a request. Doing so again, or after the answer, does nothing."""


class Stream(Generic[T, V]):
    """The answers for a source of inputs, as pairs of an input and its answer, as they come.

    ::

        async with client.stream(resize, names) as answers:
            async for name, path in answers:
                print(name, path)

    At most `max_in_flight` inputs are pulled from the source and not yet delivered, so a source may be endless and a
    slow reader slows it down. A source that is not asynchronous is pulled on the event loop: it must not block. The
    first error ends the stream; a note on it says for which input it is (a program that must know uses
    `return_exceptions`). An error of the source itself is raised once everything that was pulled before it has been
    delivered.

    Leaving ``async with`` stops the source, closes it if it is an async generator, and revokes what has no answer yet.
    Without ``async with``, all of this happens in the background soon after the stream is collected.

    Args:
        requests: What answers the inputs.
        source: The inputs: an iterable or an async iterable, finite or not.
        seconds: The time that each input has from the moment it is pulled. None is no limit.
        max_in_flight: The most inputs that are pulled and not yet delivered.
        ordered: Whether to deliver in the order of the source, rather than as the answers come.
        return_exceptions: Whether to deliver the error of an input that failed, or that was refused, in place of its
            answer, and to go on.
        weigh: Gives what ``requests`` take of an input, and how many tasks that is. None is the input, and one.

    Raises:
        TypeError: The source cannot be iterated over or is text, or max_in_flight is not an integer.
        ValueError: max_in_flight is less than 1.
    """

    def __init__(
        self,
        requests: Requests[T],
        source: Iterable[T] | AsyncIterable[T],
        *,
        seconds: float | None,
        max_in_flight: int,
        ordered: bool,
        return_exceptions: bool,
        weigh: Callable[[T], tuple[Any, int]] | None = None,
    ) -> None:
        # First of all: the finaliser needs it, also of a stream that is refused.
        limit = math.inf if seconds is None else seconds
        self._window = _Window(requests, source, limit, max_in_flight, ordered, return_exceptions, weigh)
        self._in_a_row = 0
        if not isinstance(source, (Iterable, AsyncIterable)) or isinstance(source, (str, bytes, bytearray)):
            advice = "; is an `await` missing?" if isinstance(source, Awaitable) else ""
            kind = type(source).__name__
            raise TypeError(f"source must be an iterable or async iterable, not {kind}{advice}")
        if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int):
            raise TypeError(f"max_in_flight must be an integer, not {type(max_in_flight).__name__}")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be 1 or more, not {max_in_flight}")

    if not TYPE_CHECKING:  # A type checker refuses `for` and `with` by itself.

        def __iter__(self) -> NoReturn:
            raise TypeError("use `async for`, in a coroutine: the answers of a stream are awaited")

        def __enter__(self) -> NoReturn:
            raise TypeError("use `async with`, in a coroutine: a plain `with` cannot close the stream")

        def __exit__(self, *_: object) -> None: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[T, V]:
        window = self._window
        window.start()
        if window.awaited:
            raise RuntimeError("this stream is already being read; one task at a time can do that")
        if self._in_a_row == SLICE or not window.settled:
            await window.settle()
            self._in_a_row = 0
        self._in_a_row += 1
        # After the last suspension: a reader that is cancelled has lost nothing.
        return window.take()

    async def aclose(self) -> None:
        """Stop the source, revoke what has no answer yet, and end the stream. Closing twice does nothing more.

        An error that an async generator raises while it is closed is raised here.

        Raises:
            ClientStateError: It runs on another event loop than the stream.
        """
        window = self._window
        window.check_loop()
        window.stop()
        window.start()  # If it never was: the feeder closes the source.
        feeder = window.feeder
        # A caller whose scope has expired still waits until the source is closed and all requests are left.
        with anyio.CancelScope(shield=True):
            if window.leaving is not None:
                await asyncio.wait([window.leaving])
            if feeder is not None:
                await asyncio.wait([feeder])
        if feeder is not None and window.feeder is feeder:
            window.feeder = None  # Its error is told once.
            if not feeder.cancelled():
                feeder.result()

    async def __aenter__(self) -> Self:
        self._window.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        window = self._window
        state = "over" if window.over else "not begun" if window.loop is None else f"{window.held} in flight"
        return f"<Stream of {type(window.source).__name__}, {state}>"

    def __del__(self) -> None:
        window = self._window
        if window.loop is not None and not window.over:
            try:
                # The garbage collector may run in any thread.
                window.loop.call_soon_threadsafe(window.stop)
            except RuntimeError:
                pass  # The loop is closed, and nothing runs on it any more.


class _Entry:
    """An input that was pulled, until it is delivered."""

    __slots__ = ("answer", "request", "value", "weight", "window")

    def __init__(self, window: _Window, value: Any) -> None:
        self.window = window
        self.value = value
        self.weight = 1
        self.request: Any = None
        self.answer: Any = _NO_ANSWER

    @property
    def has_answer(self) -> bool:
        return self.answer is not _NO_ANSWER

    def answered(self, answer: Any) -> None:
        self.answer = answer
        self.request = None  # It knows this method: without the cycle it is free at once.
        self.window.entry_answered(self)


@dataclass(eq=False, repr=False)
class _Window:
    """Everything of a stream that runs."""

    requests: Requests[Any]
    source: Iterable[Any] | AsyncIterable[Any]
    seconds: float
    max_in_flight: int
    ordered: bool
    return_exceptions: bool
    weigh: Callable[[Any], tuple[Any, int]] | None

    loop: asyncio.AbstractEventLoop | None = None
    feeder: asyncio.Task[None] | None = None
    pulling: bool = False
    fed: bool = False
    failure: Exception | None = None
    over: bool = False
    held: int = 0
    """How many tasks the inputs have that are pulled and not yet delivered."""
    unanswered: set[_Entry] = field(default_factory=set)
    leaving: asyncio.Future[None] | None = None
    """Done when all requests are left. None before there is one to leave, or if there were few."""
    to_deliver: deque[_Entry] = field(default_factory=deque)
    """What to deliver, in this order: all that is held if it is `ordered`, else what has its answer."""
    awaited: bool = False
    news: asyncio.Future[None] | None = None
    room: asyncio.Future[None] | None = None

    def check_loop(self) -> None:
        if self.loop is not None and self.loop is not asyncio.get_running_loop():
            raise ClientStateError("this stream runs on another event loop; use it where it was begun")

    def start(self) -> None:
        self.check_loop()
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            # In the caller's context: the source is the caller's code.
            self.feeder = self.loop.create_task(self._feed(), name="fibo_client.stream")
            _FEEDERS.add(self.feeder)
            self.feeder.add_done_callback(self._feeder_ended)

    def stop(self) -> None:
        """Give up whatever is under way. The feeder ends on its own, once it has closed the source."""
        # Before its first step, a cancelled task ends without it; afterwards, closing must not be interrupted.
        if self.pulling and self.feeder is not None:
            self.feeder.cancel()
        if self.over:
            return
        self.over = True
        self.failure = None
        _wake(self.news)
        self._leave()

    def _leave(self) -> None:
        """Leave requests, and free answers: as many as the event loop has time for, and the rest in its next turns."""
        budget = Budget()
        while self.unanswered or self.to_deliver:
            if self.unanswered:
                self.requests.leave(self.unanswered.pop().request)
            if self.to_deliver:
                self.to_deliver.pop()
            if budget.is_spent():
                loop = asyncio.get_running_loop()
                if self.leaving is None:
                    self.leaving = loop.create_future()
                loop.call_soon(self._leave)
                return
        _wake(self.leaving)

    # The reader's side.

    @property
    def settled(self) -> bool:
        """Whether it is known what is delivered next, if anything."""
        if self.to_deliver and not self.over:
            return self.to_deliver[0].has_answer
        return self.over or (self.fed and not self.held)

    async def settle(self) -> None:
        """Wait until it is; if it is already, just give the event loop its turn."""
        self.awaited = True
        try:
            if self.settled:
                await asyncio.sleep(0)
            while not self.settled:
                self.news = asyncio.get_running_loop().create_future()
                await self.news
        finally:
            self.awaited = False
            self.news = None

    def take(self) -> tuple[Any, Any]:
        """Deliver what is next."""
        if self.over or not self.to_deliver:
            failure = self.failure
            self.stop()
            raise StopAsyncIteration if failure is None else failure
        entry = self.to_deliver.popleft()
        self.held -= entry.weight
        _wake(self.room)
        if isinstance(entry.answer, Exception) and not self.return_exceptions:
            self.stop()
            entry.answer.add_note(f"input = {short_repr(entry.value, _LONGEST_REPR)}")
            raise entry.answer
        return entry.value, entry.answer

    # The feeder's side.

    async def _feed(self) -> None:
        values: AsyncIterator[Any] | None = None
        try:
            values = aiter(self.source) if isinstance(self.source, AsyncIterable) else _each(self.source)
            self.pulling = not self.over
            if self.pulling:
                await self._pull(values)
            self._end(None)
        except asyncio.CancelledError:
            pass  # By `stop`, or by someone else: see `_feeder_ended`.
        except Exception as error:
            if self.over:
                raise  # To whoever closes the stream.
            self._end(error)
        finally:
            self.pulling = False
        if isasyncgen(values):
            await values.aclose()

    async def _pull(self, values: AsyncIterator[Any]) -> None:
        in_a_row = 0
        async for value in values:
            if self.over:
                break  # The source took no notice of its cancellation.
            entry = _Entry(self, value)
            given = self._look(entry)
            while self.held and self.held + entry.weight > self.max_in_flight:
                await self._has_room()  # One that is larger than all of the window goes alone.
            self._request(entry, given)
            in_a_row += 1
            while self.held >= self.max_in_flight:
                await self._has_room()
            if in_a_row == SLICE:
                await asyncio.sleep(0)
                in_a_row = 0

    async def _has_room(self) -> None:
        self.room = asyncio.get_running_loop().create_future()
        await self.room

    def _look(self, entry: _Entry) -> Any:
        """See what an input is to `join`, and how many tasks it has."""
        if self.weigh is None:
            return entry.value
        try:
            given, entry.weight = self.weigh(entry.value)
        except (TypeError, ValueError) as error:
            entry.answer = error.with_traceback(None)  # Which would hold this frame, and so the entry.
            return None
        return given

    def _request(self, entry: _Entry, given: Any) -> None:
        try:
            if not entry.has_answer:
                deadline = asyncio.get_running_loop().time() + self.seconds
                entry.request = self.requests.join(given, deadline, entry.answered)
        except (TypeError, ValueError) as error:
            entry.answer = error.with_traceback(None)
        if entry.has_answer:
            _wake(self.news)
        else:
            self.unanswered.add(entry)
        self.held += entry.weight
        if self.ordered or entry.has_answer:
            self.to_deliver.append(entry)

    def entry_answered(self, entry: _Entry) -> None:
        """Take note that an entry has its answer."""
        self.unanswered.discard(entry)
        if self.over:
            return
        if not self.ordered:
            self.to_deliver.append(entry)
        if self.to_deliver[0] is entry:
            _wake(self.news)

    def _feeder_ended(self, feeder: asyncio.Task[None]) -> None:
        _FEEDERS.discard(feeder)
        # If it could not say so itself, then it was cancelled, as the reader was not: it must not look so there.
        self._end(RuntimeError("the task that reads the source was cancelled"))

    def _end(self, failure: Exception | None) -> None:
        if not self.over and not self.fed:
            self.fed = True
            self.failure = failure
            _wake(self.news)


async def _each(values: Iterable[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
