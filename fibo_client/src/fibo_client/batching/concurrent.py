"""Concurrent calls that share chunks.

Whoever wants a number takes a seat. Numbers that are asked for in one iteration of the event loop leave together in
chunks, at once while few chunks are in flight; else they wait until one settles, a few milliseconds at most. One
flight carries one number, however many wait for it. Whoever leaves disturbs nobody else; when the last one leaves,
the work is withdrawn or revoked.

A flight takes one more as long as its task will not expire before the newcomer's deadline.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.batching.chunk import decode, handle, is_bulky, options, signature
from fibo_client.batching.packing import is_large, pack
from fibo_client.celery.jobs import EXPIRY_MARGIN
from fibo_client.celery.result import collect
from fibo_client.contract import MAX_CHUNK
from fibo_client.errors import FiboError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fibo_client.batching.chunk import Answer, Lane
    from fibo_client.batching.packing import Chunk
    from fibo_client.celery.jobs import Job
    from fibo_client.celery.registry import Waiter
    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.session import Session
    from fibo_client.telemetry.recorder import Sending

MAX_IN_FLIGHT: Final = 8
"""While fewer chunks than this are in flight, numbers begin to leave at the end of the loop's iteration. Once they have
begun, a chunk leaves in each iteration until none is pending."""

LONGEST_HOLD: Final = 0.005
"""The most seconds that numbers are held back to fill a chunk."""

SLICE: Final = 128
"""The most seats that are told their answer in one iteration of the event loop. Those who were told go on in the next,
perhaps to make other calls."""

_MANY_LINES: Final = 64

_GRID: Final = 0.01
"""Deadlines are rounded up to multiples of so many seconds, so that those who come together share one."""


Told: TypeAlias = "asyncio.Future[int] | Callable[[Answer], None]"
"""Who gets an answer: a future, or what is called with it."""


class Seat:
    """Somebody's claim to a number.

    Attributes:
        flight: What carries the number.
        began: When it was taken, by the loop's clock.
        deadline: When to give up. Infinity is never.
        origin: Who claims it, for telemetry.
        told: Who gets the answer; None once it was told, or the seat was left.
    """

    __slots__ = ("began", "deadline", "flight", "origin", "told")

    def __init__(self, flight: _Flight, began: float, deadline: float, origin: Any, told: Told) -> None:
        self.flight: _Flight = flight
        self.began: float = began
        self.deadline: float = deadline
        self.origin: Any = origin
        self.told: Told | None = told


class _Flight:
    """A number that somebody wants, waiting to leave or under way."""

    # Most are wanted once. A dict for each would double what the garbage collector has to look through.
    __slots__ = ("_first", "_others", "launch", "line", "n")

    def __init__(self, n: int, line: _Line) -> None:
        self.n: int = n
        self.line: _Line = line
        self.launch: _Launch | None = None
        self._first: Seat | None = None
        self._others: dict[Seat, None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return self._first is not None or bool(self._others)

    @property
    def seats(self) -> list[Seat]:
        """Those who wait for it."""
        return [*([] if self._first is None else [self._first]), *(self._others or ())]

    def seat(self, seat: Seat) -> None:
        """Let one more wait for it."""
        if self._first is None:
            self._first = seat
        elif self._others is None:
            self._others = {seat: None}
        else:
            self._others[seat] = None

    def vacate(self, seat: Seat) -> None:
        """Let one wait for it no longer. When nobody does, nobody may join any more."""
        if self._first is seat:
            self._first = None
        elif self._others is not None:
            self._others.pop(seat, None)
        if not self.wanted:
            self.close()

    def takes(self, deadline: float) -> bool:
        """Tell whether somebody with this deadline may join: the task must not expire before."""
        return self.launch is None or deadline <= self.launch.expiry

    def close(self) -> None:
        """Let nobody join any more."""
        if self.line.flights.get(self.n) is self:
            del self.line.flights[self.n]

    def leave_the_table(self) -> list[Seat]:
        """Let nobody join any more, and give those who did."""
        self.close()
        return self.seats


class _Line:
    """The numbers of one lane and cost class: those that wait to leave, and how many chunks are under way."""

    __slots__ = ("flights", "held", "in_flight", "lane", "packed", "pending", "planned")

    def __init__(self, lane: Lane) -> None:
        self.lane: Lane = lane
        self.flights: dict[int, _Flight] = {}
        self.pending: deque[_Flight] = deque()
        self.packed: deque[Chunk] = deque()
        self.in_flight: int = 0
        self.planned: asyncio.Handle | None = None
        self.held: bool = False
        """Whether what is planned is for later: there may be more to share the chunk by then."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits to leave, or is under way."""
        return not self.flights and not self.in_flight


