"""What Sentry is told of what a client sends, by its own SDK, and what the messages carry for a worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import sentry_sdk
from sentry_sdk.integrations.celery import _update_celery_task_headers
from sentry_sdk.tracing_utils import extract_sentrytrace_data
from sentry_sdk.transport import Transport

from fibo_client import FiboClient, PublishError
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.telemetry import Tracer, sentry
from fibo_client.telemetry.sentry import Sentry
from fibo_client.testing import FakeCelery, FakeFibo


class Kept(Transport):
    """Keeps what would be sent to Sentry."""

    def __init__(self, options=None):
        super().__init__(options)
        self.items = []

    def capture_envelope(self, envelope):
        self.items += [item.payload.json for item in envelope.items]

    def transactions(self):
        return {each["transaction"]: each for each in self.items if each.get("type") == "transaction"}

    def spans(self):
        """Those that went one by one."""
        sentry_sdk.flush()
        return [span for each in self.items for span in each.get("items", ())]


@pytest.fixture
def start():
    """Initialise the SDK, with no integration, which would change other libraries for all tests."""

    def init(**options):
        kept = Kept()
        options = {"traces_sample_rate": 1.0, **options}
        sentry_sdk.init(
            "https://public@sentry.invalid/1", transport=kept, default_integrations=False,
            auto_enabling_integrations=False, **options,
        )  # fmt: skip
        return kept

    with sentry_sdk.isolation_scope():
        yield init
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def fake():
    fake = FakeCelery()
    fake.task("proj.echo", lambda *args: list(args))
    return fake


def client_of(fake):
    return CeleryClient(transport=fake, telemetry=Sentry())


def carried(sent):
    return sent.headers["headers"]


def trace(sent):
    """The trace, the span above and whether it is sampled, as a worker reads them."""
    data = extract_sentrytrace_data(carried(sent)["sentry-trace"])
    return data["trace_id"], data["parent_span_id"], data["parent_sampled"]


def test_it_is_a_tracer():
    assert isinstance(Sentry(), Tracer)


async def test_a_message_has_a_span_below_its_callers_which_a_worker_finds_above_its_own(start, fake):
    kept = start()
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(op="http.server", name="request"):
            await celery.call("proj.echo", (1,), queue="other")
    (sent,) = fake.sent
    transaction = kept.transactions()["request"]
    (span,) = transaction["spans"]
    above = transaction["contexts"]["trace"]
    assert trace(sent) == (above["trace_id"], span["span_id"], True)
    assert span["parent_span_id"] == above["span_id"]
    assert (span["op"], span["description"], span["status"]) == ("queue.publish", "proj.echo", "ok")
    said = {name: value for name, value in span["data"].items() if name.startswith("messaging.")}
    assert said == {
        "messaging.system": "memory",
        "messaging.destination.name": "other",
        "messaging.message.id": sent.task_id,
    }


async def test_messages_carry_what_sentrys_own_integration_of_celery_would_have_them_carry(start, fake):
    start()
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request") as transaction:
            await celery.send_task("proj.echo")
            theirs = _update_celery_task_headers({}, transaction, monitor_beat_tasks=False)
    ours = carried(fake.sent[0])
    assert ours.keys() == theirs["headers"].keys() == {"sentry-trace", "baggage", "sentry-task-enqueued-time"}
    assert ours["baggage"] == theirs["headers"]["baggage"]
    assert abs(ours["sentry-task-enqueued-time"] - theirs["headers"]["sentry-task-enqueued-time"]) < 30


async def test_messages_that_are_sent_together_share_a_span(start, fake):
    kept = start()
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request"):
            await celery.send_many([RemoteTask("proj.echo")(1), RemoteTask("proj.echo")(2), RemoteTask("proj.echo")(3)])
    (span,) = kept.transactions()["request"]["spans"]
    assert {trace(sent)[1] for sent in fake.sent} == {span["span_id"]}
    assert span["data"]["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in span["data"]


@pytest.mark.parametrize("options", [{}, {"traces_sample_rate": None}], ids=["no transaction", "no tracing"])
async def test_without_a_span_above_messages_carry_the_trace_by_which_errors_are_found(start, fake, options):
    kept = start(**options)
    async with client_of(fake) as celery:
        await celery.send_task("proj.echo")
    trace_id, _, sampled = trace(fake.sent[0])
    assert trace_id == sentry_sdk.get_traceparent().split("-")[0]
    assert sampled is None  # That is for the worker to decide.
    assert kept.items == []


async def test_where_the_caller_is_not_sampled_the_worker_is_told_so(start, fake):
    kept = start(traces_sample_rate=0.0)
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request") as transaction:
            await celery.send_task("proj.echo")
    trace_id, _, sampled = trace(fake.sent[0])
    assert (trace_id, sampled) == (transaction.trace_id, False)
    assert kept.items == []


async def test_where_sentry_is_not_initialised_messages_carry_nothing(fake):
    async with client_of(fake) as celery:
        await celery.call("proj.echo")
        await celery.send_many([RemoteTask("proj.echo")(1)])
    assert [sent.headers for sent in fake.sent] == [{}, {}]


async def test_a_failure_to_send_is_told(start, fake):
    kept = start()
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request"), fake.redis_down(), pytest.raises(PublishError):
            await celery.send_task("proj.echo")
    (span,) = kept.transactions()["request"]["spans"]
    assert span["status"] == "internal_error"


@pytest.mark.parametrize("nested", [{}, {"baggage": "a=1"}], ids=["flat", "nested"])
async def test_the_callers_own_headers_stay_where_the_task_looks_for_them(start, fake, nested):
    start()
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request"):
            own = {"_schema_name": "tenant", "baggage": "a=1", "headers": {"n": 2, **nested}}
            await celery.send_task("proj.echo", headers=own)
    (sent,) = fake.sent
    assert carried(sent).items() > {"_schema_name": "tenant", "n": 2}.items()
    assert (sent.headers["_schema_name"], sent.headers["baggage"]) == ("tenant", "a=1")
    assert carried(sent)["baggage"].startswith("sentry-")
    assert carried(sent)["baggage"].endswith(",a=1")


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
async def test_who_gives_a_message_a_trace_keeps_it(start, fake, nested):
    start()
    own = {"sentry-trace": f"{'a' * 32}-{'b' * 16}-1", "baggage": "sentry-public_key=x"}
    async with client_of(fake) as celery:
        with sentry_sdk.start_transaction(name="request"):
            await celery.send_task("proj.echo", headers={"headers": own} if nested else own)
    assert carried(fake.sent[0]).items() > own.items()


async def test_concurrent_calls_that_share_a_message_carry_the_trace_of_the_first(start):
    start()
    fake = FakeFibo()

    async def request(n):
        with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name=f"request {n}") as transaction:
            await fibo.fibonacci(n)
            return transaction.trace_id

    async with FiboClient(transport=fake, telemetry=Sentry()) as fibo:
        traces = await asyncio.gather(*map(request, (10, 20, 30)))
    (sent,) = fake.sent
    assert trace(sent)[0] == traces[0]
    assert len({*traces}) == 3


@pytest.mark.parametrize("options", [{"trace_lifecycle": "stream"}, {"_experiments": {"trace_lifecycle": "stream"}}])
async def test_where_spans_go_one_by_one_there_is_the_same_span(start, fake, options):
    kept = start(**options)
    async with client_of(fake) as celery:
        with sentry_sdk.traces.start_span("request") as request:
            await celery.call("proj.echo", (1,))
            await celery.send_many([RemoteTask("proj.echo")(1), RemoteTask("proj.echo")(2)])
            with fake.redis_down(), pytest.raises(PublishError):
                await celery.send_task("proj.echo")
    spans = [span for span in kept.spans() if span["name"] == "proj.echo"]
    assert [span["parent_span_id"] for span in spans] == [request.span_id] * 3
    assert [span["status"] for span in spans] == ["ok", "ok", "error"]
    assert {span["attributes"]["sentry.op"]["value"] for span in spans} == {"queue.publish"}
    assert spans[1]["attributes"]["messaging.batch.message_count"]["value"] == 2
    assert trace(fake.sent[0]) == (request.trace_id, spans[0]["span_id"], True)
    assert {trace(sent)[1] for sent in fake.sent[1:]} == {spans[1]["span_id"]}


async def test_where_spans_go_one_by_one_and_the_callers_is_not_sampled_the_trace_goes_on(start, fake):
    start(trace_lifecycle="stream", traces_sample_rate=0.0)
    async with client_of(fake) as celery:
        with sentry_sdk.traces.start_span("request"):
            await celery.call("proj.echo", (1,))
            here = sentry_sdk.get_traceparent()
    assert trace(fake.sent[0])[0] == here.split("-")[0]


def test_the_extra_that_is_missing_is_named():
    program = (
        "import sys; sys.modules['sentry_sdk'] = None\n"
        "try: import fibo_client.telemetry.sentry\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "sentry-sdk is not installed; get it with: pip install 'fibo-client[sentry]'\n"


def test_names_are_those_of_the_sdk():
    from sentry_sdk.consts import OP, SPANDATA

    assert sentry.OPERATION == OP.QUEUE_PUBLISH
    assert {sentry.MESSAGE_ID, sentry.DESTINATION, sentry.SYSTEM} == {
        SPANDATA.MESSAGING_MESSAGE_ID,
        SPANDATA.MESSAGING_DESTINATION_NAME,
        SPANDATA.MESSAGING_SYSTEM,
    }
