"""Dead letters that Redis does not take: what is tried again, what is cut, and what is given up."""

import logging

import pytest
import redis

from fibo_worker.guard import dead_letter_buffer
from fibo_worker.guard.dead_letter_buffer import DeadLetterBuffer
from fibo_worker.guard.dead_letters import DeadLetter

LARGE = 2 * 1024 * 1024


class Target:
    """Stands for the dead letters of a queue in Redis, which fail as a test says."""

    key = "celery.dead"

    def __init__(self):
        self.errors = []
        self.is_gone = False
        self.tried = []

    def push(self, letter):
        self.tried.append(len(letter.raw))
        if self.errors:
            raise self.errors.pop(0)
        return letter

    def ping(self):
        if self.is_gone:
            raise redis.ConnectionError("gone")


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def clock(monkeypatch):
    """Stands for the time, in a list."""
    now = [100.0]
    monkeypatch.setattr(dead_letter_buffer.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def flush(target, clock):
    """Flush a buffer after a pause, and give what was stored."""

    def flush(buffer):
        stored = []
        clock[0] += 60
        buffer.flush(lambda _: target, lambda letter, _: stored.append(letter))
        return stored

    return flush


def letter(size=10, id="an id"):
    return DeadLetter.now("it is no good", b"x" * size, queue="celery", task="t", id=id)


def buffer_of(*letters, max_bytes=100_000_000):
    buffer = DeadLetterBuffer(max_bytes)
    for each in letters:
        buffer.add(each)
    return buffer


def test_what_redis_takes_waits_no_longer(flush):
    buffer = buffer_of(letter(), letter())
    assert len(flush(buffer)) == 2
    assert list(buffer) == []


def test_when_redis_is_gone_all_wait_as_they_are(flush, target):
    buffer = buffer_of(letter(LARGE))
    target.errors, target.is_gone = [redis.ConnectionError("gone")] * 9, True
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            flush(buffer)
    assert [len(each.raw) for each in buffer] == [LARGE]


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Error 104 while writing to socket"),
        redis.TimeoutError("timed out"),
        BrokenPipeError(),
        redis.ResponseError("Protocol error: invalid bulk length"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_over_which_redis_closes_the_connection_twice_is_cut(flush, target, error):
    target.errors = [error] * 2
    (stored,) = flush(buffer_of(letter(LARGE)))
    assert (stored.size, target.tried) == (LARGE, [LARGE, LARGE, 4096])


def test_one_over_which_redis_closes_it_once_is_kept_whole(flush, target):
    target.errors = [redis.ConnectionError("lost by chance")]
    (stored,) = flush(buffer_of(letter(LARGE)))
    assert not stored.is_cut


def test_one_that_redis_does_not_take_even_cut_is_given_up_and_named_and_the_next_one_is_stored(flush, target, caplog):
    buffer = buffer_of(letter(LARGE, id="the\nfirst"), letter(id="the second"))
    target.errors = [redis.ConnectionError("hung up")] * 4
    with caplog.at_level(logging.ERROR):
        (stored,) = flush(buffer)
    assert stored.id == "the second"
    assert list(buffer) == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert "(task 't', id 'the\\nfirst', 2097152 bytes) is lost" in line


def test_what_redis_refuses_holds_up_no_other_and_is_stored_when_redis_takes_it(flush, target):
    buffer = buffer_of(letter(id="refused"), letter(id="taken"))
    for _ in range(20):
        target.errors = [redis.ResponseError("WRONGTYPE")]
        flush(buffer)
    assert [each.id for each in buffer] == ["refused"]
    assert [each.id for each in flush(buffer)] == ["refused"]


def test_a_large_one_that_redis_refuses_again_and_again_is_cut_and_a_small_one_is_not(flush, target):
    buffer = buffer_of(letter(LARGE), letter(10_000))
    for _ in range(3):
        target.errors = [redis.exceptions.OutOfMemoryError("full")] * 2
        flush(buffer)
    assert [each.is_cut for each in flush(buffer)] == [True, False]


def test_after_a_refusal_redis_is_left_alone_for_a_while(target, clock):
    buffer = buffer_of(letter())
    target.errors = [redis.ResponseError("WRONGTYPE")] * 100
    for _ in range(100):
        clock[0] += 0.5
        buffer.flush(lambda _: target, lambda *_: None)
    assert 5 < len(target.tried) < 12


def test_what_waits_is_bounded_in_bytes_and_in_number(target, caplog):
    buffer = buffer_of(*[letter(LARGE, id=str(n)) for n in range(101)], max_bytes=3 * LARGE)
    assert sum(len(each.raw) for each in buffer) < 4 * LARGE
    assert [each.id for each in buffer] == [str(n) for n in range(1, 101)]
    assert "id '0', 2097152 bytes) is lost" in caplog.text
