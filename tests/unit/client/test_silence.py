"""What a timeout says of a Redis, or of a task, that gave no answer: no more than what is known."""

import math

import pytest
from support.clock import virtual

from fibo_client import FIBO_TASK, FiboClient, ResultTimeoutError
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.celery.outcome import Facts, timeout_error
from fibo_client.celery.pending import Wait
from fibo_client.testing import FakeFibo

IS_IT = "Is that a Redis, with TLS or without as the URL says?"


@pytest.mark.parametrize("published", [True, None], ids=["results", "broker"])
@pytest.mark.parametrize(
    ("waited", "reached", "said"),
    [
        (5.0, False, IS_IT),
        (5.0, True, "Is it stopped, or very busy?"),
        (0.04, False, "A longer timeout is needed to know more."),
        (0.04, True, "A longer timeout is needed to know more."),
    ],
)
def test_only_a_redis_that_had_time_and_was_never_connected_is_doubted(published, waited, reached, said):
    client = CeleryClient("redis://localhost:1/0", "redis://localhost:2/0")
    silent = client._session.backend if published else client._session.broker
    if reached:
        silent.health.connected()
    facts = Facts(
        timed_out=True,
        waited=waited,
        unsent=None,
        unread=None,
        no_worker=False,
        published=published,
        looks=0,
        broker=client._session.broker,
        backend=client._session.backend,
    )
    error = timeout_error(Wait(None, 0.0, None), facts, client.result("x"))
    assert error.reason is not None
    assert error.reason.startswith(f"{silent} had not answered by then")
    assert error.reason.endswith(said)


async def handed_out(client):
    return await (await client.submit(5, task=FIBO_TASK)).get(timeout=1)


async def streamed(client):
    async with client.stream([5, 6], timeout=1) as results:
        return [each async for each in results]


OF_FIBO_WORKER = {
    "fibonacci": lambda client: client.fibonacci(5, timeout=1),
    "fibonacci_many": lambda client: client.fibonacci_many([5, 500_000], timeout=1),
    "stream": streamed,
    "sqrt": lambda client: client.sqrt(2, timeout=1),
    "fibo_task": lambda client: client.fibo_task(5, timeout=1),
    "submit": handed_out,
}
NONE = "a task that is declared with ignore_result=True gives none"


@pytest.mark.parametrize("name", OF_FIBO_WORKER)
@virtual
async def test_nobody_is_told_that_a_task_may_give_no_answer_who_knows_how_to_read_it(name):
    async with FiboClient(transport=FakeFibo(queues=["another"])) as client:
        with pytest.raises(ResultTimeoutError) as caught:
            await OF_FIBO_WORKER[name](client)
    assert str(caught.value).endswith("CeleryClient.diagnose(error) asks the queue and the workers why")


@virtual
async def test_that_a_task_may_give_no_answer_is_told_who_knows_only_its_name():
    async with CeleryClient(transport=FakeFibo(queues=["another"])) as client:
        with pytest.raises(ResultTimeoutError, match=rf" \(before Celery 5.6.3, {NONE}\)$"):
            await client.call("proj.task", timeout=1)
        handle = await client.send_task("proj.task")
        with pytest.raises(ResultTimeoutError, match=rf" \({NONE}\)$"):
            await handle.get(timeout=1)


@pytest.mark.parametrize(
    ("over", "missing", "told"),
    [
        (RemoteTask("proj.over", decode=int), RemoteTask("proj.missing"), True),
        (RemoteTask("proj.over"), RemoteTask("proj.missing", decode=int), False),
    ],
)
@virtual
async def test_of_many_tasks_the_first_that_is_missing_decides(over, missing, told):
    fake = FakeFibo()
    fake.task(over, returns=1)
    fake.task(missing, returns=2, delay=math.inf)
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(ResultTimeoutError) as caught:
            await client.call_many([over(), missing(), over()], timeout=1)
    assert caught.value.finished == {0: 1, 2: 1}
    assert (NONE in str(caught.value)) is told
