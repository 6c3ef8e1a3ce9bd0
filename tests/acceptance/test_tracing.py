"""One trace from a request to the task: FastAPI, the client and real worker processes, each with its own spans."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import baggage, context
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import SpanKind
from support.programs import started
from support.servers import EXAMPLES, TESTS, free_port
from support.spans import Spans, hexed, in_file

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient, RemoteTask, chord, group
from fibo_worker.dev import WorkerProcess

TRACING = EXAMPLES / "tracing"
ADD = RemoteTask[[int, int], int]("stock.add")
AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "100"}


@pytest.fixture(scope="module")
def stock_traced(redis_server, tmp_path_factory):
    """A plain Celery worker with Celery's own instrumentation, and the file with its spans."""
    url = redis_server.fresh_url()
    file = tmp_path_factory.mktemp("spans") / "worker.jsonl"
    env = {"PYTHONPATH": str(TESTS), "TELEMETRY_FILE": str(file)}
    with WorkerProcess(url, app="support.traced", concurrency=2, env=env, stop_timeout=0):
        yield url, file


@pytest.fixture
def stock_url(stock_traced):
    return stock_traced[0]


@pytest.fixture
def of_worker(stock_traced):
    """Gives the worker's spans of a task that belong to a trace, once there are so many."""

    def find(task, span, count=1):
        return in_file(stock_traced[1], count, name=f"run/{task}", trace_id=span.context.trace_id)

    return find


@pytest.fixture
def spans():
    return Spans()


async def test_a_request_its_message_and_its_task_are_one_trace(stock_url, of_worker, spans):
    app = FastAPI()

    @app.get("/add/{x}/{y}")
    async def add(x: int, y: int) -> int:
        return await celery.call(ADD, (x, y))

    FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider)
    async with (
        CeleryClient(stock_url, telemetry=spans.telemetry()) as celery,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as web,
    ):
        answer = await web.get("/add/2/3")
    assert (answer.status_code, answer.json()) == (200, 5)
    request, sent = spans.one("GET /add/{x}/{y}"), spans.one("send celery")
    (run,) = of_worker("stock.add", request)
    assert request.context.trace_id == sent.context.trace_id == int(run["context"]["trace_id"], 16)
    assert (request.kind, sent.kind, run["kind"]) == (SpanKind.SERVER, SpanKind.PRODUCER, "SpanKind.CONSUMER")
    assert sent.parent.span_id == request.context.span_id
    assert run["parent_id"] == hexed(sent.context.span_id)
    assert run["attributes"]["messaging.message.id"] == sent.attributes["messaging.message.id"]
    assert run["attributes"]["celery.task_name"] == sent.attributes["celery.task_name"] == "stock.add"
    assert sent.end_time <= request.end_time


async def test_each_message_of_several_has_its_own_span_above_its_task(stock_url, of_worker, spans):
    async with CeleryClient(stock_url, telemetry=spans.telemetry()) as celery:
        with spans.tracer.start_as_current_span("request"):
            assert await celery.call_many([ADD(n, n) for n in range(5)]) == [0, 2, 4, 6, 8]
    created = spans.named("create celery")
    runs = of_worker("stock.add", spans.one("request"), 5)
    above = {run["attributes"]["messaging.message.id"]: run["parent_id"] for run in runs}
    assert above == {span.attributes["messaging.message.id"]: hexed(span.context.span_id) for span in created}


async def test_all_steps_of_a_flow_are_one_trace(stock_url, of_worker, spans):
    total = RemoteTask[..., int]("stock.total")
    async with CeleryClient(stock_url, telemetry=spans.telemetry()) as celery:
        with spans.tracer.start_as_current_span("request"):
            flow = ADD(1, 1) | group(ADD.s(1), ADD.s(2) | ADD.s(3)) | total.s() | ADD.s(100)
            assert await celery.call(flow, timeout=20) == 110
            assert await celery.call(chord([ADD(1, 1), ADD(2, 2)], total()), timeout=20) == 6
    request = spans.one("request")
    of_worker("stock.add", request, 7)
    of_worker("stock.total", request, 2)


