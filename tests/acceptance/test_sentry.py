"""One trace from a request to the task in Sentry: its own SDK watches FastAPI and a plain Celery worker."""

from __future__ import annotations

import json
import signal
import sys
import time

import httpx
import pytest
import sentry_sdk
from sentry_sdk.transport import Transport
from support.programs import started
from support.servers import EXAMPLES, TESTS, free_port
from support.waiting import until

from fibo_client.celery import CeleryClient, RemoteTask, group
from fibo_client.telemetry.sentry import Sentry
from fibo_worker.dev import WorkerProcess


@pytest.fixture(scope="module")
def example(redis_server, tmp_path_factory):
    """The programs of docs/examples/sentry, as they stand: the service's URL, and what it and the worker report."""
    file, port, url = tmp_path_factory.mktemp("sentry") / "reports.jsonl", free_port(), redis_server.fresh_url()
    path = f"{EXAMPLES / 'sentry'}:{EXAMPLES}:{TESTS}"
    env = {"CELERY_BROKER_URL": url, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "REPORTS_FILE": str(file)}
    uvicorn = (sys.executable, "-m", "uvicorn", "support.sentry_app:app", "--port", str(port))
    with (
        WorkerProcess(
            url, app="support.sentry_app", queues=("proj",), env={**env, "REPORTED": "worker"}, stop_timeout=0
        ),
        started(*uvicorn, env={**env, "REPORTED": "service"}) as service,
    ):
        service.wait_for("Uvicorn running on")
        yield f"http://127.0.0.1:{port}", Reports(file), url
        assert service.end(signal.SIGTERM) in (0, -signal.SIGTERM)


class Reports:
    """What was reported."""

    def __init__(self, file):
        self.file = file

    def wait_for(self, count, trace_id):
        """Wait until so many reports belong to a trace, and give them."""
        return until(
            lambda: len(found := self.of(trace_id)) >= count and found,
            lambda: f"{len(self.of(trace_id))} of {count} are in:\n{self.text}",
        )

    def of(self, trace_id):
        reports = [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]
        return [each for each in reports if each.get("contexts", {}).get("trace", {}).get("trace_id") == trace_id]

    @property
    def text(self):
        return self.file.read_text() if self.file.exists() else ""


def begin():
    """Headers of a browser that Sentry watches, too, and the trace that it has begun."""
    trace_id = f"{time.time_ns():032x}"
    return {"sentry-trace": f"{trace_id}-{'b' * 16}-1"}, trace_id


def test_a_request_its_message_and_its_task_are_one_trace(example):
    url, reports, _ = example
    headers, trace_id = begin()
    assert httpx.get(f"{url}/divide/9/4", headers=headers, timeout=20).text == "2.25"
    found = {each["transaction"]: each for each in reports.wait_for(2, trace_id)}
    request, task = found["/divide/{x}/{y}"], found["proj.tasks.divide"]
    (sent,) = (span for span in request["spans"] if span["op"] == "queue.publish")
    (run,) = (span for span in task["spans"] if span["op"] == "queue.process")
    assert request["contexts"]["trace"]["op"] == "http.server"
    assert sent["parent_span_id"] == request["contexts"]["trace"]["span_id"]
    assert task["contexts"]["trace"]["op"] == "queue.task.celery"
    assert task["contexts"]["trace"]["parent_span_id"] == sent["span_id"]
    assert run["data"]["messaging.message.id"] == sent["data"]["messaging.message.id"]
    assert sent["data"]["messaging.destination.name"] == run["data"]["messaging.destination.name"] == "proj"
    assert 0 < run["data"]["messaging.message.receive.latency"] < 20_000


def test_an_error_in_a_task_and_the_one_in_the_request_that_waits_are_found_by_one_trace(example):
    url, reports, _ = example
    headers, trace_id = begin()
    assert httpx.get(f"{url}/divide/1/0", headers=headers, timeout=20).status_code == 500
    errors = {
        each["exception"]["values"][-1]["type"]: each for each in reports.wait_for(4, trace_id) if "exception" in each
    }
    assert errors.keys() == {"ZeroDivisionError", "TaskFailedError"}
    assert errors["ZeroDivisionError"]["tags"]["celery_task_id"] in json.dumps(errors["TaskFailedError"])


class Dropped(Transport):
    """Sends nothing to Sentry."""

    def capture_envelope(self, envelope):
        pass


@pytest.fixture
def tracing():
    """Sentry's SDK in this process, with no integration, which would change other libraries for all tests."""
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(
            "https://public@sentry.invalid/1", transport=Dropped, traces_sample_rate=1.0, default_integrations=False,
            auto_enabling_integrations=False,
        )  # fmt: skip
        yield
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


async def test_all_steps_of_a_flow_are_one_trace(example, tracing):
    _, reports, broker = example
    add, divide = RemoteTask[..., int]("proj.tasks.add"), RemoteTask[..., float]("proj.tasks.divide")
    async with CeleryClient(broker, queue="proj", telemetry=Sentry()) as celery:
        with sentry_sdk.start_transaction(op="http.server", name="request") as request:
            flow = add(1, 1) | group(add.s(1), add.s(2) | divide.s(2))
            assert await celery.call(flow, timeout=20) == [3, 2.0]
    found = reports.wait_for(4, request.trace_id)
    assert sorted(each["transaction"] for each in found) == ["proj.tasks.add"] * 3 + ["proj.tasks.divide"]
