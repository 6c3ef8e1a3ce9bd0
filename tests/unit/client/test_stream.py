"""A bounded window over a source: what is pulled, what is delivered, and what is left when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import itertools
import math
import threading
import weakref
from collections import Counter
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.waiting import eventually

from fibo_client.celery.stream import _FEEDERS, SLICE, Stream, _Entry
from fibo_client.contract import check_n
from fibo_client.errors import ClientStateError, FiboError, TaskFailedError


def failure(n: int) -> TaskFailedError:
    return TaskFailedError(
        task_id=str(n), task="fibo", exc_type="MemoryError", exc_module="builtins", exc_args=(), traceback=None
    )


class Request:
    """A request for a number."""

    def __init__(self, n, deadline, receiver) -> None:
        self.n = n
        self.deadline = deadline
        self.receiver = receiver
        self.state = "open"


class ScriptedBatcher:
    """Answers when a test says so; with ``delay``, by itself."""

    def __init__(self, delay=None, answer=lambda n: n * n) -> None:
        self.requests: list[Request] = []
        self.check = check_n
        self.delay = delay
        self.answer_for = answer
        self.refuses: Exception | None = None

    def join(self, n, deadline, receiver) -> Request:
        if self.refuses is not None:
            raise self.refuses
        request = Request(self.check(n), deadline, receiver)
        self.requests.append(request)
        if self.delay is not None:
            loop = asyncio.get_running_loop()
            delay = self.delay(len(self.requests) - 1)
            # Timers for the same moment fire in any order.
            loop.call_later(delay, self.settle, request) if delay else loop.call_soon(self.settle, request)
        return request

    def leave(self, request) -> None:
        if request.state == "open":
            request.state = "left"
            request.receiver = None

    def settle(self, request, answer=None) -> None:
        if request.state == "open":
            request.state = "answered"
            receiver, request.receiver = request.receiver, None
            receiver(self.answer_for(request.n) if answer is None else answer)

    def answer(self, n, answer=None) -> None:
        """Answer the first open request for a number."""
        self.settle(next(each for each in self.requests if each.n == n and each.state == "open"), answer)

    @property
    def joined(self) -> list[int]:
        return [request.n for request in self.requests]

    def count(self, state) -> int:
        return sum(request.state == state for request in self.requests)


class ForgetfulBatcher:
    """Answers in the next step, and keeps nothing."""

    def join(self, n, deadline, receiver) -> Request:
        asyncio.get_running_loop().call_soon(receiver, n * n)
        return Request(n, deadline, receiver)

    def leave(self, request) -> None:
        pass


def at_once(answer=lambda n: n * n) -> ScriptedBatcher:
    return ScriptedBatcher(lambda _: 0.0, answer)


def stream(batcher, source, **options) -> Stream:
    options = {
        "seconds": 30.0,
        "max_in_flight": 1000,
        "ordered": False,
        "return_exceptions": False,
        **options,
    }
    return Stream(batcher, source, **options)


async def turns(count=5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def entries() -> int:
    """How many numbers the streams keep."""
    return sum(type(each) is _Entry for each in gc.get_objects())


def others() -> set[asyncio.Task]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def feeder_task() -> asyncio.Task:
    (task,) = (task for task in others() if task.get_name() == "fibo_client.stream")
    return task


def tidy(test):
    """Run a test in virtual time, and check that no task is left behind."""

    @functools.wraps(test)
    async def run(*args, **kwargs):
        await test(*args, **kwargs)
        await turns()
        assert not others()
        assert not _FEEDERS

    return virtual(run)


@pytest.fixture(autouse=True, scope="module")
def _quick_collection():
    """What was there before need not be looked through after each test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _silence(caplog):
    """Nothing is said of a task that was destroyed or failed unseen; not even by the garbage collector."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


class Pausing:
    """An asynchronous source, which notes how it ended."""

    def __init__(self, numbers, pause=0.0, then=None, closing=0.5) -> None:
        self.pulled = 0
        self.ended = None
        self.values = self.generate(numbers, pause, then, closing)

    async def generate(self, numbers, pause, then, closing):
        try:
            for n in numbers:
                await asyncio.sleep(pause)
                self.pulled += 1
                yield n
            if then is not None:
                await then()
        except BaseException as error:
            self.ended = type(error)
            raise
        finally:
            await asyncio.sleep(closing)
            self.ended = self.ended or "finished"


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def all_of(results) -> list[tuple]:
    return [pair async for pair in results]


SOURCES = pytest.mark.parametrize("make", [iter, lambda numbers: Pausing(numbers).values], ids=["plain", "async"])
ORDERS = pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])


# What is refused.


@pytest.mark.parametrize("limit", [0, -1])
def test_a_window_without_room_is_refused(limit):
    with pytest.raises(ValueError, match=f"max_in_flight must be 1 or more, not {limit}"):
        stream(at_once(), [], max_in_flight=limit)


@pytest.mark.parametrize("limit", [True, 1.0, "1", None])
def test_a_window_whose_size_is_no_integer_is_refused(limit):
    with pytest.raises(TypeError, match=f"max_in_flight must be an integer, not {type(limit).__name__}"):
        stream(at_once(), [], max_in_flight=limit)


@pytest.mark.parametrize("source", [5, None, "123", b"123", bytearray(b"1"), forever])
def test_what_is_no_source_of_numbers_is_refused(source):
    with pytest.raises(TypeError, match=f"async iterable, not {type(source).__name__}"):
        stream(at_once(), source)


# What is delivered.


@SOURCES
@tidy
async def test_answers_are_delivered_as_they_come(make):
    batcher = ScriptedBatcher()
    async with stream(batcher, make([1, 2, 3])) as results:
        await asyncio.sleep(1)
        for n in (2, 3, 1):
            batcher.answer(n)
        assert await all_of(results) == [(2, 4), (3, 9), (1, 1)]


@SOURCES
@tidy
async def test_answers_are_delivered_in_the_order_of_the_source_if_asked_for(make):
    batcher = ScriptedBatcher(lambda index: 3 - index)
    async with stream(batcher, make([1, 2, 3]), ordered=True) as results:
        assert await all_of(results) == [(1, 1), (2, 4), (3, 9)]


@ORDERS
@tidy
async def test_the_same_number_is_answered_as_often_as_it_was_given(ordered):
    assert await all_of(stream(at_once(), [0, 7, 0, 7], ordered=ordered)) == [(0, 0), (7, 49), (0, 0), (7, 49)]


@SOURCES
@tidy
async def test_an_empty_source_gives_an_empty_stream(make):
    assert await all_of(stream(at_once(), make([]))) == []


@tidy
async def test_an_answer_does_not_wait_for_a_source_that_gives_no_more():
    batcher = at_once()
    async with stream(batcher, Pausing([5], then=forever).values) as results:
        assert await anext(results) == (5, 25)


@tidy
async def test_every_number_is_sent_as_soon_as_it_is_pulled_and_has_its_own_deadline():
    loop = asyncio.get_running_loop()
    began = loop.time()
    batcher = ScriptedBatcher(lambda _: 10.0)
    source = Pausing([1, 2, 3], pause=1.0)
    async with stream(batcher, source.values, seconds=20.0) as results:
        await asyncio.sleep(2.5)
        assert batcher.joined == [1, 2]
        assert await all_of(results) == [(1, 1), (2, 4), (3, 9)]
    assert [request.deadline - began for request in batcher.requests] == [21.0, 22.0, 23.0]


@tidy
async def test_without_a_timeout_there_is_no_deadline():
    batcher = at_once()
    await all_of(stream(batcher, [1], seconds=None))
    assert batcher.requests[0].deadline == math.inf


@tidy
async def test_an_iterable_that_is_also_asynchronous_is_pulled_asynchronously():
    class Both(list):
        def __aiter__(self):
            return Pausing([1]).values

    assert await all_of(stream(at_once(), Both([2]))) == [(1, 1)]


@tidy
async def test_the_source_runs_in_the_context_of_whoever_begins_to_read():
    variable = contextvars.ContextVar("variable")

    def source():
        yield variable.get()

    results = stream(at_once(), source())
    variable.set(6)
    assert await all_of(results) == [(6, 36)]


# Backpressure.


class Counting:
    """A source without an end, which counts."""

    def __init__(self) -> None:
        self.pulled = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.pulled += 1
        return self.pulled

    async def __aiter__(self):
        while True:
            yield next(self)


COUNTING = pytest.mark.parametrize("make", [iter, lambda counting: counting], ids=["plain", "async"])


@ORDERS
@COUNTING
@tidy
async def test_no_more_is_pulled_than_fits_into_the_window(make, ordered):
    counting, batcher = Counting(), ScriptedBatcher()
    async with stream(batcher, make(counting), max_in_flight=3, ordered=ordered) as results:
        await asyncio.sleep(1)
        assert counting.pulled == 3
        batcher.answer(1)
        batcher.answer(3)
        await asyncio.sleep(1)
        assert counting.pulled == 3  # What is ready and not delivered counts.
        assert await anext(results) == (1, 1)
        await asyncio.sleep(1)
        assert counting.pulled == 4


@COUNTING
@tidy
async def test_a_bounded_number_is_pulled_before_the_event_loop_gets_its_turn(make):
    counting = Counting()
    async with stream(ScriptedBatcher(), make(counting), max_in_flight=10 * SLICE):
        seen = 0
        while counting.pulled < 10 * SLICE:
            await asyncio.sleep(0)
            assert counting.pulled - seen <= SLICE
            seen = counting.pulled


@ORDERS
@tidy
async def test_a_bounded_number_is_delivered_before_the_event_loop_gets_its_turn(ordered):
    loop = asyncio.get_running_loop()
    count = in_a_row = longest = 0

    def turn():
        nonlocal in_a_row
        in_a_row = 0
        loop.call_soon(turn)

    async with stream(at_once(), range(10 * SLICE), max_in_flight=10 * SLICE, ordered=ordered) as results:
        await asyncio.sleep(1)  # All are there.
        loop.call_soon(turn)
        async for _ in results:
            count += 1
            in_a_row += 1
            longest = max(longest, in_a_row)
    assert count == 10 * SLICE
    assert longest == SLICE


@ORDERS
@COUNTING
@tidy
async def test_nothing_is_kept_of_what_was_delivered(make, ordered):
    gc.collect()
    gc.disable()  # What is in a cycle is kept, too.
    try:
        async with stream(ForgetfulBatcher(), make(Counting()), max_in_flight=50, ordered=ordered) as results:
            async for n, value in results:
                assert value == n * n
                if n % 1000 == 0:
                    assert entries() <= 51
                if n == 5000:
                    break
    finally:
        gc.enable()


@tidy
async def test_nothing_is_kept_of_numbers_that_are_refused():
    class RefusedError(ValueError):
        pass  # Unlike its base it can be referred to weakly.

    def refuse(n):
        raise RefusedError

    gc.collect()
    gc.disable()
    try:
        source, refusing = itertools.repeat(-1), at_once()
        refusing.check = refuse
        async with stream(refusing, source, max_in_flight=50, return_exceptions=True) as results:
            seen = weakref.ref((await anext(results))[1])
            assert seen() is None
    finally:
        gc.enable()


# Errors.


@ORDERS
@tidy
async def test_the_first_error_is_raised_with_its_number_and_ends_the_stream(ordered):
    batcher = ScriptedBatcher()
    source = Pausing(range(1, 9))
    results = stream(batcher, source.values, max_in_flight=3, ordered=ordered)
    async with results:
        await asyncio.sleep(1)
        batcher.answer(1)
        batcher.answer(2, failure(2))
        assert await anext(results) == (1, 1)
        with pytest.raises(TaskFailedError) as caught:
            await anext(results)
        assert caught.value.task_id == "2"
        assert caught.value.__notes__ == ["input = 2"]
        assert [(each.n, each.state) for each in batcher.requests] == [(1, "answered"), (2, "answered"), (3, "left")]
        await asyncio.sleep(1)
        assert source.ended is GeneratorExit
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(results)


@ORDERS
@tidy
async def test_errors_are_delivered_in_place_of_answers_if_asked_for(ordered):
    error = failure(2)
    batcher = at_once(lambda n: error if n == 2 else n * n)
    results = stream(batcher, [1, 2, 3], ordered=ordered, return_exceptions=True)
    assert await all_of(results) == [(1, 1), (2, error), (3, 9)]


@ORDERS
@pytest.mark.parametrize(
    ("given", "error", "note"),
    [
        (-1, ValueError, "input = -1"),
        ("7", TypeError, "input = '7'"),
        (10**5000, ValueError, "input = <int>"),
        ("x" * 1000, TypeError, f"input = '{'x' * 96}..."),
    ],
    ids=["negative", "text", "huge", "long"],
)
@tidy
async def test_what_is_no_number_is_refused_at_its_turn(given, error, note, ordered):
    batcher = at_once()
    results = stream(batcher, [3, given, 4], max_in_flight=1, ordered=ordered)
    assert await anext(results) == (3, 9)
    with pytest.raises(error) as caught:
        await anext(results)
    assert caught.value.__notes__ == [note]
    assert await all_of(results) == []
    assert batcher.joined == [3]


@ORDERS
@tidy
async def test_what_is_no_number_is_delivered_with_its_error_if_asked_for(ordered):
    results = stream(at_once(), [3, "7", 4], max_in_flight=1, ordered=ordered, return_exceptions=True)
    (first, (refused, error), last) = await all_of(results)
    assert (first, refused, last) == ((3, 9), "7", (4, 16))
    assert type(error) is TypeError


@ORDERS
@pytest.mark.parametrize("kind", ["plain", "async"])
@tidy
async def test_an_error_of_the_source_is_raised_when_all_before_it_is_delivered(kind, ordered):
    async def fail():
        raise OSError("the file is gone")

    def plain():
        yield from (1, 2)
        raise OSError("the file is gone")

    batcher = ScriptedBatcher(lambda index: 5.0 + index)
    results = stream(batcher, plain() if kind == "plain" else Pausing([1, 2], then=fail).values, ordered=ordered)
    assert [await anext(results), await anext(results)] == [(1, 1), (2, 4)]
    with pytest.raises(OSError, match="the file is gone"):
        await anext(results)
    assert await all_of(results) == []


@tidy
async def test_an_error_of_the_source_that_is_falsy_is_raised_all_the_same():
    class Empty(Exception):  # noqa: N818 - its truth is what matters
        def __len__(self):
            return 0

    def source():
        yield 1
        raise Empty

    with pytest.raises(Empty):
        await all_of(stream(at_once(), source()))


@tidy
async def test_a_source_that_cannot_be_begun_raises_its_error():
    class Broken:
        def __iter__(self):
            raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        await all_of(stream(at_once(), Broken()))


@ORDERS
@pytest.mark.parametrize("return_exceptions", [False, True])
@tidy
async def test_a_client_that_is_closed_ends_the_stream_with_its_error(ordered, return_exceptions):
    batcher = at_once()
    counting = Counting()
    results = stream(batcher, iter(counting), max_in_flight=2, ordered=ordered, return_exceptions=return_exceptions)
    assert await anext(results) == (1, 1)
    batcher.refuses = ClientStateError("this client is closed")
    with pytest.raises(ClientStateError, match="this client is closed"):
        await all_of(results)
    assert await all_of(results) == []
    assert counting.pulled <= 4


@pytest.mark.parametrize("return_exceptions", [False, True])
@tidy
async def test_a_feeder_that_someone_cancels_does_not_leave_its_reader_waiting_or_cancelled(return_exceptions):
    source = Pausing([1, 2], then=forever)
    async with stream(at_once(), source.values, return_exceptions=return_exceptions) as results:
        assert [await anext(results), await anext(results)] == [(1, 1), (2, 4)]
        asyncio.get_running_loop().call_later(1.0, feeder_task().cancel)
        with pytest.raises(RuntimeError, match="the task that reads the source was cancelled"):
            await anext(results)
    assert source.ended is asyncio.CancelledError


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_feeder_can_be_cancelled_by_someone_at_any_step(kind):
    @tidy
    async def cancel_after(steps):
        nonlocal over
        numbers = range(2 * SLICE)
        source = numbers if kind == "plain" else Pausing(range(20), closing=0.0).values
        async with stream(at_once(), source, max_in_flight=SLICE + 10) as results:
            feeder = feeder_task()
            reader = asyncio.create_task(all_of(results))
            await turns(steps)
            over = not feeder.cancel()
            await asyncio.wait([reader], timeout=5)
            error = reader.exception()
            if error is not None:
                assert type(error) is RuntimeError
                assert not over
            else:  # All had been pulled before.
                assert len(reader.result()) == (len(numbers) if kind == "plain" else 20)

    over = False
    for steps in itertools.count():
        cancel_after(steps)
        if over:
            break
    assert steps > 3


# The end.


def leave_at_the_end_of_the_block(results, batcher):
    async def leave():
        async with results:
            await anext(results)

    return leave


def leave_by_break(results, batcher):
    async def leave():
        async with results:
            async for _ in results:
                break

    return leave


def leave_by_an_error(results, batcher):
    async def read():
        async with results:
            async for _ in results:
                raise KeyError

    async def leave():
        with pytest.raises(KeyError):
            await read()

    return leave


def leave_by_cancellation(results, batcher):
    async def read():
        async with results:
            await anext(results)
            await anext(results)

    async def leave():
        reader = asyncio.create_task(read())
        await asyncio.sleep(1)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()

    return leave


def leave_by_a_scope_that_ends(results, batcher):
    async def leave():
        with anyio.move_on_after(1) as scope:
            async with results:
                await anext(results)
                await anext(results)
        assert scope.cancelled_caught

    return leave


LEAVING = [
    leave_at_the_end_of_the_block,
    leave_by_break,
    leave_by_an_error,
    leave_by_cancellation,
    leave_by_a_scope_that_ends,
]


@ORDERS
@pytest.mark.parametrize("waiting_for", ["room", "numbers"])
@pytest.mark.parametrize("way", LEAVING, ids=lambda way: way.__name__)
@tidy
async def test_leaving_waits_until_the_source_is_closed_and_every_request_is_left(way, waiting_for, ordered):
    batcher = ScriptedBatcher(lambda index: 0.0 if index == 0 else 100.0)
    source = Pausing(itertools.count() if waiting_for == "room" else range(3), then=forever)
    results = stream(batcher, source.values, max_in_flight=3, ordered=ordered)
    await way(results, batcher)()
    # Its end takes time, which was waited for: nothing runs any more.
    assert source.ended in (asyncio.CancelledError, GeneratorExit)
    assert not others()
    assert batcher.count("answered") == 1
    assert batcher.count("open") == 0
    assert await all_of(results) == []


@tidy
async def test_a_plain_source_is_not_pulled_after_the_block_is_left():
    counting = Counting()
    async with stream(at_once(), iter(counting), max_in_flight=10) as results:
        await anext(results)
    pulled = counting.pulled
    await asyncio.sleep(10)
    assert counting.pulled == pulled


@ORDERS
@tidy
async def test_very_many_requests_are_left_and_their_answers_freed_in_many_turns(ordered):
    count = 50_000
    batcher = ScriptedBatcher()
    async with stream(batcher, range(count), max_in_flight=count, ordered=ordered) as results:
        await eventually(lambda: len(batcher.requests) == count)
        for request in batcher.requests[100:10_000]:
            batcher.settle(request)
        left = []
        leaving = asyncio.create_task(results.aclose())
        while not leaving.done():
            await asyncio.sleep(0)
            left.append(batcher.count("left"))
            assert await anext(results, None) is None
    assert len(left) > 10
    assert batcher.count("left") == count - 9_900
    assert batcher.count("open") == 0
    gc.collect()
    assert entries() == 0


@tidy
async def test_an_answer_that_comes_while_requests_are_being_left_is_dropped():
    batcher = ScriptedBatcher()
    async with stream(batcher, range(20_000), max_in_flight=20_000, ordered=True) as results:
        await eventually(lambda: len(batcher.requests) == 20_000)
        leaving = asyncio.create_task(results.aclose())
        await turns(2)
        late = [request for request in batcher.requests if request.state == "open"]
        for request in late[:10]:
            batcher.settle(request)
        await leaving
    assert batcher.count("answered") == len(late[:10]) == 10


@tidy
async def test_closing_twice_does_nothing_more():
    batcher = ScriptedBatcher()
    results = stream(batcher, [1, 2])
    async with results:
        await turns()
        await results.aclose()
        assert batcher.count("left") == 2
        batcher.requests.clear()
        gc.collect()
        assert entries() == 0
        await asyncio.gather(results.aclose(), results.aclose())
    assert await all_of(results) == []


@tidy
async def test_closing_a_stream_that_was_never_begun_ends_it_and_closes_its_source():
    source = Pausing([1, 2, 3])
    assert await anext(source.values) == 1
    results = stream(at_once(), source.values)
    await results.aclose()
    assert source.ended is GeneratorExit
    assert await all_of(results) == []
    async with results:
        assert await all_of(results) == []
    assert source.pulled == 1


@tidy
async def test_closing_ends_a_reader_that_waits():
    results = stream(ScriptedBatcher(), [1])
    reader = asyncio.create_task(all_of(results))
    await turns()
    await results.aclose()
    assert await reader == []


@tidy
async def test_a_source_that_was_begun_elsewhere_is_closed_although_nothing_was_pulled_from_it():
    source = Pausing([1, 2, 3])
    assert await anext(source.values) == 1
    async with stream(at_once(), source.values):
        pass
    assert source.ended is GeneratorExit
    assert source.pulled == 1


@tidy
async def test_closing_an_end_of_the_source_that_takes_its_time_is_not_cut_short():
    async def source():
        try:
            yield 1
        finally:
            await asyncio.sleep(2.0)
            ended.append(True)

    ended = []
    batcher = at_once()
    batcher.refuses = ClientStateError("this client is closed")
    async with stream(batcher, source()) as results:
        with pytest.raises(ClientStateError):
            await anext(results)  # The source is being closed from here on.
    assert ended


@tidy
async def test_an_error_of_the_source_while_it_is_closed_is_raised_once_by_closing():
    async def source():
        try:
            yield 1
            await forever()
        finally:
            raise OSError("cannot write")

    results = stream(at_once(), source())
    await anext(results)
    with pytest.raises(OSError, match="cannot write"):
        await results.aclose()
    await results.aclose()
    assert await all_of(results) == []


@tidy
async def test_a_source_that_takes_no_notice_of_its_cancellation_is_closed_at_its_next_number():
    async def source():
        yield 1
        try:
            await forever()
        except asyncio.CancelledError:
            pass
        try:
            yield 2
        except GeneratorExit:
            closed.append(True)
            raise

    closed = []
    batcher = at_once()
    async with stream(batcher, source()) as results:
        await anext(results)
    assert closed
    assert batcher.joined == [1]


@tidy
async def test_a_source_may_close_its_own_stream():
    async def source():
        yield 1
        await results.aclose()

    results = stream(at_once(), source())
    assert await all_of(results) in ([], [(1, 1)])


@tidy
async def test_a_source_that_is_no_generator_is_the_callers_to_close():
    class Feed:
        closed = False

        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.sleep(0.1)
            return 1

        async def aclose(self):
            self.closed = True

    feed = Feed()
    async with stream(at_once(), feed) as results:
        await anext(results)
    assert not feed.closed


# A stream that is dropped.


@ORDERS
@SOURCES
@tidy
async def test_a_loop_that_breaks_without_a_block_is_cleaned_up(make, ordered):
    batcher = ScriptedBatcher(lambda index: 0.0 if index == 0 else 100.0)
    async for pair in stream(batcher, make(itertools.count(1)), max_in_flight=5, ordered=ordered):
        assert pair == (1, 1)
        break
    await turns()
    assert batcher.count("left") == len(batcher.requests) - 1
    await asyncio.sleep(1)
    assert not others()


@tidy
async def test_a_stream_in_a_cycle_that_waits_for_room_is_cleaned_up_when_it_is_collected():
    async def read():
        results = stream(ForgetfulBatcher(), source.values, max_in_flight=5)
        cycle = [results]
        cycle.append(cycle)
        await anext(results)
        await asyncio.sleep(1)  # Now nothing holds the feeder but the cycle.

    source = Pausing(itertools.count(1))
    await read()
    gc.collect()
    await asyncio.sleep(1)
    assert source.ended is GeneratorExit


@tidy
async def test_a_stream_may_be_collected_on_another_thread():
    batcher = ScriptedBatcher(lambda index: 0.0 if index == 0 else 100.0)
    box = [stream(batcher, range(9))]
    await anext(box[0])
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    await turns()
    assert batcher.count("left") == 8


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_may_be_collected_when_its_loop_is_closed(begun):
    async def main():
        results = stream(ScriptedBatcher(lambda index: 0.0 if index == 0 else 100.0), Pausing(range(9)).values)
        if begun:
            await anext(results)
        return results

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        results = runner.run(main())
    reference = weakref.ref(results)
    del results
    gc.collect()
    assert reference() is None


@tidy
async def test_a_stream_that_was_never_read_leaves_nothing():
    batcher = at_once()
    counting = Counting()
    stream(batcher, counting)
    stream(batcher, Pausing([1]).values)
    await asyncio.sleep(1)
    assert batcher.joined == []
    assert counting.pulled == 0


@tidy
async def test_a_stream_that_was_read_to_the_end_leaves_nothing():
    batcher = at_once()
    results = stream(batcher, range(10))
    await all_of(results)
    reference = weakref.ref(results)
    del results
    assert reference() is None
    assert batcher.count("answered") == 10


# Its use by several.


@tidy
async def test_two_tasks_cannot_wait_for_the_same_stream_at_a_time():
    batcher = ScriptedBatcher()
    async with stream(batcher, [1, 2]) as results:
        reader = asyncio.create_task(anext(results))
        await turns()
        with pytest.raises(RuntimeError, match="this stream is already being read"):
            await anext(results)
        batcher.answer(1)
        assert await reader == (1, 1)
        batcher.answer(2)
        assert await anext(results) == (2, 4)


def test_a_stream_cannot_be_used_on_another_event_loop():
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as first, asyncio.Runner(loop_factory=VirtualTimeLoop) as second:
        results = stream(at_once(), Pausing(range(9)).values)
        first.run(anext(results))
        for use in (results.__anext__, results.__aenter__, results.aclose):
            with pytest.raises(ClientStateError, match="another event loop"):
                second.run(use())
        first.run(results.aclose())


@ORDERS
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_reader_that_is_cancelled_at_any_step_loses_nothing(kind, ordered):
    numbers = range(2 * SLICE + 20)

    @tidy
    async def cancel_after(steps):
        nonlocal over

        async def read():
            async for pair in results:
                seen.append(pair)  # noqa: PERF401 - each at once

        seen = []
        source = numbers if kind == "plain" else Pausing(numbers[:20], closing=0.0).values
        results = stream(at_once(), source, max_in_flight=SLICE + 10, ordered=ordered)
        reader = asyncio.create_task(read())
        await turns(steps)
        over = not reader.cancel()
        await asyncio.wait([reader])
        await read()
        assert sorted(seen) == [(n, n * n) for n in (numbers if kind == "plain" else numbers[:20])]

    over = False
    for steps in itertools.count():
        cancel_after(steps)
        if over:
            break
    assert steps > 3


@ORDERS
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_block_that_is_cancelled_at_any_step_leaves_nothing(kind, ordered):
    @tidy
    async def cancel_after(steps):
        nonlocal over
        source = Pausing(range(20), closing=0.0)
        batcher = at_once()

        async def read():
            values = range(2 * SLICE) if kind == "plain" else source.values
            async with stream(batcher, values, max_in_flight=SLICE, ordered=ordered) as results:
                assert len(await all_of(results)) == (2 * SLICE if kind == "plain" else 20)

        reader = asyncio.create_task(read())
        await turns(steps)
        over = not reader.cancel()
        await asyncio.wait([reader])
        assert over or reader.cancelled()
        assert batcher.count("open") == 0
        # The cancellation may have come while the end was waited for, which then goes on without its reader.
        await asyncio.sleep(1)

    over = False
    for steps in itertools.count():
        cancel_after(steps)
        if over:
            break
    assert steps > 3


# All of it, against a loop that asks for one number after the other.


@dataclass
class Entry:
    """A number of the source: below 0 it is refused, from 10 on it fails."""

    n: int
    pause_before: int
    answered_after: int


@dataclass
class Scenario:
    """A source, the batcher that answers it, and a reader; and what came of them."""

    entries: list[Entry]
    reader_pauses: list[int]
    stop_after: int | None
    plain: bool
    source_fails: bool
    options: dict
    seen: list[tuple] = field(default_factory=list)
    raised: Exception | None = None
    pulled: int = 0
    most_held: int = 0

    def pull(self, entry):
        self.pulled += 1
        self.most_held = max(self.most_held, self.pulled - len(self.seen))
        return entry.n

    def plain_source(self):
        yield from map(self.pull, self.entries)
        if self.source_fails:
            raise OSError

    async def async_source(self):
        for entry in self.entries:
            if entry.pause_before:
                await asyncio.sleep(entry.pause_before)
            yield self.pull(entry)
        if self.source_fails:
            raise OSError

    @tidy
    async def run(self):
        delays = [entry.answered_after for entry in self.entries if entry.n >= 0]
        batcher = ScriptedBatcher(lambda index: delays[index], lambda n: failure(n) if n >= 10 else n * n)
        try:
            source = self.plain_source() if self.plain else self.async_source()
            async with stream(batcher, source, **self.options) as results:
                await self.read(results)
        except (FiboError, OSError, TypeError, ValueError) as error:  # Which one is looked at afterwards.
            self.raised = error
        assert batcher.count("open") == 0
        assert not others()

    async def read(self, results):
        async for n, value in results:
            self.seen.append((n, type(value) if isinstance(value, Exception) else value))
            await asyncio.sleep(self.reader_pauses[len(self.seen) % len(self.reader_pauses)])
            if len(self.seen) == self.stop_after:
                break


def outcome(n):
    if n < 0:
        return ValueError
    return TaskFailedError if n >= 10 else n * n


NUMBERS = st.integers(0, 5) | st.integers(0, 5) | st.integers(-2, -1) | st.integers(10, 12)

SCENARIOS = st.builds(
    Scenario,
    entries=st.lists(st.builds(Entry, NUMBERS, st.integers(0, 2), st.integers(0, 4)), max_size=25),
    reader_pauses=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    stop_after=st.none() | st.integers(1, 10),
    plain=st.booleans(),
    source_fails=st.booleans(),
    options=st.fixed_dictionaries(
        {"max_in_flight": st.integers(1, 8), "ordered": st.booleans(), "return_exceptions": st.booleans()}
    ),
    seen=st.builds(list),
    raised=st.none(),
    pulled=st.just(0),
    most_held=st.just(0),
)


@given(SCENARIOS)
def test_a_stream_gives_what_a_sequential_loop_would_give(scenario):
    scenario.run()
    assert scenario.most_held <= scenario.options["max_in_flight"]
    seen, raised = scenario.seen, scenario.raised
    numbers = [entry.n for entry in scenario.entries]
    expected = [(n, outcome(n)) for n in numbers]
    if len(seen) == scenario.stop_after:
        assert raised is None
    elif scenario.options["return_exceptions"] or all(0 <= n < 10 for n in numbers):
        assert Counter(seen) == Counter(expected)
        assert isinstance(raised, OSError) == scenario.source_fails
    else:
        (note,) = raised.__notes__
        failed = int(note.removeprefix("input = "))
        assert type(raised) is outcome(failed)
        if scenario.options["ordered"]:
            expected = expected[: numbers.index(failed)]
            assert seen == expected
    if scenario.options["ordered"]:
        assert seen == expected[: scenario.stop_after]
    assert not Counter(seen) - Counter(expected)
