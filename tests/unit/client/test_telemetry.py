"""What a client tells its tracer, what OpenTelemetry makes of it, and that no tracer can disturb a call."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode
from support.clock import virtual
from support.programs import run
from support.spans import Spans
from support.worker import memory_client, value

from fibo_client import FiboClient, MessageError, PublishError, PublishUnknownError
from fibo_client.celery import RemoteTask
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.publisher import MAX_BYTES
from fibo_client.errors import ConfigError
from fibo_client.telemetry import SendSpan, Server, Tracer, otel
from fibo_client.telemetry.otel import OpenTelemetry
from fibo_client.telemetry.tracer import NOOP_SPAN, NOOP_TRACER, guarded

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

ECHO: RemoteTask[..., Any] = RemoteTask("proj.echo", chunkable=True)


CALLER: ContextVar[str | None] = ContextVar("CALLER", default=None)


async def called(name: str, call: Coroutine[Any, Any, T]) -> T:
    """Make a call in a context with a name."""
    CALLER.set(name)
    return await call


class Notes:
    """A tracer that keeps the arguments of its calls."""

    def __init__(self, headers=None) -> None:
        self.headers = headers or {}
        self.spans: list[NotedSpan] = []

    def start_send(self, queue, server, *, batch, headers):
        self.spans.append(NotedSpan(self, queue, server, batch, dict(headers), CALLER.get()))
        return self.spans[-1]


class NotedSpan:
    def __init__(self, notes, *arguments) -> None:
        self.notes, self.arguments = notes, arguments
        self.injected: list[tuple[str, str]] = []
        self.linked: Counter[str] = Counter()
        self.ends: list[tuple[int, int, Any]] = []

    def inject(self, task, task_id):
        self.injected.append((task, task_id))
        return self.notes.headers

    def link(self):
        self.linked[CALLER.get()] += 1

    def end(self, *, sent, failed, error):
        self.ends.append((sent, failed, error))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def spans():
    """The spans that were ended, by whoever; and a tracer for those of the application."""
    return Spans()


def ids(links):
    return [link.context.span_id for link in links]


# What the client tells.


@virtual
async def test_a_task_that_is_sent_is_one_message_with_one_end(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.delay = None
        handle = await client.celery.send_task("proj.echo", (1,), queue="q", headers={"mine": 1})
        (span,) = notes.spans
        assert span.arguments == ("q", Server("memory"), False, {"mine": 1}, None)
        assert span.injected == [("proj.echo", handle.id)]
        assert span.ends == [(1, 0, None)]


@virtual
async def test_the_queue_and_headers_that_a_signature_has_are_told(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.delay = None
        echo = ECHO(1).with_options(queue="mail", headers={"mine": 1})
        await client.celery.send(echo)
        await client.celery.send_many([echo, ECHO(2)])
        await client.celery.send(echo, queue="other")
        assert [(span.arguments[0], span.arguments[3]) for span in notes.spans] == [
            ("mail", {"mine": 1}),
            ("mail", {"mine": 1}),
            ("other", {"mine": 1}),
        ]


@virtual
async def test_tasks_that_are_sent_together_have_one_end_together(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.delay = None
        handles = await client.celery.send_many([ECHO(1), ECHO(2), ECHO(3)])
        (span,) = notes.spans
        assert span.arguments[2] is True
        assert span.injected == [("proj.echo", handle.id) for handle in handles]
        assert span.ends == [(3, 0, None)]


@virtual
@pytest.mark.parametrize(
    ("call", "batch", "messages"),
    [
        (lambda client: client.fibonacci(5), False, 1),
        (lambda client: client.celery.call("proj.echo", (5,)), False, 1),
        (lambda client: client.submit(5), False, 1),
        (lambda client: client.fibonacci_many([5, 6]), False, 1),
        (lambda client: client.fibonacci_many([5, 6], chunk_size=1), True, 2),
        (lambda client: client.fibonacci_many([5, 600_000]), True, 2),
        (lambda client: client.celery.call_many([ECHO(5), ECHO(6)]), True, 2),
        (lambda client: client.submit_many([5, 6]), True, 2),
    ],
)
async def test_every_way_to_send_is_told_once(notes, call, batch, messages):
    async with memory_client(telemetry=notes) as (client, _):
        await call(client)
        (span,) = notes.spans
        assert span.arguments[2] is batch
        assert len(span.injected) == messages
        assert span.ends == [(messages, 0, None)]


@pytest.mark.parametrize(("chunk_size", "messages"), [(1, 4), (2, 2)])
@virtual
async def test_the_messages_of_a_stream_are_told_in_the_context_of_its_reader(notes, chunk_size, messages):
    async def read(client):
        async with client.celery.stream(ECHO, range(4), chunk_size=chunk_size) as answers:
            async for _ in answers:
                break

    async with memory_client(telemetry=notes) as (client, worker):
        worker.delay = None
        reading = asyncio.create_task(called("reader", read(client)))
        await asyncio.sleep(1)
        assert [span.arguments[-1] for span in notes.spans] == ["reader"] * messages
        task = "proj.echo" if chunk_size == 1 else "celery.starmap"
        assert [task for span in notes.spans for task, _ in span.injected] == [task] * messages
        assert [span.ends for span in notes.spans] == [[(1, 0, None)]] * messages
        reading.cancel()


@virtual
async def test_concurrent_calls_are_told_as_one_message_that_all_of_them_share(notes):
    async with memory_client(telemetry=notes) as (client, _):
        calls = [asyncio.create_task(called(f"caller {n}", client.fibonacci(n))) for n in (5, 6, 7)]
        await asyncio.gather(*calls)
        (span,) = notes.spans
        assert span.arguments[4] == "caller 5"
        assert span.linked == {"caller 5": 1, "caller 6": 1, "caller 7": 1}
        assert len(span.injected) == 1


@virtual
async def test_one_who_joins_a_number_that_is_under_way_shares_its_message(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.delay = 0.5
        first = asyncio.create_task(called("first", client.fibonacci(5)))
        await asyncio.sleep(0.1)
        assert await asyncio.create_task(called("second", client.fibonacci(5, timeout=1))) == await first
        (span,) = notes.spans
        assert span.linked == {"first": 1, "second": 1}


@virtual
@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (PublishError("no", ["x"], refused=True), PublishError),
        (PublishUnknownError("lost", ["x"]), PublishUnknownError),
    ],
)
async def test_a_failure_to_send_is_told_with_its_error(notes, outcome, error):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.broker.outcomes.append(outcome)
        with pytest.raises(error) as raised:
            await client.celery.send_task("proj.echo", (1,))
        assert notes.spans[0].ends == [(0, 1, raised.value)]


@virtual
async def test_a_span_whose_messages_are_sent_again_has_one_end(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.broker.outcomes.append(PublishUnknownError("lost", ["x"]))
        worker.delay = None
        await client.submit(5)
        assert notes.spans[0].ends == [(1, 0, None)]


async def withdraw(client, worker):
    """Cancel a call while the broker is still busy with the one before it."""
    worker.broker.outcomes.append(1.0)
    first = asyncio.create_task(client.celery.call("proj.echo", ("x" * MAX_BYTES,), queue="a"))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(client.celery.call("proj.echo", (1,), queue="b"))
    await asyncio.sleep(0.1)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


@virtual
async def test_a_message_that_is_withdrawn_before_it_is_sent_was_not_tried(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        await withdraw(client, worker)
        ((sent, failed, error),) = notes.spans[1].ends
        assert (sent, failed, type(error)) == (0, 0, PublishError)


@virtual
async def test_a_client_that_closes_ends_every_span(notes):
    async with memory_client(telemetry=notes) as (client, worker):
        worker.broker.outcomes.append(3600.0)
        call = asyncio.create_task(client.celery.send_task("proj.echo", (1,), timeout=None))
        await asyncio.sleep(1)
    await asyncio.gather(call, return_exceptions=True)
    ((sent, failed, error),) = notes.spans[0].ends
    assert (sent, failed, type(error)) == (0, 1, PublishUnknownError)


@virtual
async def test_a_message_that_is_refused_has_no_end(notes):
    async with memory_client(telemetry=notes) as (client, _):
        with pytest.raises(MessageError):
            await client.celery.send_task("proj.echo", ({1, 2},))
        assert [(span.injected, span.ends) for span in notes.spans] == [([], [])]


# The no-op tracer, and those that fail.


@virtual
async def test_without_telemetry_there_is_a_tracer_that_does_nothing(notes):
    async with memory_client() as (client, _):
        assert client.celery._session.tracer is NOOP_TRACER
        assert client.celery._session.start_send(ECHO(1), {}, batch=False) is NOOP_SPAN
    assert not NOOP_SPAN.inject("task", "id")


@pytest.mark.parametrize(("contract", "noop"), [(Tracer, NOOP_TRACER), (SendSpan, NOOP_SPAN)])
def test_the_noop_tracer_can_be_asked_whatever_the_contract_has(contract, noop):
    for name, function in vars(contract).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            assert callable(getattr(noop, name))


class Broken(Notes):
    """A tracer that fails in one of its methods."""

    def __init__(self, where) -> None:
        super().__init__({"traceparent": "t"})
        self.where = where

    def fails(self, where) -> None:
        if where == self.where:
            raise RuntimeError(f"{where} is broken")

    def start_send(self, *args, **options):
        self.fails("start_send")
        span = super().start_send(*args, **options)
        span.inject, span.link, span.end = (
            self.broken(name, getattr(span, name)) for name in ("inject", "link", "end")
        )
        return span

    def broken(self, where, method):
        def called(*args, **options):
            self.fails(where)
            return method(*args, **options)

        return called


@virtual
@pytest.mark.parametrize("where", ["start_send", "inject", "link", "end"])
async def test_an_error_in_a_tracer_breaks_no_call_and_is_logged_once(where, caplog):
    caplog.set_level(logging.INFO, "fibo_client")
    async with memory_client(telemetry=Broken(where)) as (client, _):
        assert await asyncio.gather(client.fibonacci(5), client.fibonacci(6)) == [value(5), value(6)]
        assert await client.fibonacci_many([5, 6]) == [value(5), value(6)]
        assert (await client.submit(7)).id
    (record,) = caplog.records
    assert record.getMessage() == "the telemetry failed; calls go on without it"
    assert f"{where} is broken" in str(record.exc_info[1])


@pytest.mark.parametrize("headers", [None, 5, ["traceparent"]])
def test_what_is_no_mapping_of_headers_is_an_error_of_the_tracer(headers):
    notes = Notes()
    span = guarded(notes).start_send("q", Server("x"), batch=False, headers={})
    notes.headers = headers
    assert not span.inject("task", "id")


@pytest.mark.parametrize("wrong", [True, "otel", object(), OpenTelemetry, trace.get_tracer("mine")])
def test_what_is_no_tracer_is_refused_when_the_client_is_made(wrong):
    with pytest.raises(ConfigError, match=r"must be a fibo_client.telemetry.Tracer, such as OpenTelemetry\(\)"):
        FiboClient(telemetry=wrong)


def test_a_config_with_telemetry_can_be_compared_and_shown(notes):
    config = CeleryConfig(telemetry=notes)
    assert config == CeleryConfig(telemetry=notes) != CeleryConfig()
    assert repr(notes) in repr(config)
    assert hash(config) != hash(CeleryConfig())


def test_the_extra_that_is_missing_is_named():
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import fibo_client, fibo_client.celery, fibo_client.telemetry\n"
        "fibo_client.FiboClient()\n"
        "try: import fibo_client.telemetry.otel\n"
        "except ImportError as error: print(error)"
    )
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.stdout, done.stderr) == (
        "OpenTelemetry is not installed; get it with: pip install 'fibo-client[otel]'\n", ""
    )  # fmt: skip


# OpenTelemetry.

PARENT_ATTRIBUTES = {
    "messaging.system": "memory",
    "messaging.destination.name": "celery",
    "messaging.operation.name": "send",
    "messaging.operation.type": "send",
}


@virtual
async def test_one_message_is_a_producer_span_in_the_trace_of_its_caller(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        worker.delay = None
        with spans.tracer.start_as_current_span("request") as request:
            handle = await client.celery.send_task("proj.echo", (1,))
    span = spans.one("send celery")
    assert span.kind is SpanKind.PRODUCER
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes == PARENT_ATTRIBUTES | {
        "messaging.message.id": handle.id,
        "messaging.message.conversation_id": handle.id,
        "celery.task_name": "proj.echo",
    }
    assert span.links == ()
    assert span.instrumentation_scope.name == "fibo_client"


@virtual
async def test_a_span_lasts_until_the_broker_has_answered(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        worker.delay = None
        worker.broker.outcomes.append(3.0)
        sending = asyncio.create_task(client.celery.send_task("proj.echo", (1,)))
        await asyncio.sleep(1)
        assert not spans.named("send celery")
        await sending
        assert spans.one("send celery")


class Injected:
    """Takes what a tracer injects into each message; the broker in memory drops headers."""

    def __init__(self, tracer) -> None:
        self.tracer = tracer
        self.headers: dict[str, dict[str, str]] = {}

    def start_send(self, *args, **options):
        span = self.tracer.start_send(*args, **options)
        inject = span.inject

        def injected(task, task_id):
            self.headers[task_id] = dict(inject(task, task_id))
            return self.headers[task_id]

        span.inject = injected
        return span


def span_id(headers):
    return trace.get_current_span(propagate.extract(headers, context.Context())).get_span_context().span_id


@virtual
async def test_one_message_carries_its_span_and_the_baggage_of_its_caller(spans):
    injected = Injected(spans.telemetry())
    async with memory_client(telemetry=injected) as (client, _):
        token = context.attach(baggage.set_baggage("tenant", "a b"))
        try:
            await client.celery.call("proj.echo", (1,))
        finally:
            context.detach(token)
    (headers,) = injected.headers.values()
    assert set(headers) == {"traceparent", "baggage"}
    assert span_id(headers) == spans.one("send celery").context.span_id
    assert headers["baggage"] == "tenant=a+b"


@virtual
async def test_each_of_several_messages_has_a_span_of_its_own_that_the_send_span_links_to(spans):
    injected = Injected(spans.telemetry())
    async with memory_client(telemetry=injected) as (client, worker):
        worker.delay = None
        with spans.tracer.start_as_current_span("request") as request:
            handles = await client.celery.send_many([ECHO(1), ECHO(2)])
    created, sent = spans.named("create celery"), spans.one("send celery")
    assert [span.attributes["messaging.message.id"] for span in created] == [handle.id for handle in handles]
    for span in [*created, sent]:
        assert span.parent.span_id == request.get_span_context().span_id
    assert {span.kind for span in created} == {SpanKind.PRODUCER}
    assert sent.kind is SpanKind.CLIENT
    assert ids(sent.links) == [span.context.span_id for span in created]
    assert [link.attributes["messaging.message.id"] for link in sent.links] == [handle.id for handle in handles]
    assert sent.attributes["messaging.batch.message_count"] == 2
    assert sent.attributes["celery.task_name"] == "proj.echo"
    assert "messaging.message.id" not in sent.attributes
    for span in created:
        assert span_id(injected.headers[span.attributes["messaging.message.id"]]) == span.context.span_id


@virtual
async def test_a_name_that_does_not_go_for_all_messages_is_on_none_but_theirs(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, _):
        await client.celery.call_many([ECHO(1), RemoteTask("proj.other")(2), ECHO(3)])
    assert "celery.task_name" not in spans.one("send celery").attributes
    names = [span.attributes["celery.task_name"] for span in spans.named("create celery")]
    assert names == ["proj.echo", "proj.other", "proj.echo"]


@virtual
async def test_without_create_spans_every_message_carries_the_send_span(spans):
    injected = Injected(spans.telemetry(create_spans=False))
    async with memory_client(telemetry=injected) as (client, worker):
        worker.delay = None
        await client.celery.send_many([ECHO(1), ECHO(2)])
    sent = spans.one("send celery")
    assert not spans.named("create celery")
    assert sent.kind is SpanKind.PRODUCER
    assert {span_id(headers) for headers in injected.headers.values()} == {sent.context.span_id}


async def caller(spans, client, n):
    with spans.tracer.start_as_current_span(f"request {n}"):
        return await client.fibonacci(n)


@virtual
async def test_callers_that_share_a_message_find_it_from_their_own_trace_and_the_other_way_round(spans):
    injected = Injected(spans.telemetry())
    async with memory_client(telemetry=injected) as (client, _):
        await asyncio.gather(*(caller(spans, client, n) for n in (5, 6, 7)))
    first, *others = (spans.one(f"request {n}") for n in (5, 6, 7))
    sent, created = spans.one("send celery"), spans.named("create celery")
    assert sent.parent.span_id == first.context.span_id
    assert [span.parent.span_id for span in created] == [other.context.span_id for other in others]
    assert [ids(span.links) for span in created] == [[sent.context.span_id]] * 2
    assert ids(sent.links) == [span.context.span_id for span in created]
    assert {span.attributes["messaging.message.id"] for span in [sent, *created]} == set(injected.headers)
    (headers,) = injected.headers.values()
    assert span_id(headers) == sent.context.span_id


@virtual
async def test_without_create_spans_a_shared_message_links_to_its_callers(spans):
    async with memory_client(telemetry=spans.telemetry(create_spans=False)) as (client, _):
        await asyncio.gather(*(caller(spans, client, n) for n in (5, 6)))
    assert ids(spans.one("send celery").links) == [spans.one("request 6").context.span_id]


@virtual
async def test_calls_of_one_span_share_a_message_without_more_spans(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, _):
        with spans.tracer.start_as_current_span("request"):
            await asyncio.gather(client.fibonacci(5), client.fibonacci(6))
    assert len(spans.finished) == 2


@virtual
async def test_one_who_joins_later_links_to_the_span_that_has_ended(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        worker.delay = 0.5
        first = asyncio.create_task(caller(spans, client, 5))
        await asyncio.sleep(0.1)
        with spans.tracer.start_as_current_span("second") as second:
            await asyncio.gather(client.fibonacci(5, timeout=1), first)
    joined = spans.one("create celery")
    assert joined.parent.span_id == second.get_span_context().span_id
    assert ids(joined.links) == [spans.one("send celery").context.span_id]


@virtual
async def test_a_stream_sends_in_the_trace_of_who_reads_it(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, _):
        with spans.tracer.start_as_current_span("request") as request:
            async with client.stream(range(10)) as results:
                assert len([n async for n, _ in results]) == 10
    assert {span.parent.span_id for span in spans.named("send celery")} == {request.get_span_context().span_id}
    assert not spans.named("create celery")


@virtual
async def test_a_context_of_the_callers_own_is_kept_and_linked_to(spans):
    injected = Injected(spans.telemetry())
    own = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    async with memory_client(telemetry=injected) as (client, worker):
        worker.delay = None
        await client.celery.send_task("proj.echo", (1,), headers=own)
        await client.celery.send_many([ECHO(1), ECHO(2)], headers=own)
    assert not spans.named("create celery")
    for sent in spans.named("send celery"):
        assert sent.kind is SpanKind.CLIENT
        assert ids(sent.links) == [int("b" * 16, 16)]
    assert set(map(json.dumps, injected.headers.values())) == {"{}"}


@virtual
async def test_a_failure_to_send_is_on_the_span_and_in_the_metrics(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        worker.broker.outcomes.append(PublishError("Redis says no", ["x"], refused=True))
        with pytest.raises(PublishError) as raised:
            await client.celery.send_task("proj.echo", (1,))
    span = spans.one("send celery")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(raised.value)
    assert span.attributes["error.type"] == "PublishError"
    (point,) = spans.points("messaging.client.sent.messages")
    assert (point.value, point.attributes["error.type"]) == (1, "PublishError")
    (point,) = spans.points("messaging.client.operation.duration")
    assert (point.count, point.attributes["error.type"]) == (1, "PublishError")


@virtual
async def test_messages_and_durations_are_counted_by_queue(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        worker.delay = None
        await client.celery.send_many([ECHO(1), ECHO(2)])
        await client.celery.send_task("proj.echo", (1,))
        await client.celery.send_task("proj.echo", (1,), queue="other")
    sent = {point.attributes["messaging.destination.name"]: point for point in spans.points(otel.SENT_MESSAGES)}
    assert {queue: point.value for queue, point in sent.items()} == {"celery": 3, "other": 1}
    assert sent["celery"].attributes == PARENT_ATTRIBUTES
    took = {point.attributes["messaging.destination.name"]: point for point in spans.points(otel.DURATION)}
    assert {queue: point.count for queue, point in took.items()} == {"celery": 2, "other": 1}
    assert took["celery"].attributes == PARENT_ATTRIBUTES
    assert took["celery"].explicit_bounds == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@virtual
async def test_a_message_that_was_never_tried_is_not_counted_as_sent(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, worker):
        await withdraw(client, worker)
    (point,) = spans.points("messaging.client.sent.messages")
    assert point.attributes["messaging.destination.name"] == "a"
    assert spans.one("send b").attributes["error.type"] == "PublishError"


@virtual
async def test_a_refused_message_leaves_no_span(spans):
    async with memory_client(telemetry=spans.telemetry()) as (client, _):
        with pytest.raises(MessageError):
            await client.celery.send_task("proj.echo", ({1, 2},))
    assert not spans.finished


@virtual
async def test_a_trace_that_is_not_sampled_goes_on_unsampled():
    spans = Spans(sampler=ALWAYS_OFF)
    injected = Injected(spans.telemetry())
    async with memory_client(telemetry=injected) as (client, _):
        assert await asyncio.gather(*(caller(spans, client, n) for n in (5, 6))) == [value(5), value(6)]
    assert not spans.finished
    (headers,) = injected.headers.values()
    assert not trace.get_current_span(propagate.extract(headers)).get_span_context().trace_flags.sampled


@virtual
async def test_with_the_api_alone_nothing_is_added():
    injected = Injected(OpenTelemetry())
    async with memory_client(telemetry=injected) as (client, _):
        assert await client.fibonacci_many([5, 6], chunk_size=1) == [value(5), value(6)]
    assert list(injected.headers.values()) == [{}, {}]


# The names are those of the conventions.

CONVENTIONS = {
    value
    for module in (messaging_attributes, messaging_metrics, server_attributes, error_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str) and "eprecated" not in value
}
NAMES = {
    name: value
    for name, value in vars(otel).items()
    if name.isupper()
    and isinstance(value, str)
    and not name.startswith("_")
    and name not in ("SCHEMA_URL", "TASK_NAME")
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_of_the_conventions(name):
    assert NAMES[name] in CONVENTIONS


def test_the_schema_is_that_of_the_conventions_which_are_tested_with():
    assert list(schemas.Schemas)[-1].value == otel.SCHEMA_URL
