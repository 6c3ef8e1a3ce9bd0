import itertools
import json

import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client import contract
from fibo_client.batching import packing
from fibo_client.batching.packing import LARGE_N, MAX_COST, MAX_REPLY, Chunk, cost, is_large, pack, reply_bytes
from fibo_worker.tasks import CHUNK_BUDGET, fibonacci_chunk

LARGEST = contract.DEFAULT_MAX_N
NEARLY = 1 + 1e-9  # floats that are added in another order

indexes = st.one_of(
    st.integers(0, 100), st.integers(0, 20_000), st.integers(LARGE_N - 2, LARGE_N + 2), st.integers(0, LARGEST)
)
many = st.lists(indexes, max_size=400)
few_kinds = st.builds(lambda some, times: some * times, st.lists(indexes, max_size=5), st.integers(0, 500))


@given(many | few_kinds, st.integers(1, contract.MAX_CHUNK))
def test_every_number_is_in_one_chunk_in_the_order_of_its_class_small_ones_first(numbers, size):
    chunks = pack(numbers, chunk_size=size)

    packed = [n for chunk in chunks for n in chunk.numbers]
    assert packed == sorted(numbers, key=is_large)
    assert [chunk.large for chunk in chunks] == sorted(chunk.large for chunk in chunks)


@given(many | few_kinds, st.integers(1, contract.MAX_CHUNK))
def test_no_chunk_is_over_a_limit_but_that_of_one_number(numbers, size):
    for chunk in pack(numbers, chunk_size=size):
        assert 1 <= len(chunk.numbers) <= size
        assert {is_large(n) for n in chunk.numbers} == {chunk.large}
        if len(chunk.numbers) > 1:
            assert sum(map(cost, chunk.numbers)) <= MAX_COST * NEARLY
            assert sum(map(reply_bytes, chunk.numbers)) <= MAX_REPLY


@given(many | few_kinds, st.integers(1, contract.MAX_CHUNK))
def test_no_chunk_could_have_taken_the_number_that_follows_it(numbers, size):
    chunks = pack(numbers, chunk_size=size)

    for chunk, after in itertools.pairwise(chunks):
        tried = [*chunk.numbers, after.numbers[0]]
        assert (
            after.large != chunk.large
            or len(tried) > size
            or sum(map(cost, tried)) * NEARLY > MAX_COST
            or sum(map(reply_bytes, tried)) > MAX_REPLY
        )


def test_nothing_makes_no_chunk():
    assert pack([]) == []
    assert pack(iter(())) == []


def test_numbers_may_come_from_anywhere_and_repeat():
    assert pack(n % 2 for n in range(5)) == [Chunk([0, 1, 0, 1, 0], large=False)]


def test_a_thousand_small_numbers_are_one_chunk():
    assert [len(chunk.numbers) for chunk in pack(n % 1000 for n in range(2500))] == [1000, 1000, 500]


def test_a_number_beyond_a_limit_goes_alone():
    assert pack([LARGEST, LARGEST, 1]) == [
        Chunk([1], large=False),
        Chunk([LARGEST], large=True),
        Chunk([LARGEST], large=True),
    ]


def test_a_chunk_size_of_one_is_one_task_a_number():
    assert [chunk.numbers for chunk in pack([3, 3, 5], chunk_size=1)] == [[3], [3], [5]]


@pytest.mark.parametrize(("n", "large"), [(0, False), (9_999, False), (1_000_000, True), (LARGEST, True)])
def test_what_takes_longer_than_a_task_is_large(n, large):
    assert is_large(n) is large


@given(indexes, indexes)
def test_a_larger_n_is_never_cheaper_and_never_shorter(n, m):
    n, m = sorted((n, m))

    assert cost(n) <= cost(m)
    assert reply_bytes(n) <= reply_bytes(m)


def test_the_estimate_goes_through_the_points_that_were_measured_and_on_behind_the_last():
    assert [cost(n) for n, _ in packing.COSTS] == pytest.approx([seconds for _, seconds in packing.COSTS])
    assert cost(2 * LARGEST) > 2 * cost(LARGEST) * 0.99


@given(st.integers(0, 50_000))
def test_a_reply_is_as_long_as_was_said_or_one_byte_shorter(n):
    text = contract.encode_number(gmpy2.fib(n))
    length = len(json.dumps([text, text])) - len(json.dumps([text]))

    assert length <= reply_bytes(n) <= length + 1


@pytest.mark.parametrize("n", [*range(30), 999_999, LARGEST, 50_000_000])
def test_a_reply_is_no_longer_than_was_said_for_the_smallest_and_the_largest(n):
    assert len(json.dumps(contract.encode_number(gmpy2.fib(n)))) + 2 <= reply_bytes(n)


def test_whatever_is_packed_asks_for_no_more_than_a_worker_allows():
    # A reply limits the sum of a chunk's numbers more tightly than the worker does; only one alone may use all of it.
    longest = next(n for n in range(LARGEST) if reply_bytes(n) * 2 > MAX_REPLY)

    assert 2 * longest < CHUNK_BUDGET
    for chunk in pack([longest - 1] * 3 + [LARGEST] * 2 + list(range(0, LARGEST, 9973))):
        assert sum(chunk.numbers) <= CHUNK_BUDGET
        assert len(chunk.numbers) <= contract.MAX_CHUNK


@given(st.lists(st.integers(0, 3000), max_size=300), st.integers(1, contract.MAX_CHUNK))
def test_a_worker_accepts_what_is_packed(numbers, size):
    chunks = pack(numbers, chunk_size=size)

    answers = [value for chunk in chunks for value in contract.decode_chunk(fibonacci_chunk(chunk.numbers))]
    assert answers == [gmpy2.fib(n) for n in numbers]
