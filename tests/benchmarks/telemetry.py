"""What telemetry costs: switched off, switched on, and in a worker that serves metrics."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import timeit
import urllib.request
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from support.servers import free_port
from support.waiting import until
from tests.benchmarks.bench import TIMEOUT, in_turns
from tests.benchmarks.calls import our_calls
from tests.benchmarks.report import Row
from tests.benchmarks.sending import BATCH, idle, our_sending, ready_bytes

from fibo_client import FiboClient
from fibo_client.telemetry.otel import OpenTelemetry
from fibo_client.telemetry.tracer import NOOP_SPAN, NOOP_TRACER
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis as redis_py
    from opentelemetry.sdk.trace import ReadableSpan
    from tests.benchmarks.bench import Bench

LOOPS = 100_000
"""How often the no-op tracer is called, to time it."""


def telemetry(here: Bench) -> list[Row]:
    """Measure calls and messages without telemetry and with it, and a worker with metrics and without."""
    return [*client_rows(here), worker_row(here)]


def client_rows(here: Bench) -> list[Row]:
    """Send and call with telemetry off, on, and on without ``create`` spans."""
    count = here.sizes.sent
    off_message = Row("telemetry off: what a message pays", "ns", "less", goal=0.02, beside="the whole message")
    off_call = Row("telemetry off: what a call pays", "us", "less", goal=0.01, beside="the whole call")
    on_call = Row("one call, telemetry on: p50", "ms", "less", beside="off")
    on_many = Row(f"send {count:,} tasks, telemetry on", "tasks/s", "more", beside="off")
    on_lean = Row(f"send {count:,} tasks, telemetry on, create_spans=False", "tasks/s", "more", beside="off")
    with clients(here) as (off, on, lean, redis), clients(here, here.stock.url) as (off_stock, on_stock, _, _):
        for repeat in range(here.repeats):
            rates = in_turns(
                repeat,
                off=lambda: here.run(our_sending(off, redis, count)),
                on=lambda: here.run(our_sending(on, redis, count)),
                lean=lambda: here.run(our_sending(lean, redis, count)),
            )
            calls = in_turns(
                repeat,
                off=lambda: statistics.median(here.run(our_calls(here, off_stock, here.sizes.calls))),
                on=lambda: statistics.median(here.run(our_calls(here, on_stock, here.sizes.calls))),
            )
            off_message.add(message_hooks() * 1e9, 1e9 / rates["off"])
            off_call.add(call_hooks() * 1e6, calls["off"] * 1e6)
            on_call.add(calls["on"] * 1e3, calls["off"] * 1e3)
            on_many.add(rates["on"], rates["off"])
            on_lean.add(rates["lean"], rates["off"])
            for row in (off_message, off_call, on_call, on_many, on_lean):
                here.tell(row, repeat, here.repeats)
    return [off_message, off_call, on_call, on_many, on_lean]


class _Nowhere(SpanExporter):
    """Where spans go that only cost what they cost to make."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@contextlib.contextmanager
def clients(here: Bench, url: str | None = None) -> Iterator[tuple[FiboClient, FiboClient, FiboClient, redis_py.Redis]]:
    """Give three clients: without telemetry, with it, and with it but for ``create`` spans."""
    url = url or here.server.fresh_url()
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(_Nowhere(), max_queue_size=100_000))
    providers: dict[str, Any] = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider([InMemoryMetricReader()]),
    }
    made = (
        FiboClient(url),
        FiboClient(url, telemetry=OpenTelemetry(**providers)),
        FiboClient(url, telemetry=OpenTelemetry(**providers, create_spans=False)),
    )
    with here.server.client(url) as redis:
        for client in made:
            here.run(client.open())
        try:
            yield (*made, redis)
        finally:
            for client in made:
                here.run(client.aclose())
            tracers.shutdown()


def message_hooks() -> float:
    """Time what a message of many pays to the no-op tracer, in seconds."""
    inject = NOOP_SPAN.inject
    return per_loop(lambda: inject("task", "id"))


def call_hooks() -> float:
    """Time what a call that shares a message pays to it, in seconds."""
    headers: dict[str, Any] = {}

    def hooks() -> None:
        span = NOOP_TRACER.start_send("celery", None, batch=False, headers=headers)
        span.inject("task", "id")
        span.link()
        span.end(sent=1, failed=0, error=None)

    return per_loop(hooks)


def per_loop(hooks: Any) -> float:
    """Time a function of no arguments, its own call included: the best of five."""
    return min(timeit.repeat(hooks, number=LOOPS, repeat=5)) / LOOPS


# A worker that serves metrics.


def worker_row(here: Bench) -> Row:
    """Let a worker run tasks that nobody waits for: with metrics that are scraped, and without."""
    count = here.sizes.bulk
    note = "both have two processes, and nobody waits for results; the metrics are scraped once a second"
    row = Row(
        f"{count:,} tasks, fibo-worker with metrics", "tasks/s", "more", goal=0.97, beside="without metrics", note=note
    )
    port = free_port()
    with contextlib.ExitStack() as stack:
        sender, _, pile = stack.enter_context(idle(here))
        sides = {}
        for side, env in (("metrics", {"FIBO_METRICS_PORT": str(port)}), ("plain", {})):
            url = here.server.fresh_url()
            stack.enter_context(WorkerProcess(url, concurrency=2, env=env, stop_timeout=0))
            sides[side] = stack.enter_context(here.server.client(url))
            run_all(sides[side], ready_bytes(here, sender, pile, 200))
        stack.enter_context(scraping(f"http://127.0.0.1:{port}/metrics"))
        for repeat in range(here.repeats):
            messages = {side: ready_bytes(here, sender, pile, count) for side in sides}
            took = in_turns(
                repeat,
                metrics=lambda messages=messages: run_all(sides["metrics"], messages["metrics"]),
                plain=lambda messages=messages: run_all(sides["plain"], messages["plain"]),
            )
            row.add(count / took["metrics"], count / took["plain"])
            here.tell(row, repeat, here.repeats)
    return row


def run_all(redis: redis_py.Redis, messages: list[bytes]) -> float:
    """Time a worker from ready bytes to stored results."""
    redis.flushdb()
    began = time.perf_counter()
    for start in range(0, len(messages), BATCH):
        redis.lpush("celery", *messages[start : start + BATCH])
    until(lambda: redis.dbsize() >= len(messages), "not all results are stored", timeout=TIMEOUT, interval=0.005)
    return time.perf_counter() - began


@contextlib.contextmanager
def scraping(url: str) -> Iterator[None]:
    """Scrape once a second, in a thread, until the end of the block."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(1.0):
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                answer.read()

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(TIMEOUT)