async def test_without_create_spans_the_tasks_are_below_the_one_that_sent_them(stock_url, of_worker, spans):
    async with CeleryClient(stock_url, telemetry=spans.telemetry(create_spans=False)) as celery:
        with spans.tracer.start_as_current_span("request"):
            handles = await celery.send_many([ADD(1, 2), ADD(3, 4)])
            assert await celery.gather(handles) == [3, 7]
    runs = of_worker("stock.add", spans.one("request"), 2)
    assert {run["parent_id"] for run in runs} == {hexed(spans.one("send celery").context.span_id)}


async def test_a_task_that_fails_and_one_that_is_sent_by_an_untraced_caller_are_traced_as_well(
    stock_url, of_worker, spans
):
    async with CeleryClient(stock_url, telemetry=spans.telemetry()) as celery:
        result = await celery.send_task("stock.fail", ("no",))
        assert await asyncio.gather(result.get(timeout=20), return_exceptions=True)
    sent = spans.one("send celery")
    assert sent.parent is None
    (run,) = of_worker("stock.fail", sent)
    assert run["status"]["status_code"] == "ERROR"


async def test_baggage_reaches_the_task(stock_url, spans):
    async with CeleryClient(stock_url, telemetry=spans.telemetry()) as celery:
        token = context.attach(baggage.set_baggage("tenant", "42"))
        try:
            headers = await celery.call("stock.request", ("traceparent", "baggage"))
        finally:
            context.detach(token)
    assert headers["baggage"] == "tenant=42"
    assert headers["traceparent"].split("-")[2] == f"{spans.one('send celery').context.span_id:016x}"


async def test_concurrent_calls_are_computed_in_the_trace_of_the_first_and_found_from_all(redis_server, tmp_path):
    url, file, spans = redis_server.fresh_url(), tmp_path / "telemetry.jsonl", Spans()
    env = {"PYTHONPATH": str(TRACING), "TELEMETRY_FILE": str(file), **AT_ONCE}

    async def request(n):
        with spans.tracer.start_as_current_span(f"request {n}"):
            return await client.fibonacci(n)

    with WorkerProcess(url, app="worker", concurrency=1, env=env):
        async with FiboClient(url, telemetry=spans.telemetry()) as client:
            assert await asyncio.gather(*map(request, (10, 20, 30))) == [55, 6765, 832040]
        (run,) = in_file(file, name="run/fibo.fibonacci_chunk")
    sent = spans.one("send celery")
    assert run["parent_id"] == hexed(sent.context.span_id)
    assert run["resource"]["attributes"]["service.name"] == "worker"
    assert sent.context.trace_id == spans.one("request 10").context.trace_id
    joined = spans.named("create celery")
    assert {span.context.trace_id for span in joined} == {spans.one(f"request {n}").context.trace_id for n in (20, 30)}
    for span in joined:
        (link,) = span.links
        assert link.context.span_id == sent.context.span_id


def test_the_example_is_one_trace_from_the_request_to_the_task(redis_url, tmp_path):
    file, port = tmp_path / "telemetry.jsonl", free_port()
    env = {"CELERY_BROKER_URL": redis_url, "PYTHONPATH": str(TRACING), "TELEMETRY_FILE": str(file), **AT_ONCE}
    uvicorn = (sys.executable, "-m", "uvicorn", "service:app", "--port", str(port))
    with WorkerProcess(redis_url, app="worker", env=env), started(*uvicorn, env=env) as service:
        service.wait_for("Uvicorn running on")
        assert httpx.get(f"http://127.0.0.1:{port}/sqrt/4", timeout=20).text == "2.0"
        (run,) = in_file(file, name="run/tasks.sqrt_task")
        (sent,) = in_file(file, name="send celery")
        (request,) = in_file(file, name="GET /sqrt/{value}")
        assert service.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert len({span["context"]["trace_id"] for span in (run, sent, request)}) == 1
    assert (run["parent_id"], sent["parent_id"]) == (sent["context"]["span_id"], request["context"]["span_id"])
    assert [span["resource"]["attributes"]["service.name"] for span in (request, sent, run)] == ["web", "web", "worker"]
    assert sent["attributes"]["server.address"] == "127.0.0.1"
    lines = map(json.loads, file.read_text().splitlines())
    names = {
        metric["name"]
        for line in lines
        for resource in line.get("resource_metrics", ())
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert {"messaging.client.operation.duration", "messaging.client.sent.messages"} <= names
