"""Where tasks go by ``task_routes``: what wins, who sees it, and what is refused. What matches is Celery's contract."""

from __future__ import annotations

import asyncio
import re

import pytest
from support.clock import virtual
from support.spans import Spans

from fibo_client import FIBONACCI, ConfigError, FiboClient, MessageError, ResultTimeoutError
from fibo_client.celery import CeleryClient, CeleryConfig, RemoteTask, Signature, chain, chord, group, remote_task
from fibo_client.celery.routes import Routes
from fibo_client.testing import FakeCelery, FakeFibo

ROUTES = {"shop.*": {"queue": "shop", "priority": 3}, "mail.send": "mail"}

declared = RemoteTask[..., int]("shop.declared", queue="own")
urgent = RemoteTask[..., int]("shop.urgent", priority=0)
bare = RemoteTask[..., int]("shop.bare")


@remote_task("shop.double", chunkable=True)
def double(n: int) -> int: ...


@pytest.fixture
def fake():
    fake = FakeCelery()
    for task in (declared, urgent, bare, "mail.send", "other"):
        fake.task(task, lambda *_: 1)
    fake.task(double, lambda n: 2 * n)
    return fake


def places(fake):
    """Where each task went, with which priority."""
    return [(sent.task, sent.queue, sent.priority) for sent in fake.sent]


# What wins.


@pytest.mark.parametrize(
    ("signature", "options", "place"),
    [
        (bare(), {}, ("shop", 3)),
        (bare(), {"queue": "call"}, ("call", 3)),
        (bare(), {"priority": 9}, ("shop", 9)),
        (bare().with_options(queue="signature"), {}, ("signature", 3)),
        (bare().with_options(queue="signature"), {"queue": "call"}, ("call", 3)),
        (declared(), {}, ("own", 3)),
        (urgent(), {}, ("shop", 0)),
        (Signature("mail.send"), {}, ("mail", 0)),
        (Signature("other"), {}, ("client", 0)),
    ],
)
@virtual
async def test_the_call_wins_then_its_task_then_the_route_then_the_clients_queue(fake, signature, options, place):
    async with CeleryClient(transport=fake, task_routes=ROUTES, queue="client") as client:
        await client.send(signature, **options)
        await client.send_many([signature], **options)
        await client.call(signature, **options)
        await client.call_many([signature], **options)
        async with client.start(signature, **options) as started:
            await started
        async with client.stream(lambda _: signature, [1], **options) as answers:
            assert [answer async for _, answer in answers] == [1]
    assert places(fake) == [(signature.task, *place)] * 6


@virtual
async def test_of_a_flow_each_task_wins_then_the_call_then_the_route_then_the_clients_queue(fake):
    async with CeleryClient(transport=fake, task_routes=ROUTES, queue="client") as client:
        flow = chain(bare(1), bare(2).with_options(queue="signature"), Signature("other"), declared(), bare(3))
        for send in (client.send(flow, queue="call"), client.send_many([flow], queue="call"), client.call(flow)):
            await send
            await asyncio.sleep(1)
    called = [("shop.bare", "call", 3), ("shop.bare", "signature", 3), ("other", "call", 0)]
    called += [("shop.declared", "own", 3), ("shop.bare", "call", 3)]
    routed = [("shop.bare", "shop", 3), ("shop.bare", "signature", 3), ("other", "client", 0)]
    routed += [("shop.declared", "own", 3), ("shop.bare", "shop", 3)]
    assert places(fake) == [*called, *called, *routed]


@virtual
async def test_many_calls_of_several_tasks_each_have_their_own_route(fake):
    calls = [
        bare(1),
        Signature("mail.send"),
        declared(2),
        bare(3),
        Signature("other"),
        bare(4).with_options(priority=7),
    ]
    queues = [("shop", 3), ("mail", 0), ("own", 3), ("shop", 3), ("celery", 0), ("shop", 7)]
    async with CeleryClient(transport=fake, task_routes=ROUTES) as client:
        assert await client.call_many(calls) == [1] * 6
        handles = await client.send_many(iter(calls))
        await client.gather(handles)
    assert [(queue, priority) for _, queue, priority in places(fake)] == queues * 2
    assert [handle.queue for handle in handles] == [queue for queue, _ in queues]


@virtual
async def test_many_calls_of_several_tasks_go_to_the_queues_that_these_declare(fake):
    calls = [declared(1), bare(2), urgent(3).with_options(queue="soon"), declared(4)]
    async with CeleryClient(transport=fake) as client:
        assert await client.call_many(calls) == [1] * 4
        handles = await client.send_many(calls)
        await client.gather(handles)
    assert [sent.queue for sent in fake.sent] == ["own", "celery", "soon", "own"] * 2
    assert [handle.queue for handle in handles] == ["own", "celery", "soon", "own"]


