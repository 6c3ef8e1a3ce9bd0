"""The largest numbers, through the client, Redis and a real worker, compared with what gmpy2 computes."""

import gmpy2
import pytest

from fibo_client import FIBONACCI, FiboClient, contract
from fibo_client.batching.packing import LARGE_N

PATIENCE = 30.0


@pytest.fixture(params=[True, False], ids=["push", "poll"])
async def client(request, worker):
    async with FiboClient(worker.url, push=request.param, timeout=PATIENCE) as client:
        yield client


async def test_the_largest_number_that_is_allowed_is_exact(client):
    n = contract.DEFAULT_MAX_N

    assert await client.fibonacci(n) == gmpy2.fib(n)


async def test_the_largest_number_can_be_collected_from_its_handle(client):
    n = contract.DEFAULT_MAX_N
    handle = await client.submit(n)

    assert await handle == gmpy2.fib(n)
    assert await client.celery.result(handle.id, FIBONACCI) == gmpy2.fib(n)


async def test_a_sentence_has_all_the_decimal_digits_of_a_long_number(client):
    n, message = await client.fibo_task(1_000_000)

    assert n == 1_000_000
    assert message.endswith(f" was {gmpy2.fib(1_000_000).digits()}")


async def test_large_and_small_numbers_come_back_together_in_order(client):
    numbers = [LARGE_N, 3, 1_000_000, 20_577, LARGE_N - 1, 20_578, 3, LARGE_N]

    assert await client.fibonacci_many(numbers) == [gmpy2.fib(n) for n in numbers]
