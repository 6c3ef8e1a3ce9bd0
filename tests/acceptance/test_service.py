"""The service of docs/examples answers, refuses, fails and is left, as its callers see it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal

import httpx
import pytest
import redis.asyncio
from service.app import app, get_client
from support.hand import Hand
from support.proxy import Proxy
from support.servers import free_port
from support.service import held_worker, launched, queued, read_events, serving
from support.waiting import eventually

from fibo_client import FiboClient, errors

MAX_N = 20_000


def fib(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@pytest.fixture(scope="module")
def service(worker):
    """The service with its default settings, and a worker."""
    with serving(worker.url) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def unserved(redis_server):
    """The service with a Redis, but no worker."""
    with (
        serving(redis_server.fresh_url(), timeout=0.5, ready_timeout=0.5) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def cut_off():
    """The service without a Redis."""
    with (
        serving(f"redis://127.0.0.1:{free_port()}/0", timeout=0.5) as address,
        httpx.Client(base_url=address) as client,
    ):
        yield client


def problem(response: httpx.Response) -> tuple[int, str]:
    """What a problem document says, which has to agree with the response that it is in."""
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert (said["status"], said["title"]) == (response.status_code, response.reason_phrase)
    return said["status"], said["detail"]


# What is asked for.


@pytest.mark.parametrize("n", [0, 1, 10, 1000, MAX_N])
def test_one_number_is_exact_however_long(service, n):
    answer = service.get(f"/fibonacci/{n}")
    assert answer.status_code == 200
    assert answer.json() == {"n": n, "value": hex(fib(n))}


def test_many_numbers_keep_their_order_and_their_duplicates(service):
    numbers = [4, 3, 8, 6, 10, 3]
    answer = service.post("/fibonacci", json={"n": numbers})
    assert answer.json() == {"results": [{"n": n, "value": hex(fib(n))} for n in numbers]}


def test_a_stream_tells_how_many_there_are_then_each_number_then_that_it_is_over(service):
    answer = service.get("/fibonacci/stream", params={"n": ["7", "10-12", "0-20/10", "7"]})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"  # nginx would keep results back until it has some kB of them
    (start, *results, done) = read_events(answer.text)
    assert start == ("start", '{"total": 8}')
    assert done == ("done", '{"total": 8, "failed": 0}')
    assert {name for name, _ in results} == {"result"}
    came = sorted((json.loads(data)["n"], int(json.loads(data)["value"], 16)) for _, data in results)
    assert came == [(n, fib(n)) for n in (0, 7, 7, 10, 10, 11, 12, 20)]


async def test_a_number_is_sent_while_others_are_still_computed(redis_url):
    """Nobody computes here but a hand, which does the small ones and leaves the large one."""
    async with redis.asyncio.Redis.from_url(redis_url) as broker, httpx.AsyncClient(timeout=30) as client:
        with serving(redis_url, max_n=2_000_000) as address:
            async with client.stream("GET", f"{address}/fibonacci/stream?n=2000000&n=5&n=6") as answer:
                _, message = await broker.blpop("celery", timeout=10)
                task = json.loads(message)
                ((numbers,), *_) = json.loads(base64.b64decode(task["body"]))
                assert numbers == [5, 6]
                await Hand(broker).put(task["headers"]["id"], result=["5", "8"])
                text = ""
                async for piece in answer.aiter_text():
                    text += piece
                    if text.count("event: result") == 2:
                        break
                assert "event: done" not in text


def test_an_event_source_that_has_read_everything_is_told_not_to_ask_again(service):
    answer = service.get("/fibonacci/stream?n=1")
    (last_id,) = [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]
    again = service.get("/fibonacci/stream?n=1", headers={"Last-Event-ID": last_id})
    assert (again.status_code, again.content) == (204, b"")


def test_it_lives_and_it_is_ready(service):
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready", "workers": 1}


# What is refused.


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/fibonacci/-1", "path.n: Input should be greater than or equal to 0"),
        (f"/fibonacci/{MAX_N + 1}", f"path.n: Input should be less than or equal to {MAX_N}"),
        ("/fibonacci/ten", "path.n: Input should be a valid integer, unable to parse string as an integer"),
        ("/fibonacci/" + "1" * 5000, "path.n: Unable to parse input string as an integer, exceeded maximum size"),
        ("/fibonacci/stream", "query.n: Field required"),
        ("/fibonacci/stream?n=", "“” is neither a number nor a range such as 0-100 or 0-20000/500."),
        ("/fibonacci/stream?n=1&n=-5", "“-5” is neither a number nor a range such as 0-100 or 0-20000/500."),
        (f"/fibonacci/stream?n={MAX_N + 1}", "20001 is too large. The largest n is 20,000."),
        ("/fibonacci/stream?n=" + "9" * 19, f"{'9' * 19} is too large. The largest n is 20,000."),
        ("/fibonacci/stream?n=0-" + "9" * 5000, f"0-{'9' * 38}… is too large. The largest n is 20,000."),
        ("/fibonacci/stream?n=%D9%A3", "“٣” is neither a number nor a range such as 0-100 or 0-20000/500."),
        ("/fibonacci/stream?n=9999999999-1", "9999999999-1 is too large. The largest n is 20,000."),
        ("/fibonacci/stream?n=5-4", "5-4 has no numbers in it."),
        ("/fibonacci/stream?n=4-5/0", "4-5/0 has no numbers in it."),
        ("/fibonacci/stream?n=1-600&n=1-401", "At most 1,000 numbers at a time, not 1,001."),
    ],
)
def test_a_number_that_makes_no_sense_is_a_400(service, path, why):
    assert problem(service.get(path)) == (400, why)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"n": []}', "body.n: List should have at least 1 item after validation, not 0"),
        (b'{"n": [4.0]}', "body.n.0: Input should be a valid integer"),
        (b'{"n": ["4"]}', "body.n.0: Input should be a valid integer"),
        (b'{"n": [true]}', "body.n.0: Input should be a valid integer"),
        (b'{"n": [1, -1]}', "body.n.1: Input should be greater than or equal to 0"),
        (b'{"n": [20001]}', "body.n.0: Input should be less than or equal to 20000"),
        (b'{"n": [1], "m": 1}', "body.m: Extra inputs are not permitted"),
        (b"{}", "body.n: Field required"),
        (b"", "body: Field required"),
        (b"{", "body.1: JSON decode error"),
        (b'{"n": [%s]}' % (b"1" * 5000), "There was an error parsing the body"),
        (
            b'{"n": [1], "\\ud800": 1}',
            "body: Input should be a valid string, unable to parse raw data as a unicode string",
        ),
        (
            b'{"n": [%s]}' % b",".join([b"1"] * 1001),
            "body.n: List should have at most 1000 items after validation, not 1001",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_a_400(service, body, why):
    answer = service.post("/fibonacci", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (400, why)


def test_many_faults_are_told_in_short(service):
    _, why = problem(service.post("/fibonacci", json={"n": ["x"] * 500}))
    assert why.startswith("body.n.0: ")
    assert why.endswith("; ...")
    assert len(why) < 200


def test_a_body_that_no_request_needs_is_refused_before_it_is_read(service):
    assert service.post("/fibonacci", content=b" " * 70_000).status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/fibonacci", 405)])
def test_what_is_not_there_is_a_problem_document_too(service, method, path, status):
    assert problem(service.request(method, path))[0] == status


def test_the_api_describes_its_answers(service):
    paths = service.get("/openapi.json").json()["paths"]
    for path in ("/fibonacci/{n}", "/fibonacci", "/fibonacci/stream"):
        (operation,) = paths[path].values()
        assert set(operation["responses"]) == {"200", "400", "502", "503", "504", "default"}


def test_a_setting_that_does_not_exist_is_refused(redis_url):
    with pytest.raises(AssertionError, match="Extra inputs are not permitted"), serving(redis_url, timout=5):
        pass


# What fails.

SLOW = (504, "No worker answered in time.")
AWAY = (503, "The queue cannot be reached just now.")
BROKEN = (502, "The worker could not compute it.")


@pytest.mark.parametrize(("place", "told"), [("unserved", SLOW), ("cut_off", AWAY)])
def test_a_number_that_cannot_be_had_says_why(request, place, told):
    client = request.getfixturevalue(place)
    one, many = client.get("/fibonacci/5"), client.post("/fibonacci", json={"n": [5, 6]})
    assert (problem(one), problem(many)) == (told, told)
    assert one.headers.get("retry-after") == many.headers.get("retry-after") == ("1" if told is AWAY else None)


@pytest.mark.parametrize(("place", "told"), [("unserved", SLOW), ("cut_off", AWAY)])
def test_a_stream_tells_which_numbers_failed_and_why(request, place, told):
    client = request.getfixturevalue(place)
    (start, *failures, done) = read_events(client.get("/fibonacci/stream?n=5&n=6").text)
    assert (start[0], done) == ("start", ("done", '{"total": 2, "failed": 2}'))
    assert {name for name, _ in failures} == {"problem"}
    said = sorted(
        (each["n"], each["status"], each["detail"]) for each in map(json.loads, (data for _, data in failures))
    )
    assert said == [(5, *told), (6, *told)]


@pytest.mark.parametrize("place", ["unserved", "cut_off"])
def test_without_a_worker_it_lives_but_is_not_ready(request, place):
    client = request.getfixturevalue(place)
    assert client.get("/healthz").status_code == 200
    assert problem(client.get("/readyz")) == ((503, "No worker answers.") if place == "unserved" else AWAY)


async def test_a_redis_that_does_not_answer_is_not_waited_for_to_know_that_it_is_not_ready(redis_server):
    proxy = Proxy(redis_server.port)
    async with proxy.running():
        with serving(proxy.url(redis_server.fresh_url()), ready_timeout=0.5) as address:
            proxy.stalled = True
            async with httpx.AsyncClient(base_url=address, timeout=20) as client:
                answer = await client.get("/readyz")
    assert problem(answer) == (503, "No worker answers.")  # Not AWAY, which the client knows after 5 seconds.


def test_a_task_that_fails_is_a_502_and_only_the_log_says_more(worker):
    # More than the worker allows.
    with launched(worker.url, "service.app:app", max_n=20_000_000) as (address, program):
        one = httpx.get(f"{address}/fibonacci/10000001", timeout=30)
        stream = httpx.get(f"{address}/fibonacci/stream?n=5&n=10000002", timeout=30)
        log = program.wait_for("1 of 2 numbers of a stream failed")
    assert problem(one) == BROKEN
    assert BROKEN[1] in stream.text
    assert "ValueError" not in one.text + stream.text
    assert re.search(
        r"GET /fibonacci/10000001: 502: fibo\.fibonacci.* raised ValueError\(.n must be at most 10000000", log
    )
    assert re.search(r"the last one so: fibo\.fibonacci.* raised ValueError\(.n must be at most 10000000", log)


async def test_too_much_at_once_is_told_to_come_again(redis_url):
    with serving(redis_url, timeout=20, max_pending=2) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            waiting = [asyncio.create_task(client.post("/fibonacci", json={"n": [n]})) for n in (1, 2)]

            async def sent():
                return await queued(redis_url) == 2

            await eventually(sent)
            answer = await client.get("/fibonacci/3")
            assert problem(answer) == (503, "Too much is under way just now.")
            assert answer.headers["retry-after"] == "1"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_fault_of_the_service_tells_nothing_of_itself():
    async def no_client():
        raise RuntimeError("a secret")

    app.dependency_overrides[get_client] = no_client
    try:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answer = await client.get("/fibonacci/5")
    finally:
        app.dependency_overrides.clear()
    assert problem(answer) == (500, "The service has a fault. It is in its log.")


# Who leaves.


@pytest.fixture(scope="module")
def held(redis_server):
    with held_worker(redis_server.fresh_url()) as worker:
        yield worker


@pytest.fixture(scope="module")
def leavable(held):
    """The service with that worker, as host and port."""
    with serving(held.url, timeout=30) as address:
        yield httpx.URL(address)


GET = b"GET /fibonacci/11 HTTP/1.1\r\nHost: service\r\n\r\n"
POST = b"POST /fibonacci HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
POST += b'{"n": [12, 13]}'
STREAM = b"GET /fibonacci/stream?n=14&n=15 HTTP/1.1\r\nHost: service\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [GET, POST, STREAM], ids=["one", "many", "stream"])
async def test_a_caller_who_leaves_has_the_work_revoked(held, leavable, request_bytes):
    log = held.process.log
    before = len(log.read_text())
    async with held.held():
        reader, writer = await asyncio.open_connection(leavable.host, leavable.port)
        writer.write(request_bytes)
        if request_bytes is STREAM:
            await reader.readuntil(b"event: start\n")

        async def sent():
            return await queued(held.url) == 1

        await eventually(sent)
        writer.close()
        await writer.wait_closed()

        async def revoked():
            return "Tasks flagged as revoked" in log.read_text()[before:]

        await eventually(revoked)

    async def discarded():
        return "Discarding revoked task: fibo." in log.read_text()[before:]

    await eventually(discarded)
    assert await queued(held.url) == 0
    ran = [line for line in log.read_text()[before:].splitlines() if " succeeded in " in line]
    assert len(ran) == 1  # The one that held the worker up.


async def test_one_who_leaves_takes_nothing_from_the_others(held, leavable):
    async with httpx.AsyncClient(base_url=str(leavable), timeout=30) as client:
        async with held.held():
            leaving = asyncio.create_task(client.get("/fibonacci/16"))
            staying = asyncio.create_task(client.get("/fibonacci/16"))

            async def sent():
                return await queued(held.url) >= 1

            await eventually(sent)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        answer = await staying
    assert answer.json() == {"n": 16, "value": hex(fib(16))}


@pytest.mark.parametrize("patience", [(), ("--timeout-graceful-shutdown", "1")], ids=["patient", "impatient"])
async def test_a_service_that_stops_is_not_left_by_its_callers(redis_url, patience):
    """It lets them finish, here until their timeout; and where it does not, it says so."""
    with launched(redis_url, "service.app:app", *patience, timeout=4) as (address, program):
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            waiting = asyncio.create_task(client.get("/fibonacci/17"))

            async def sent():
                return await queued(redis_url) == 1

            await eventually(sent)
            stopping = asyncio.create_task(asyncio.to_thread(program.end, signal.SIGINT))
            answer = await waiting
            await stopping
    assert problem(answer) == ((503, "The service is stopping.") if patience else SLOW)
    assert "Application shutdown complete." in program.text


async def test_the_client_is_open_as_long_as_the_service_runs():
    async with app.router.lifespan_context(app) as state:
        client = state["client"]
        assert isinstance(client, FiboClient)
        client.celery._session.check()
    with pytest.raises(errors.ClientStateError):
        client.celery._session.check()
