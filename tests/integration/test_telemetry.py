"""What stands on the wire with telemetry and without, and where it says that the broker is."""

from __future__ import annotations

import json

import pytest
from opentelemetry import baggage, context
from support.spans import Spans

from fibo_client import FiboClient
from fibo_client.celery import RedisOptions, RemoteTask
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.telemetry import Server


async def messages(server, url, **settings):
    """The messages that a client sends in every way there is, oldest first."""
    async with FiboClient(url, **settings) as client:
        token = context.attach(baggage.set_baggage("tenant", "42"))
        try:
            await client.celery.send_task("proj.add", (1, 2), headers={"mine": 1}, task_id="chosen")
            await client.celery.send_many([RemoteTask("proj.add")(1, 2), RemoteTask("proj.add")(3, 4)])
            await client.submit_many([5])
            call = client.fibonacci(5, timeout=0.2)
            with pytest.raises(TimeoutError):
                await call
        finally:
            context.detach(token)
    with server.client(url) as direct:
        return [json.loads(each) for each in reversed(direct.lrange("celery", 0, -1))]


async def test_the_context_stands_at_the_top_level_of_the_headers_and_nothing_else_changes(redis_server):
    spans = Spans()
    plain = await messages(redis_server, redis_server.fresh_url())
    traced = await messages(redis_server, redis_server.fresh_url(), telemetry=spans.telemetry())
    assert len(plain) == len(traced) == 5
    for without, having in zip(plain, traced, strict=True):
        assert not {"traceparent", "tracestate", "baggage"} & set(without["headers"])
        assert set(having["headers"]) == set(without["headers"]) | {"traceparent", "baggage"}
        assert having["headers"]["baggage"] == "tenant=42"
        assert having["headers"]["task"] == without["headers"]["task"]
        assert set(having) == set(without)
        assert set(having["properties"]) == set(without["properties"])
    assert traced[0]["headers"]["mine"] == 1
    sent = [f"{span.context.span_id:016x}" for span in spans.finished if span.kind.name == "PRODUCER"]
    assert sorted(message["headers"]["traceparent"].split("-")[2] for message in traced) == sorted(sent)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://redis.example:6380/3", Server("redis", "redis.example", 6380)),
        ("rediss://user:secret@[::1]/0", Server("redis", "::1", 6379)),
        ("redis+socket:///run/redis.sock", Server("redis", "/run/redis.sock", None)),
        ("sentinel://a:1;sentinel://b:2", Server("redis", None, None)),
    ],
)
def test_the_broker_says_where_it_is_without_a_secret(url, server):
    broker, _ = connect(CeleryConfig(broker_url=url, redis=RedisOptions(master_name="mymaster")))
    assert broker.server == server


async def test_spans_and_metrics_say_where_the_broker_is(redis_server, redis_url):
    spans = Spans()
    async with FiboClient(redis_url, telemetry=spans.telemetry()) as client:
        await client.submit(5)
    where = {"messaging.system": "redis", "server.address": "127.0.0.1", "server.port": redis_server.port}
    (point,) = spans.points("messaging.client.sent.messages")
    for attributes in (spans.one("send celery").attributes, point.attributes):
        assert where.items() <= attributes.items()
