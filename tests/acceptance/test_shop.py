"""The shop of docs/examples, a service in front of a Celery app, as its callers see it: real worker, real server."""

from __future__ import annotations

import asyncio
import collections
import json
import re
import uuid
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
import redis.asyncio
from support.hand import Hand
from support.proxy import Proxy
from support.servers import EXAMPLES, free_port
from support.service import launched, read_events
from support.waiting import eventually

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess

REPORT = 300
"""Seconds: no test waits for one to end by itself."""

MANY = 500

PRICES = {"apple": "0.40", "bread": "3.20", "cake": "18.00", "dates": "7.95"}
"""Those of shop.orders, which is not imported here: each app of this process would have its tasks."""


@contextmanager
def shop(url, *, timeout=30.0):
    """Run the service. It must end without an exception."""
    with launched(url, "shop.service:app", env={"SHOP_TIMEOUT": str(timeout)}) as (address, program):
        yield address
        assert "Traceback" not in program.text, program.text


@asynccontextmanager
async def callers(address):
    limits = httpx.Limits(max_connections=MANY, max_keepalive_connections=MANY)
    async with httpx.AsyncClient(base_url=address, timeout=50, limits=limits) as client:
        yield client


@pytest.fixture(scope="module")
def worker(redis_server):
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(EXAMPLES), "SHOP_STEP": "0.05", "SHOP_REPORT": str(REPORT)}
    with WorkerProcess(
        url, app="shop.orders", concurrency=2, queues=("shop", "mail"), env=env, stop_timeout=0
    ) as process:
        yield url, process


@pytest.fixture(scope="module")
def address(worker):
    with shop(worker[0]) as address:
        yield address


@pytest.fixture
async def caller(address):
    async with callers(address) as client:
        yield client


def problem(response):
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == response.status_code
    return said["status"], said["detail"]


async def follow(caller, started):
    """Follow a task that was started, to its end."""
    assert started.status_code == 202
    events = await caller.get(started.headers["Location"] + "/events")
    return [(name, json.loads(data)) for name, data in read_events(events.text)]


# Work that is started.


async def test_an_email_is_sent_at_the_third_attempt_from_a_queue_of_its_own(caller):
    events = await follow(caller, await caller.post("/orders/7/mail"))
    assert {data["state"] for name, data in events if name == "state"} <= {"PENDING", "RETRY"}
    assert events[-1] == ("done", {"state": "SUCCESS", "progress": None, "result": "order-7.eml"})


async def test_a_picture_tells_how_far_it_is(caller):
    events = await follow(caller, await caller.post("/pictures", json={"name": "dog", "steps": 12}))
    progress = [data["progress"] for name, data in events if name == "state" and data["progress"]]
    done = [each["done"] for each in progress]
    assert done == sorted(set(done))
    assert len(done) >= 3
    assert {each["total"] for each in progress} == {12}
    assert events[-1] == ("done", {"state": "SUCCESS", "progress": None, "result": "dog-small.png"})


async def test_the_state_of_a_task_can_be_asked_for_at_any_time(caller):
    started = await caller.post("/pictures", json={"name": "cat", "steps": 1})
    location = started.headers["Location"]
    assert location == f"/tasks/{started.json()['id']}"

    async def over():
        return (await caller.get(location)).json()["state"] == "SUCCESS"

    await eventually(over)
    assert (await caller.get(location)).json()["result"] == "cat-small.png"
    assert (await caller.get(f"/tasks/{uuid.uuid4()}")).json()["state"] == "PENDING"


# Answers.


async def test_a_date_a_decimal_and_a_uuid_arrive_as_what_they_are(caller):
    answers = [(await caller.get(f"/invoices/{order}")).json() for order in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
    number = answers[0].pop("number")
    assert str(uuid.UUID(number)) == number
    assert answers[0] == {"due": "2030-01-31", "total": "29.95"}


async def test_an_exception_of_the_task_s_own_becomes_what_it_means_and_any_other_tells_nothing(caller):
    assert (await caller.post("/reservations", json={"item": "bread", "count": 2})).json() == {"left": 10}
    assert problem(await caller.post("/reservations", json={"item": "cake", "count": 2})) == (409, "There are 1 left.")
    unknown = await caller.post("/reservations", json={"item": "gold", "count": 2})  # A KeyError in the worker.
    assert problem(unknown) == (502, "The worker could not compute it.")


async def test_a_batch_is_streamed_line_by_line_and_what_fails_fails_alone(caller):
    names = [*PRICES, "gold"]
    items = [names[n % len(names)] for n in range(MANY)]
    answer = await caller.post("/prices", json={"items": items})
    assert answer.status_code == 200
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert collections.Counter(line["item"] for line in lines) == collections.Counter(items)
    for line in lines:
        failed = line["item"] == "gold"
        assert line["price"] == PRICES.get(line["item"])
        assert line["problem"] == ("The worker could not compute it." if failed else None)


async def test_a_line_is_sent_while_others_are_still_computed(redis_url):
    """Nobody computes here but a hand, which does one of two."""
    two = {"items": ["apple", "bread"]}
    with shop(redis_url) as address:
        async with (
            redis.asyncio.Redis.from_url(redis_url) as broker,
            callers(address) as caller,
            caller.stream("POST", "/prices", json=two) as answer,
        ):
            _, message = await broker.blpop("shop", timeout=10)
            result = {"__type__": "decimal", "__value__": "0.40"}
            await Hand(broker).put(json.loads(message)["headers"]["id"], result=result)
            line = json.loads(await anext(answer.aiter_lines()))
    assert line["price"] == "0.40"


async def test_a_batch_that_is_too_large_is_refused(caller):
    assert (await caller.post("/prices", json={"items": ["apple"] * (MANY + 1)})).status_code == 422


# Many callers, and those who leave.


async def running(url):
    """The tasks that workers run now, by name."""
    async with CeleryClient(url) as client:
        active = await client.inspect(timeout=10).active()
    return [task["name"].rpartition(".")[2] for tasks in active.values() for task in tasks]


async def test_hundreds_of_callers_at_once_are_all_answered(caller):
    calls = [caller.get(f"/invoices/{order}") for order in range(1, MANY + 1)]
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["number"] for answer in answers}) == MANY