class _Party:
    """Those on one launch whose deadlines are the same, near enough."""

    __slots__ = ("seats", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.seats: dict[Seat, None] = {}


class _Launch:
    """A chunk that was sent."""

    __slots__ = ("answered", "began", "expiry", "flights", "handle", "job", "parties", "sending", "task_id")

    def __init__(
        self,
        job: Job,
        sending: Sending,
        task_id: str,
        handle: Callable[[], AsyncResult[list[Answer]]],
        flights: Sequence[_Flight],
        began: float,
        expiry: float,
    ) -> None:
        self.job: Job = job
        self.sending: Sending = sending
        self.task_id: str = task_id
        self.handle: Callable[[], AsyncResult[list[Answer]]] = handle
        self.flights: Sequence[_Flight] = flights
        self.began: float = began
        self.expiry: float = expiry
        self.parties: dict[float, _Party] = {}
        self.answered: bool = False


class Flights:
    """The numbers that are asked for one by one, on behalf of everybody who holds the client.

    Args:
        session: The client's running parts.
        chunk_size: The most numbers in one chunk.
    """

    def __init__(self, session: Session, chunk_size: int) -> None:
        self._session = session
        self._chunk_size = chunk_size
        self._last_priority = session.broker.last_priority
        self._lines: dict[tuple[Lane, bool], _Line] = {}
        self._many_lines = _MANY_LINES
        self._telling: deque[Iterator[tuple[Seat, Answer]]] = deque()
        self._may_tell = 0
        self._next_turn: asyncio.Handle | None = None

    def join(self, n: int, lane: Lane, deadline: float, told: Told) -> Seat:
        """Ask for a number.

        Args:
            n: Its index, checked before.
            lane: How it is sent.
            deadline: When to give up, by the loop's clock. Infinity is never.
            told: Who gets, once and never in here, the number or an error of its own.

        Returns:
            The seat, which can be left.

        Raises:
            ClientStateError: The client is not open here.
        """
        loop = self._session.check()
        key = (lane, is_large(n))
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= self._many_lines:  # A program may use any number of queues, one after the other.
                self._lines = {key: each for key, each in self._lines.items() if not each.idle}
                self._many_lines = max(_MANY_LINES, 2 * len(self._lines))
            line = self._lines[key] = _Line(lane)
        flight = line.flights.get(n)
        if flight is None or not flight.takes(deadline):
            flight = line.flights[n] = _Flight(n, line)
            line.pending.append(flight)
            if line.planned is None:
                self._plan(line, loop)
        seat = Seat(flight, loop.time(), deadline, self._session.recorder.capture(), told)
        flight.seat(seat)
        if flight.launch is not None:
            self._board(flight.launch, seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """Give up a seat. Doing so again, or after the answer, does nothing.

        Args:
            seat: From `join`.
        """
        if seat.told is None:
            return
        seat.told = None
        seat.flight.vacate(seat)
        launch = seat.flight.launch
        if launch is None or launch.answered:
            return
        moment = _on_grid(seat.deadline)
        party = launch.parties.get(moment)
        if party is not None:
            party.seats.pop(seat, None)
            if not party.seats:
                del launch.parties[moment]
                self._disembark(launch, party)

    # Leaving.

    def _plan(self, line: _Line, loop: asyncio.AbstractEventLoop) -> None:
        """Let what is pending leave: at once, or when there has been time to fill a chunk."""
        if line.in_flight < MAX_IN_FLIGHT:
            line.planned = loop.call_soon(self._flush, line)
        else:
            line.planned = loop.call_later(LONGEST_HOLD, self._flush, line)
            line.held = True

    def _flush(self, line: _Line) -> None:
        """Let one chunk leave, and more of them in the next iterations of the loop."""
        line.planned = None
        line.held = False
        if not line.packed:
            ready = [line.pending.popleft() for _ in range(min(len(line.pending), MAX_CHUNK))]
            wanted = [flight.n for flight in ready if flight.wanted and flight.launch is None]
            line.packed.extend(pack(wanted, chunk_size=self._chunk_size))
            if line.pending and len(line.packed) > 1:  # The last one may take more of those that follow.
                line.pending.extendleft(line.flights[n] for n in reversed(line.packed.pop().numbers))
        if line.packed:
            chunk = line.packed.popleft()
            # A flight that everybody has left since may have been replaced by one that is still pending. It leaves now.
            flights = [flight for n in chunk.numbers if (flight := line.flights.get(n)) and flight.launch is None]
            if flights:
                self._launch(line, chunk._replace(numbers=[flight.n for flight in flights]), flights)
        if line.packed or line.pending:
            line.planned = asyncio.get_running_loop().call_soon(self._flush, line)

    def _launch(self, line: _Line, chunk: Chunk, flights: Sequence[_Flight]) -> None:
        now = asyncio.get_running_loop().time()
        deadline = max(seat.deadline for flight in flights for seat in flight.seats)
        expires = None if deadline == math.inf else max(deadline - now, 0.0) + EXPIRY_MARGIN
        try:
            self._session.check()
            self._session.check_room(1)
            chosen = options(chunk, line.lane, self._last_priority, expires)
            # Many may have asked for its numbers. It is sent for the first of them, and shared by the others.
            sending = self._session.begin(chosen, batch=False, origin=flights[0].seats[0].origin)
            message = self._session.encoder.one(signature(chunk), chosen, sending)
        except FiboError as error:
            self._refuse(flights, error)
            return
        job = self._session.job([message], sending, retry=True, bulky=is_bulky(chunk))
        handle_ = partial(handle, self._session, chunk, line.lane, message.id)
        launch = _Launch(job, sending, message.id, handle_, flights, now, deadline + EXPIRY_MARGIN)
        line.in_flight += 1
        job.send()
        for flight in flights:
            flight.launch = launch
            for seat in flight.seats:
                self._board(launch, seat)

    def _board(self, launch: _Launch, seat: Seat) -> None:
        if launch.answered:  # Its answer is about to be told, and until then no deadline counts.
            return
        moment = _on_grid(seat.deadline)
        party = launch.parties.get(moment)
        if party is None:
            timeout = None if moment == math.inf else max(0.0, moment - asyncio.get_running_loop().time())
            waiter = launch.job.enter(timeout, partial(self._arrived, launch, moment))
            party = launch.parties[moment] = _Party(waiter)
        party.seats[seat] = None
        launch.sending.share(seat.origin)

    # Arriving.

    def _arrived(self, launch: _Launch, moment: float) -> None:
        party = launch.parties.pop(moment)
        if party.waiter.timed_out:
            self._deliver((seat, self._error(launch, party.waiter, seat)) for seat in party.seats)
        elif not launch.answered:
            launch.answered = True
            self._deliver(self._answers(launch, party.waiter))
        self._disembark(launch, party)

    def _disembark(self, launch: _Launch, party: _Party) -> None:
        loop = asyncio.get_running_loop()
        launch.job.leave(party.waiter, loop.time())
        if launch.parties:
            return
        if not launch.answered:
            for flight in launch.flights:
                flight.close()
        line = launch.flights[0].line
        line.in_flight -= 1
        if line.pending and line.held and line.planned is not None:
            line.planned.cancel()
            line.held = False
            line.planned = loop.call_soon(self._flush, line)

    def _answers(self, launch: _Launch, waiter: Waiter) -> Iterator[tuple[Seat, Answer]]:
        """Pair seats with their answers. What takes time is done when a pair is taken."""
        task_id = launch.task_id
        try:
            (items,) = self._collect(launch, waiter, launch.began)
        except FiboError:
            for flight in launch.flights:
                flight.close()  # At once: who comes now shall have an attempt of its own.
            return ((seat, self._error(launch, waiter, seat)) for flight in launch.flights for seat in flight.seats)
        return (
            (seat, copy.copy(answer) if isinstance(answer, Exception) else answer)
            for flight, item in zip(launch.flights, items, strict=True)
            if flight.wanted
            for answer in [decode(item, task_id)]
            for seat in flight.leave_the_table()
        )

    def _collect(self, launch: _Launch, waiter: Waiter, began: float) -> list[list[Any]]:
        waited = asyncio.get_running_loop().time() - began
        outcome = self._session.outcome(launch.job, waiter, waited)
        # A launch and its flights know each other. A handle that stayed with them would keep the text of the answer
        # until the garbage collector comes, which it does rarely while there are few objects, however long.
        return collect(outcome, [launch.handle()], expiry_is_timeout=True)

    def _error(self, launch: _Launch, waiter: Waiter, seat: Seat) -> FiboError:
        """Make the error of a seat that gets no answer."""
        try:
            self._collect(launch, waiter, seat.began)
        except FiboError as error:
            return error
        raise AssertionError("there is an answer")

    def _refuse(self, flights: Sequence[_Flight], error: FiboError) -> None:
        """Tell everybody on flights that have not left that they never will."""
        for flight in flights:
            flight.close()
        self._deliver((seat, copy.copy(error)) for flight in flights for seat in flight.seats)

    def _deliver(self, answers: Iterator[tuple[Seat, Answer]]) -> None:
        """Tell seats their answers: as many as may be told now, the others in the next iterations of the loop."""
        self._telling.append(answers)
        if self._next_turn is None:
            self._take_turn()
        else:
            self._tell_some()

    def _take_turn(self) -> None:
        self._next_turn = None
        if self._telling:
            self._may_tell = SLICE
            self._next_turn = asyncio.get_running_loop().call_soon(self._take_turn)
            self._tell_some()

    def _tell_some(self) -> None:
        while self._may_tell and self._telling:
            for seat, answer in islice(self._telling[0], self._may_tell):
                self._tell(seat, answer)
                self._may_tell -= 1
            if self._may_tell:
                self._telling.popleft()

    def _tell(self, seat: Seat, answer: Answer) -> None:
        told, seat.told = seat.told, None
        if told is None:
            return
        seat.flight.vacate(seat)
        if not isinstance(told, asyncio.Future):
            told(answer)
        elif not told.done():  # Or its owner was cancelled, and has not left yet.
            if isinstance(answer, Exception):
                told.set_exception(answer)
            else:
                told.set_result(answer)


def _on_grid(deadline: float) -> float:
    return deadline if deadline == math.inf else math.ceil(deadline / _GRID) * _GRID