@virtual
async def test_a_chunk_goes_where_the_calls_in_it_go(fake):
    async with CeleryClient(transport=fake, task_routes=ROUTES | {"celery.*": "never"}) as client:
        assert await client.call_many([double(1), double(2)], chunk_size=2) == [2, 4]
        assert await client.call_many([double(3), double(4)], chunk_size=2, queue="call") == [6, 8]
    assert places(fake) == [("celery.starmap", "shop", 3), ("celery.starmap", "call", 3)]


@virtual
async def test_calls_of_one_task_whose_routes_differ_share_no_chunk(fake):
    def route(name, args, kwargs, options, task=None, **kw):
        return "even" if args[0] % 2 == 0 else "odd"

    async with CeleryClient(transport=fake, task_routes=route) as client:
        assert await client.call_many([double(n) for n in (0, 2, 1, 3)], chunk_size=4) == [0, 4, 2, 6]
    assert [(sent.queue, sent.kwargs["it"]) for sent in fake.sent] == [("even", [[0], [2]]), ("odd", [[1], [3]])]


# Functions.


@virtual
async def test_a_function_sees_the_call_with_all_its_options(fake):
    seen = []

    def route(name, args, kwargs, options, task=None, **kw):
        seen.append((name, args, kwargs, {key: options[key] for key in ("queue", "priority") if key in options}, task))

    async with CeleryClient(transport=fake, task_routes=[route]) as client:
        await client.send_many([declared(1, x=2), Signature("other")], priority=4)
    assert seen == [
        ("shop.declared", (1,), {"x": 2}, {"queue": "own", "priority": 4}, None),
        ("other", (), {}, {"priority": 4}, None),
    ]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "must be a queue's name or a dict of options, not int"),
        ({"queue": 5}, "queue must be text"),
        ({"priority": 10}, "priority=10 must be an integer from 0 to 9"),
        ({"routing_key": "a.b"}, "name the queue alone"),
    ],
)
@virtual
async def test_what_a_function_gives_is_checked_before_anything_is_sent(fake, given, why):
    def route(*_, **__):
        return given

    async with CeleryClient(transport=fake, task_routes=route) as client:
        with pytest.raises(MessageError, match=rf"what .*route gave for shop\.bare.*{why}"):
            await client.call(bare())
    fake.assert_nothing_sent()


@virtual
async def test_an_error_of_a_function_reaches_the_caller_and_nothing_is_sent(fake):
    async with CeleryClient(transport=fake, task_routes=lambda name, args, *_, **__: args[0]) as client:
        with pytest.raises(IndexError):
            await client.call_many([bare("a"), bare()])
    fake.assert_nothing_sent()


# Who sees it.


@virtual
async def test_handles_errors_depths_and_spans_know_the_routed_queue(fake):
    spans = Spans()
    async with CeleryClient(transport=fake, task_routes=ROUTES, telemetry=spans.telemetry()) as client:
        with fake.no_worker():
            with pytest.raises(ResultTimeoutError) as caught:
                await client.call(bare(), timeout=1)
            handle = await client.send(bare())
            assert await client.queue_depth(bare) == await client.queue_depth("shop") == 2
            assert await client.queue_depth(declared) == await client.queue_depth() == 0
            assert (await client.diagnose(client.result("never-sent", bare))).queue == "shop"
            assert (await client.diagnose(handle)).queue == "shop"
    assert (caught.value.queue, handle.queue) == ("shop", "shop")
    assert len(spans.named("send shop")) == 2


@virtual
async def test_without_a_route_a_declared_task_has_its_own_queue_or_the_clients(fake):
    async with CeleryClient(transport=fake, queue="client") as client:
        with fake.no_worker():
            await client.send_many([declared(), declared(), bare()])
            assert await client.queue_depth(declared) == 2
            assert await client.queue_depth(bare) == await client.queue_depth() == 1


def test_a_function_is_not_asked_where_there_are_no_arguments():
    routes = Routes([lambda name, args, *_, **__: args[0], {"shop.*": "shop", "mail.*": {"priority": 1}}])
    assert [routes.queue_of(task) for task in ("shop.bare", "mail.send", "other")] == ["shop", None, None]


@virtual
async def test_numbers_are_routed_too_and_a_queue_that_is_asked_for_wins():
    fake = FakeFibo()
    async with FiboClient(
        transport=fake, task_routes={f"{FIBONACCI.name}*": {"queue": "math", "priority": 5}}
    ) as client:
        assert await client.fibonacci(10) == 55
        assert await client.fibonacci_many([10, 20], queue="celery") == [55, 6765]
    # The facade says itself how urgent numbers are.
    assert [(sent.queue, sent.priority) for sent in fake.sent] == [("math", 0), ("celery", 0)]


# What costs nothing.


def test_calls_of_one_task_have_one_object_of_options():
    routes = Routes(ROUTES)
    first, second = (routes.apply(bare(n), {}) for n in (1, 2))
    assert first.options is second.options
    other = Signature("other")
    assert routes.apply(other, {}) is other
    assert (first.args, first.decode, first.remote_task) == ((1,), bare.decode, bare)