async def test_one_who_leaves_a_report_frees_the_worker_which_does_not_begin_it_again(worker, caller):
    url, process = worker
    before = len(process.log.read_text())
    leaving = [asyncio.create_task(caller.get("/reports/2026")) for _ in range(2)]

    async def busy():
        return await running(url) == ["report", "report"]

    await eventually(busy)
    for each in leaving:
        each.cancel()
    assert (await caller.get("/invoices/9")).status_code == 200  # Both processes would have been busy for minutes.
    log = process.log.read_text()[before:]
    reports = set(re.findall(r"Task shop\.orders\.report\[(\S+)\] received", log))
    assert len(reports) == 2
    for task_id in reports:
        assert (await caller.get(f"/tasks/{task_id}")).json()["state"] == "REVOKED"
        assert log.count(f"{task_id}] received") == 1
    assert "report" not in await running(url)
    process.check()


async def test_those_who_leave_take_nothing_from_those_who_stay(worker, caller):
    url, process = worker
    leaving = [asyncio.create_task(caller.get("/reports/2027")) for _ in range(100)]
    staying = [asyncio.create_task(caller.get(f"/invoices/{order}")) for order in range(1, 101)]
    batch = asyncio.create_task(caller.post("/prices", json={"items": ["apple"] * 200}))

    async def busy():
        return await running(url) == ["report", "report"]

    await eventually(busy)
    for each in leaving:
        each.cancel()
    answers = await asyncio.gather(*staying)
    assert {answer.status_code for answer in answers} == {200}
    assert (await batch).text.count("0.40") == 200

    async def idle():
        async with CeleryClient(url) as client:
            return await client.queue_depth("shop") == 0 and await running(url) == []

    await eventually(idle)
    process.check()


async def test_one_who_leaves_a_batch_has_the_rest_of_it_revoked(worker, caller):
    url, process = worker
    before = len(process.log.read_text())
    leaving = [asyncio.create_task(caller.get("/reports/2028")) for _ in range(2)]

    async def busy():
        return await running(url) == ["report", "report"]

    await eventually(busy)
    batch = asyncio.create_task(caller.post("/prices", json={"items": ["apple"] * MANY}))

    async def sent():
        async with CeleryClient(url) as client:
            return await client.queue_depth("shop") > 50

    await eventually(sent)
    batch.cancel()

    async def revoked():
        return "Tasks flagged as revoked" in process.log.read_text()[before:]

    await eventually(revoked)
    for each in leaving:
        each.cancel()
    assert (await caller.get("/invoices/9")).status_code == 200
    assert "Discarding revoked task: shop.orders.price" in process.log.read_text()[before:]


# What is away.


async def test_it_lives_and_it_is_ready(caller):
    assert (await caller.get("/healthz")).json() == {"status": "alive"}
    assert (await caller.get("/readyz")).json() == {"status": "ready", "workers": 1}


async def test_without_a_worker_answers_are_late_and_what_is_started_waits(redis_url):
    with shop(redis_url, timeout=0.5) as address:
        async with callers(address) as caller:
            assert problem(await caller.get("/invoices/1")) == (504, "No worker answered in time.")
            assert problem(await caller.get("/readyz")) == (503, "No worker answers.")
            started = await caller.post("/orders/1/mail")
            assert (await caller.get(started.headers["Location"])).json()["state"] == "PENDING"
            lines = (await caller.post("/prices", json={"items": ["apple", "bread"]})).text.splitlines()
            assert [json.loads(line)["problem"] for line in lines] == ["No worker answered in time."] * 2


async def test_without_a_redis_everything_is_away_but_the_service(caller):
    with shop(f"redis://127.0.0.1:{free_port()}/0", timeout=0.5) as address:
        async with callers(address) as caller:
            for path in ("/invoices/1", "/readyz", f"/tasks/{uuid.uuid4()}"):
                answer = await caller.get(path)
                assert problem(answer) == (503, "The queue cannot be reached just now."), path
                assert answer.headers["retry-after"] == "1"
            assert problem(await caller.post("/orders/1/mail"))[0] == 503
            assert (await caller.get("/healthz")).status_code == 200


async def test_after_an_outage_it_goes_on_by_itself(redis_server, worker):
    url, _ = worker
    proxy = Proxy(redis_server.port)
    async with proxy.running():
        with shop(proxy.url(url), timeout=1) as address:
            async with callers(address) as caller:
                assert (await caller.get("/invoices/1")).status_code == 200
                proxy.refusing = True
                proxy.cut()
                answers = await asyncio.gather(*(caller.get("/invoices/1") for _ in range(50)))
                assert {problem(answer) for answer in answers} == {(503, "The queue cannot be reached just now.")}
                proxy.refusing = False

                async def back():
                    return (await caller.get("/invoices/1")).status_code == 200

                await eventually(back)
