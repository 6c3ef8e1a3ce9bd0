"""Calls of one's own tasks in a stream, in chunks, and as they end: on the scripted worker, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import virtual

from fibo_client import (
    ChunkRetriedError,
    FiboError,
    MessageError,
    ResultDecodeError,
    ResultTimeoutError,
    TaskFailedError,
    TooManyPendingError,
)
from fibo_client.celery import CeleryClient, RemoteTask, remote_task
from fibo_client.testing import FakeCelery


@remote_task("shop.add", chunkable=True)
def add(x: int, y: int = 0) -> int: ...


@remote_task("shop.only", chunkable=True)
def by_keyword(x: int, *, y: int = 0) -> int: ...


double = RemoteTask[[int], int]("shop.double", chunkable=True)
alone = RemoteTask[[int], int]("shop.double")


@pytest.fixture
def fake() -> FakeCelery:
    fake = FakeCelery()
    fake.task(add, lambda x, y=0: x + y)
    fake.task(by_keyword, lambda x, y=0: x + y)
    fake.task(double, lambda n: 2 * n)
    return fake


def sizes(fake: FakeCelery) -> list[int]:
    """How many calls each message has had."""
    return [len(sent.kwargs["it"]) if sent.task == "celery.starmap" else 1 for sent in fake.sent]


async def settled(client: CeleryClient) -> None:
    """Wait until the client has deleted what it owned."""
    await asyncio.sleep(5)


# A stream of calls.


@pytest.mark.parametrize("chunk_size", [1, 7])
@virtual
async def test_a_stream_pairs_each_input_with_its_answer(fake, chunk_size):
    async with (
        CeleryClient(transport=fake) as client,
        client.stream(double, range(100), chunk_size=chunk_size) as answers,
    ):
        found = [pair async for pair in answers]

    assert sorted(found) == [(n, 2 * n) for n in range(100)]
    assert sum(sizes(fake)) == 100
    assert max(sizes(fake)) == chunk_size


@virtual
async def test_a_task_by_its_name_gets_each_input_as_its_only_argument(fake):
    fake.task("shop.echo", lambda value: value)
    inputs = [(1, 2), [3], None, {"a": 1}, "text"]
    async with CeleryClient(transport=fake) as client, client.stream("shop.echo", inputs, ordered=True) as answers:
        found = [pair async for pair in answers]

    assert [given for given, _ in found] == inputs
    assert [answer for _, answer in found] == [[1, 2], [3], None, {"a": 1}, "text"]


@virtual
async def test_a_function_makes_the_call_of_an_input(fake):
    async with (
        CeleryClient(transport=fake) as client,
        client.stream(lambda pair: add(*pair), [(1, 2), (3, 4)], ordered=True) as answers,
    ):
        assert [answer async for _, answer in answers] == [3, 7]


@virtual
async def test_at_most_max_in_flight_inputs_are_pulled_and_not_yet_taken(fake):
    pulled = 0

    def pull():
        nonlocal pulled
        pulled += 1
        return pulled

    async with (
        CeleryClient(transport=fake) as client,
        client.stream(double, iter(pull, None), max_in_flight=10) as answers,
    ):
        for taken in range(1, 50):
            await anext(answers)
            await asyncio.sleep(0.1)
            assert pulled <= taken + 10


@pytest.mark.parametrize("chunk_size", [1, 5])
@virtual
async def test_leaving_a_stream_revokes_what_has_no_answer(fake, chunk_size):
    fake.task(double, delay=1000.0, returns=1)
    async with CeleryClient(transport=fake) as client:
        async with client.stream(double, range(10), chunk_size=chunk_size):
            await asyncio.sleep(0.1)
        await settled(client)

    assert len(fake.sent) == 10 / chunk_size
    assert sorted(fake.revoked) == sorted(sent.task_id for sent in fake.sent)


@virtual
async def test_an_input_that_cannot_be_sent_fails_alone(fake):
    inputs = [1, object(), 3]
    async with CeleryClient(transport=fake) as client:
        for chunk_size in (1, 3):
            stream = client.stream(double, inputs, ordered=True, return_exceptions=True, chunk_size=chunk_size)
            async with stream as answers:
                one, bad, three = [answer async for _, answer in answers]
            assert (one, three) == (2, 6)
            assert isinstance(bad, MessageError)


@virtual
async def test_the_error_of_a_stream_names_its_input(fake):
    fake.task(double, raises=ValueError("no"))
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(TaskFailedError) as caught:
            async with client.stream(double, ["dog"]) as answers:
                await anext(answers)
    assert "input = 'dog'" in caught.value.__notes__


@virtual
async def test_each_input_has_the_timeout_from_when_it_was_pulled(fake):
    fake.task(double, lambda n: n, delay=3.0)
    loop = asyncio.get_running_loop()

    async def source():
        yield 1
        await asyncio.sleep(2)
        yield 2

    began, ended = loop.time(), []
    async with (
        CeleryClient(transport=fake) as client,
        client.stream(double, source(), timeout=1.0, return_exceptions=True) as answers,
    ):
        async for _, error in answers:
            assert isinstance(error, ResultTimeoutError)
            ended.append(round(loop.time() - began, 1))
    assert ended == [1.0, 3.0]


@pytest.mark.parametrize("chunk_size", [1, 3])
@virtual
async def test_whatever_decode_raises_is_the_error_of_its_call_alone(fake, chunk_size):
    class UnnamedError(Exception):
        def __init__(self, value, others):
            super().__init__(f"{value} is none of {others}")

    def named(value: int) -> str:
        names = {2: "two", 6: "six"}
        if value not in names:
            raise UnnamedError(value, names)  # Which cannot be copied.
        return names[value]

    task = RemoteTask[[int], str]("shop.double", named, chunkable=True)
    async with CeleryClient(transport=fake) as client:
        stream = client.stream(task, [1, 2, 3], ordered=True, return_exceptions=True, chunk_size=chunk_size)
        async with stream as answers:
            one, two, three = [answer async for _, answer in answers]
    assert (one, three) == ("two", "six")
    assert isinstance(two, UnnamedError)


@pytest.mark.parametrize("chunk_size", [1, 5])
@virtual
async def test_a_call_that_was_left_keeps_nothing_alive(fake, chunk_size):
    fake.task(double, delay=1000.0, returns=1)
    gc.collect()
    gc.disable()
    try:
        async with CeleryClient(transport=fake) as client, client.stream(double, range(10), chunk_size=chunk_size):
            await asyncio.sleep(0.1)
            messages = [weakref.ref(job) for job in client._session._owned]
            assert len(messages) == 10 / chunk_size
        await asyncio.sleep(0)
        assert [each() for each in messages if each() is not None] == []
    finally:
        gc.enable()


# Chunks.


@virtual
async def test_a_chunk_is_celerys_own_task_with_the_arguments_by_position(fake):
    async with CeleryClient(transport=fake) as client:
        calls = [add(1, 2), add(3), add(x=4, y=5), add(6, y=7)]
        assert await client.call_many(calls, chunk_size=10, queue="sums") == [3, 3, 9, 13]

    (sent,) = fake.sent
    assert (sent.task, sent.args, sent.queue) == ("celery.starmap", (), "sums")
    assert sent.kwargs["task"]["task"] == "shop.add"
    assert sent.kwargs["it"] == [[1, 2], [3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (alone(1), r"shop\.double cannot be called in chunks unless it is declared for that"),
        (double(1).with_options(task_id="mine"), "one id for all of its calls"),
        (RemoteTask("shop.add", chunkable=True)(x=1), "its parameters are not known"),
        (by_keyword(1, y=2), "takes y by keyword only"),
    ],
)
@virtual
async def test_a_call_that_cannot_be_in_a_chunk_is_refused_before_anything_is_sent(fake, call, why):
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(MessageError, match=why):
            await client.call_many([add(1), call], chunk_size=2)
        async with client.stream(lambda _: call, [1], chunk_size=2) as answers:
            with pytest.raises(MessageError, match=why):
                await anext(answers)
    assert fake.sent == []


@virtual
async def test_a_stream_of_a_task_that_is_not_chunkable_is_refused_at_once(fake):
    async with CeleryClient(transport=fake) as client:
        for task in (alone, "shop.double"):
            with pytest.raises(MessageError, match="cannot be called in chunks"):
                client.stream(task, [1], chunk_size=2)


@pytest.mark.parametrize(
    "options", [{"priority": 99}, {"queue": ""}, {"nonsense": 1}, {"ignore_result": True}], ids=str
)
@virtual
async def test_an_option_that_cannot_be_sent_is_refused_before_an_input_is_pulled(fake, options):
    async with CeleryClient(transport=fake) as client:
        for chunk_size in (1, 2):
            with pytest.raises(MessageError):
                client.stream(double, iter([1]), chunk_size=chunk_size, **options)
            with pytest.raises(MessageError):
                await client.call_many([double(1)], chunk_size=chunk_size, **options)
    assert fake.sent == []


@virtual
async def test_what_was_left_is_not_revoked_where_that_was_said(fake):
    fake.task(double, delay=1000.0, returns=1)
    async with CeleryClient(transport=fake, revoke_on_cancel=False) as client:
        for chunk_size in (1, 2):
            async with client.stream(double, range(4), chunk_size=chunk_size):
                await asyncio.sleep(0.1)
        await settled(client)
        assert client.stats().pending == 0
    assert len(fake.sent) == 6
    assert fake.revoked == []


@virtual
async def test_a_stream_of_more_calls_than_may_be_pending_ends_with_that_error(fake):
    fake.task(double, delay=1000.0, returns=1)
    async with CeleryClient(transport=fake, max_pending=3) as client:
        async with client.stream(double, range(10)) as answers:
            with pytest.raises(TooManyPendingError):
                await anext(answers)
        async with client.stream(double, range(6), chunk_size=2, timeout=5) as answers:
            with pytest.raises(ResultTimeoutError):
                await anext(answers)


@virtual
async def test_a_timeout_of_a_chunk_is_diagnosed_by_the_task_that_was_called(fake):
    async with CeleryClient(transport=fake) as client:
        calls = [RemoteTask("shop.nowhere", chunkable=True)(n) for n in range(2)]
        with pytest.raises(ResultTimeoutError) as caught:
            await client.call_many(calls, chunk_size=2, queue="unserved", timeout=1, countdown=100)
        diagnosis = await client.diagnose(caught.value)
    assert diagnosis.task == "shop.nowhere"


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (True, TypeError), ("2", TypeError), (2.0, TypeError)])
@virtual
async def test_a_chunk_size_is_an_integer_of_1_or_more(fake, size, error):
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(error, match="chunk_size must be"):
            client.stream(double, [1], chunk_size=size)
        with pytest.raises(error, match="chunk_size must be"):
            await client.call_many([double(1)], chunk_size=size)


@virtual
async def test_calls_with_different_options_or_tasks_never_share_a_chunk(fake):
    calls = [add(1), add(2).with_options(queue="b"), double(3), add(4).with_options(queue="b"), add(5), double(6)]
    async with CeleryClient(transport=fake) as client:
        assert await client.call_many(calls, chunk_size=10) == [1, 2, 6, 4, 5, 12]

    sent = [(each.kwargs.get("task", {}).get("task", each.task), each.queue) for each in fake.sent]
    assert sorted(sent) == [("shop.add", "b"), ("shop.add", "celery"), ("shop.double", "celery")]


@virtual
async def test_one_call_that_raises_fails_its_chunk_and_no_other(fake):
    fake.task(double, lambda n: 1 // (n - 3))
    async with CeleryClient(transport=fake) as client:
        answers = await client.call_many([double(n) for n in range(6)], chunk_size=3, return_exceptions=True)
        assert answers[:3] == [-1, -1, -1]
        assert [type(each) for each in answers[3:]] == [TaskFailedError] * 3
        assert len({id(each) for each in answers[3:]}) == 3
        with pytest.raises(TaskFailedError, match="ZeroDivisionError"):
            await client.call_many([double(n) for n in range(6)], chunk_size=3)
    assert len(fake.sent) == 4  # Nothing is sent again.


@virtual
async def test_a_retry_in_a_chunk_ends_it_with_an_error_of_its_own(fake):
    fake.task(double, lambda task, n: task.retry(countdown=1000), bind=True)
    loop = asyncio.get_running_loop()
    async with CeleryClient(transport=fake) as client:
        began = loop.time()
        with pytest.raises(ChunkRetriedError, match=r"shop\.double was retried in the chunk \[.*must be sent alone"):
            await client.call_many([double(1), double(2)], chunk_size=2, timeout=60)
        assert loop.time() - began < 2
        await settled(client)
    assert fake.revoked == [fake.sent[0].task_id]


@virtual
async def test_a_task_in_a_chunk_has_no_state_and_no_retry_of_its_own_as_on_a_worker(fake):
    def follow(task, n):
        task.update_state(state="PROGRESS", meta=n)

    def again(task, n):
        task.retry(exc=KeyError(n))

    async with CeleryClient(transport=fake) as client:
        for function, exc_type in ((follow, "ValueError"), (again, "KeyError")):
            fake.task(double, function, bind=True)
            with pytest.raises(TaskFailedError) as caught:
                await client.call_many([double(1), double(2)], chunk_size=2)
            assert caught.value.exc_type == exc_type
    assert len(fake.sent) == 2


@virtual
async def test_a_chunk_without_an_answer_times_out_with_what_the_others_answered(fake):
    fake.task(double, lambda n: n if n < 3 else asyncio.sleep(1000))
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(ResultTimeoutError) as caught:
            await client.call_many([double(n) for n in range(6)], chunk_size=3, timeout=2)
        assert caught.value.finished == {0: 0, 1: 1, 2: 2}
        assert caught.value.total == 6
        answers = await client.call_many([double(n) for n in range(6)], chunk_size=3, timeout=2, return_exceptions=True)
        assert answers[:3] == [0, 1, 2]
        assert [each.total for each in answers[3:]] == [1, 1, 1]


@pytest.mark.parametrize("answer", [None, [1], [1, 2, 3], {"a": 1}])
@virtual
async def test_a_chunk_that_answers_something_else_fails_its_calls(fake, answer):
    fake.task("celery.starmap", lambda task, it: answer)
    async with CeleryClient(transport=fake) as client:
        answers = await client.call_many([double(1), double(2)], chunk_size=2, return_exceptions=True)
    assert [type(each) for each in answers] == [ResultDecodeError] * 2


@virtual
async def test_a_value_that_is_not_what_the_task_should_answer_fails_alone(fake):
    def positive(value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return value

    same = RemoteTask[[int], int]("shop.same", positive, chunkable=True)
    fake.task(same, lambda n: n)
    async with CeleryClient(transport=fake) as client:
        answers = await client.call_many([same(1), same(-1), same(3)], chunk_size=3, return_exceptions=True)
    assert (answers[0], answers[2]) == (1, 3)
    assert isinstance(answers[1], ResultDecodeError)


@virtual
async def test_a_chunk_that_is_not_full_is_sent_when_its_own_first_call_is_20_ms_old(fake):
    async def source():
        yield 0
        await asyncio.sleep(0.015)
        yield 1  # This fills the first chunk, and the next begins the second.
        yield 2
        await asyncio.sleep(10)

    async with CeleryClient(transport=fake) as client, client.stream(double, source(), chunk_size=2):
        for pause, count in ((0.014, 0), (0.004, 1), (0.016, 1), (0.004, 2)):
            await asyncio.sleep(pause)
            assert len(fake.sent) == count


@virtual
async def test_the_last_chunk_of_a_list_waits_for_nothing(fake):
    async with CeleryClient(transport=fake) as client:
        began = asyncio.get_running_loop().time()
        assert await client.call_many([double(n) for n in range(7)], chunk_size=5) == [0, 2, 4, 6, 8, 10, 12]
        assert asyncio.get_running_loop().time() - began < 0.02
    assert sizes(fake) == [5, 2]


@virtual
async def test_an_error_of_a_chunk_names_the_task_that_was_called(fake):
    fake.task(double, raises=ValueError("no"))
    fake.task(add, delay=1000.0, returns=1)
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(TaskFailedError, match=r"^shop\.double\["):
            await client.call_many([double(1), double(2)], chunk_size=2)
        with pytest.raises(ResultTimeoutError, match=r"results of shop\.add"):
            await client.call_many([add(1), add(2)], chunk_size=2, timeout=1)


@virtual
async def test_more_chunks_than_may_be_pending_are_refused_before_anything_is_sent(fake):
    async with CeleryClient(transport=fake, max_pending=2) as client:
        assert await client.call_many([double(n) for n in range(6)], chunk_size=3) == [0, 2, 4, 6, 8, 10]
        fake.sent.clear()
        with pytest.raises(TooManyPendingError):
            await client.call_many([double(n) for n in range(7)], chunk_size=3)
    assert fake.sent == []


@virtual
async def test_a_chunk_that_is_too_large_for_one_message_is_sent_in_halves(fake, monkeypatch):
    async with CeleryClient(transport=fake) as client:
        encode = client._session.encoder.one

        def one(signature, *rest):
            if len((signature.kwargs or {}).get("it", ())) > 3:
                raise MessageError("too large")
            return encode(signature, *rest)

        monkeypatch.setattr(client._session.encoder, "one", one)
        assert await client.call_many([double(n) for n in range(10)], chunk_size=10) == [2 * n for n in range(10)]
    assert sorted(sizes(fake)) == [2, 2, 3, 3]


# All of it, with inputs of every kind.


KINDS = ("answers", "raises", "hangs", "retries", "cannot be sent", "is refused")


@dataclass
class Scenario:
    """Inputs, what becomes of each, and a reader who may leave."""

    inputs: list[tuple[str, int]]
    chunk_size: int
    options: dict
    source_pauses: list[float]
    reader_pauses: list[float]
    leaves_after: int | None
    plain: bool
    seen: list[tuple] = field(default_factory=list)
    raised: Exception | None = None
    pulled: int = 0

    def pull(self, index):
        self.pulled += 1
        assert self.pulled - len(self.seen) <= self.options["max_in_flight"]
        return index

    async def source(self):
        for index in range(len(self.inputs)):
            await asyncio.sleep(self.source_pauses[index % len(self.source_pauses)])
            yield self.pull(index)

    def call(self, index):
        kind, _ = self.inputs[index]
        if kind == "is refused":
            raise TypeError("no call")
        return double(object() if kind == "cannot be sent" else index)

    async def answer(self, task, index):
        kind, seconds = self.inputs[index]
        await asyncio.sleep(seconds / 10)
        if kind == "raises":
            raise ValueError(index)
        if kind == "hangs":
            await asyncio.sleep(1e9)
        if kind == "retries":
            task.retry(countdown=0.1)
        return -index

    @virtual
    async def run(self):
        fake = FakeCelery()
        fake.task(double, self.answer, bind=True)
        async with CeleryClient(transport=fake) as client:
            source = map(self.pull, range(len(self.inputs))) if self.plain else self.source()
            try:
                stream = client.stream(self.call, source, chunk_size=self.chunk_size, timeout=20.0, **self.options)
                async with stream as answers:
                    await self.read(answers)
            except (FiboError, OSError, TypeError, ValueError) as error:  # Which one is looked at afterwards.
                self.raised = error
            assert client.stats().pending == client.stats().in_flight == 0
            await asyncio.sleep(30)  # What it owned has been revoked or deleted.
            assert not fake._memory.results
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()} | {
            task for task in asyncio.all_tasks() if not task.get_name().startswith("fibo_client")
        }

    async def read(self, answers):
        async for index, answer in answers:
            self.seen.append((index, answer))
            await asyncio.sleep(self.reader_pauses[len(self.seen) % len(self.reader_pauses)])
            if len(self.seen) == self.leaves_after:
                break

    def fits(self, index, answer):
        """Whether this may come of an input: what is its own, or what another one did to its chunk."""
        kind, _ = self.inputs[index]
        own = {
            "answers": int,
            "raises": TaskFailedError,
            "hangs": ResultTimeoutError,
            "retries": TaskFailedError if self.chunk_size == 1 else ChunkRetriedError,
            "cannot be sent": MessageError,
            "is refused": TypeError,
        }
        if type(answer) is int:
            return kind == "answers" and answer == -index
        alone = self.chunk_size == 1 or kind in ("cannot be sent", "is refused")
        of_chunk = () if alone else (TaskFailedError, ResultTimeoutError, ChunkRetriedError)
        return isinstance(answer, (own[kind], *of_chunk)) and not isinstance(answer, int)


PAUSES = st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.5]), min_size=1, max_size=4)

SCENARIOS = st.builds(
    Scenario,
    inputs=st.lists(st.tuples(st.sampled_from(["answers"]) | st.sampled_from(KINDS), st.integers(0, 3)), max_size=20),
    chunk_size=st.integers(1, 5),
    options=st.fixed_dictionaries(
        {"max_in_flight": st.integers(1, 8), "ordered": st.booleans(), "return_exceptions": st.booleans()}
    ),
    source_pauses=PAUSES,
    reader_pauses=PAUSES,
    leaves_after=st.none() | st.integers(1, 10),
    plain=st.booleans(),
    seen=st.builds(list),
    raised=st.none(),
    pulled=st.just(0),
)


@given(SCENARIOS)
def test_whatever_its_inputs_do_a_stream_answers_each_once_and_leaves_nothing(scenario):
    scenario.run()
    indexes = [index for index, _ in scenario.seen]
    assert len(set(indexes)) == len(indexes)
    for index, answer in scenario.seen:
        assert scenario.fits(index, answer), (index, answer)
    if scenario.options["ordered"]:
        assert indexes == list(range(len(indexes)))
    if scenario.raised is not None:
        assert not scenario.options["return_exceptions"]
        (note,) = [note for note in scenario.raised.__notes__ if note.startswith("input = ")]
        assert scenario.fits(int(note.removeprefix("input = ")), scenario.raised)
    elif scenario.leaves_after is None or len(indexes) < scenario.leaves_after:
        assert len(indexes) == len(scenario.inputs)


# As they end.


@virtual
async def test_as_completed_gives_each_handle_once_its_task_is_over_in_that_order(fake):
    fake.task("shop.sleep", asyncio.sleep)
    async with CeleryClient(transport=fake) as client:
        results = [await client.send_task("shop.sleep", (seconds, seconds)) for seconds in (3, 1, 2)]
        given = [result async for result in client.as_completed([*results, results[1]])]

        assert given == [results[1], results[1], results[2], results[0]]
        assert [await result.get(0) for result in given] == [1, 1, 2, 3]
        assert [result async for result in client.as_completed(results)] == results
        assert [result async for result in client.as_completed([])] == []


@virtual
async def test_as_completed_gives_failed_tasks_too_and_the_error_is_in_their_get(fake):
    fake.task(double, raises=ValueError("no"))
    async with CeleryClient(transport=fake) as client:
        results = await client.send_many([double(1), add(1)])
        given = {result.id: result async for result in client.as_completed(results)}

        assert given.keys() == {result.id for result in results}
        with pytest.raises(TaskFailedError):
            await given[results[0].id]


@virtual
async def test_as_completed_times_out_after_what_has_ended(fake):
    fake.task("shop.sleep", asyncio.sleep)
    async with CeleryClient(transport=fake) as client:
        results = [await client.send_task("shop.sleep", (seconds,)) for seconds in (100, 1)]
        completed = client.as_completed(results, timeout=5)
        assert await anext(completed) is results[1]
        with pytest.raises(ResultTimeoutError) as caught:
            await anext(completed)
        assert caught.value.task_ids == (results[0].id,)


@virtual
async def test_as_completed_follows_more_handles_than_one_piece_and_owned_ones(fake):
    async with CeleryClient(transport=fake) as client:
        results = await client.send_many(double(n) for n in range(1000))
        async with client.start(double(7)) as owned:
            given = [result async for result in client.as_completed([*results, owned])]
            assert len(given) == 1001
            assert {result.id for result in given} == {result.id for result in [*results, owned]}
            assert await owned.get(0) == 14
        with pytest.raises(TypeError, match="AsyncResult"):
            await anext(client.as_completed(["an id"]))


@virtual
async def test_leaving_as_completed_early_leaves_nothing_awaited(fake):
    async with CeleryClient(transport=fake) as client:
        fake.task("shop.sleep", asyncio.sleep)
        results = [await client.send_task("shop.sleep", (seconds,)) for seconds in (1, 100)]
        async for _ in client.as_completed(results):
            break
        await asyncio.sleep(0.1)
        assert client.stats().pending == 0


@pytest.mark.parametrize("timeout", [0, 1.0])
@virtual
async def test_as_completed_says_which_tasks_had_not_ended_and_their_last_state(fake, timeout):
    def slow(task):
        task.update_state(state="PROGRESS", meta={"done": 1})
        return asyncio.sleep(1000)

    fake.task("shop.slow", slow, bind=True)
    async with CeleryClient(transport=fake) as client:
        results = await client.send_many([double(1), RemoteTask("shop.slow")(), RemoteTask("shop.slow")()])
        await client.gather(results[:1])
        completed = client.as_completed([*results, results[1]], timeout=timeout)
        assert await anext(completed) is results[0]
        with pytest.raises(ResultTimeoutError) as caught:
            await anext(completed)
        assert caught.value.task_ids == (results[1].id, results[2].id)
        assert caught.value.total == 4
        assert caught.value.state == "PROGRESS"