def test_without_routes_there_is_nothing_to_ask():
    assert CeleryClient()._session.routes is None
    calls = [bare(1)]
    assert CeleryClient()._session.routed(calls, {}) is calls


# What is refused.


@pytest.mark.parametrize(
    ("routes", "why"),
    [
        ("proj.routers.route", "is not imported by its name; give the function itself"),
        (["proj.routers.route"], "is not imported by its name; give the function itself"),
        (5, "must be a dict, a function"),
        (type("Router", (), {"route_for_task": lambda *_: None})(), "must be a dict, a function"),
        (dict, "must be a dict, a function"),
        ([("mail.*", "mail")], r"'mail\.\*' is no pair .* as \[\[\(name, route\), \.\.\.\]\]"),
        ([[("mail.*",)]], "is no pair"),
        ({5: "mail"}, "5 is neither a task's name nor a compiled pattern"),
        ({re.compile(b"mail"): "mail"}, "neither a task's name nor a compiled pattern"),
        ({"mail.*": None}, r"the route of 'mail\.\*' must be a queue's name or a dict of options, not NoneType"),
        ({"mail.*": ""}, "queue must have 1 to 1024 characters"),
        ({"mail.*": {"queue": 5}}, "queue must be text, not int"),
        ({"mail.*": {"priority": "high"}}, "priority='high' must be an integer"),
        ({"mail.*": {"compression": "zip"}}, "zip"),
        ({"mail.*": {"queue": "mail", "routing_key": "mail.out"}}, "has 'routing_key'; name the queue alone"),
        ({"mail.*": {"exchange": "mail"}}, "has 'exchange'; name the queue alone"),
        (
            {"mail.*": {"queue": "mail", "expires": 5}},
            "has 'expires'; options of a route are queue, priority, compression",
        ),
    ],
)
def test_what_no_route_can_be_is_refused_when_the_settings_are_made(routes, why):
    with pytest.raises(ConfigError, match=f"task_routes.*{why}"):
        CeleryConfig(task_routes=routes)


def test_a_coroutine_function_is_refused():
    async def route(*_, **__): ...

    with pytest.raises(ConfigError, match="not a coroutine function"):
        CeleryConfig(task_routes=route)


def test_settings_with_routes_can_be_compared_and_hashed():
    one, other = CeleryConfig(task_routes=ROUTES), CeleryConfig(task_routes=dict(ROUTES))
    assert (one, hash(one)) == (other, hash(other))
    assert one != CeleryConfig(task_routes={})


ASKING = {
    "send": lambda client, flow: client.send(flow),
    "call": lambda client, flow: client.call(flow, timeout=5),
    "start": lambda client, flow: client.start(flow, timeout=5).get(),
    "send_many": lambda client, flow: client.send_many([flow]),
    "call_many": lambda client, flow: client.call_many([flow], timeout=5),
    "stream": lambda client, flow: anext(client.stream(lambda _: flow, [1], timeout=5)),
}


@pytest.mark.parametrize("verb", ASKING)
@pytest.mark.parametrize(
    ("flow", "tasks"),
    [
        (bare(0), [0]),
        (chain(bare(0), bare(1), bare(2)), [0, 1, 2]),
        (group(bare(0), bare(1), bare(2)), [0, 1, 2]),
        (group([bare(0)] * 3), [0, 0, 0]),
        (chord([bare(0), bare(1)], bare(2)), [0, 1, 2]),
        (chain(bare(0), group(bare(1), bare(2))), [0, 1, 2]),
        (chain(group(bare(0), bare(1)), bare(2)), [0, 1, 2]),
    ],
    ids=str,
)
@virtual
async def test_a_function_is_asked_once_for_each_task_and_its_route_is_taken(fake, verb, flow, tasks):
    asked = []

    def route(name, args, *_, **__):
        asked.append(args[0])
        return {"queue": "shop", "priority": 3}

    async with CeleryClient(transport=fake, task_routes=route) as client:
        await ASKING[verb](client, flow)
        await asyncio.sleep(1)
    assert sorted(asked) == tasks
    assert {(sent.queue, sent.priority) for sent in fake.sent} == {("shop", 3)}


@pytest.mark.parametrize("verb", ["send", "call", "send_many", "call_many"])
@virtual
async def test_a_function_is_asked_once_for_a_task_with_a_link_and_once_for_that(fake, verb):
    asked = []

    def route(name, args, kwargs, options, **_):
        asked.append((args[0], options.get("priority")))
        return "shop"

    flow = bare(0).with_options(link=bare(1), priority=3)
    async with CeleryClient(transport=fake, task_routes=route) as client:
        await (client.send(flow, priority=5) if verb == "send" else ASKING[verb](client, flow))
        await asyncio.sleep(1)
    first = 5 if verb == "send" else 3
    assert sorted(asked) == [(0, first), (1, first if verb == "send" else None)]
    assert places(fake)[0] == ("shop.bare", "shop", first)
