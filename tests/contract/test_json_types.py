"""Types that a worker's app has registered with kombu, and that our client was told: the same on both sides."""

import contextlib
import dataclasses
import datetime as dt
import json
from decimal import Decimal

import pytest
from kombu.exceptions import DecodeError
from kombu.utils import json as kombu_json
from proj.types import Money, Order, Receipt
from support.own_types import MONEY, SET
from support.servers import stock_worker

from fibo_client.celery import Cause, JSONType, RemoteTask
from fibo_client.errors import ResultDecodeError, TaskFailedError

PRICE = Money(Decimal("1.50"), "EUR")
TYPES = [JSONType(*MONEY), JSONType(*SET)]
ENVELOPE = {"__type__": "money", "__value__": {"amount": Decimal("1.50"), "currency": "EUR"}}
VALUES = [
    PRICE,
    [PRICE, {"a": PRICE}],
    frozenset("abc"),
    {"prices": [PRICE, Decimal("1.5")], "day": dt.date(2026, 1, 2)},
    Money(Decimal(1), "é"),
]


@pytest.fixture(scope="module")
def typed(redis_server, plain):
    """A worker that knows the types, and stores what its tasks were called with."""
    url = redis_server.fresh_url()
    conf = {"result_extended": True}
    with stock_worker(url, app="support.typed_app", name="typed", conf=conf) as process:
        yield dataclasses.replace(plain, url=url, conf=conf, ours={}, process=process)


@contextlib.contextmanager
def registered(*types):
    """Have the Celery of this process know types, too, and forget them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kombu_json, "_encoders", dict(kombu_json._encoders))
        patch.setattr(kombu_json, "_decoders", dict(kombu_json._decoders))
        for each in types:
            kombu_json.register_type(*each)
        yield


async def test_values_go_there_and_back_as_with_celerys_own_client(typed):
    async with typed.client(json_types=TYPES) as client:
        ours = await client.send_task("typed.echo", VALUES, {"k": PRICE})
        assert await ours.get() == [VALUES, {"k": PRICE}]
        assert ours.cached.args == VALUES
        assert ours.cached.kwargs == {"k": PRICE}
    with registered(MONEY, SET), typed.celery() as app:
        theirs = app.send_task("typed.echo", VALUES, {"k": PRICE})
        assert theirs.get(timeout=20) == [VALUES, {"k": PRICE}] == app.AsyncResult(ours.id).get(timeout=20)
    with typed.redis() as redis:
        stored = [json.loads(redis.get(f"celery-task-meta-{each.id}")) for each in (ours, theirs)]
    assert [(each["result"], each["args"], each["kwargs"]) for each in stored] == [
        (stored[0]["result"], stored[0]["args"], stored[0]["kwargs"])
    ] * 2


async def test_what_a_task_was_called_with_does_not_hide_its_answer_from_who_does_not_know_the_type(typed):
    async with typed.client(json_types=TYPES) as knowing:
        task_id = (await knowing.send_task("typed.currency", [PRICE])).id
    async with typed.client() as client:
        handle = client.result(task_id)
        assert await handle.get() == "EUR"
        assert handle.cached.args == [ENVELOPE]
        assert (handle.cached.name, handle.cached.worker) == ("typed.currency", typed.node)
    with typed.celery() as app, pytest.raises((ValueError, DecodeError)):
        _ = app.AsyncResult(task_id).result  # It gives up over the arguments.


async def test_an_answer_of_an_unknown_type_fails_alone_and_says_which_and_where_to_tell_it(typed):
    async with typed.client(json_types=TYPES) as knowing, typed.client() as client:
        handles = [
            client.result((await knowing.send_task(name, [PRICE])).id) for name in ("typed.double", "typed.currency")
        ]
        unknown, fine = await client.gather(handles, return_exceptions=True)
        assert (type(unknown), fine) == (ResultDecodeError, "EUR")
        assert unknown.task_id == handles[0].id
        assert "of the type 'money'" in str(unknown)
        assert "json_types" in str(unknown)
        assert await knowing.result(handles[0].id).get() == Money(Decimal("3.00"), "EUR")


async def test_who_does_not_know_the_type_sees_that_the_task_runs_what_it_reports_and_its_answer(typed):
    async with typed.client(json_types=TYPES) as knows, typed.client() as other:
        sent = await knows.send_task("typed.report", [PRICE, 2])
        states = []
        async for meta in other.result(sent.id).updates(timeout=20):
            states.append(meta.state)
            if meta.state == "PROGRESS":
                assert meta.result["sum"]["__type__"] == "money"
                for client in (knows, other):
                    assert (await client.diagnose(client.result(sent.id))).cause is Cause.RUNNING
                    (active,) = (await client.inspect().active()).values()
                    assert [each["id"] for each in active] == [sent.id]
        assert states[-2:] == ["PROGRESS", "SUCCESS"]
        assert meta.result == "EUR"


async def test_a_decoder_that_raises_is_an_error_of_that_result_alone(typed):
    def decode(value):
        if value["currency"] == "XXX":
            raise RuntimeError("there is no such currency")
        return Money.decode(value)

    async with typed.client(json_types=[JSONType(Money, "money", Money.encode, decode)]) as client:
        sent = [await client.send_task("typed.double", [each]) for each in (Money(Decimal(1), "XXX"), PRICE)]
        bad, good = await client.gather(sent, return_exceptions=True)
        assert type(bad) is ResultDecodeError
        assert "broken money: RuntimeError('there is no such currency')" in str(bad)
        assert good == Money(Decimal("3.00"), "EUR")


@pytest.mark.parametrize("told", [True, False])
async def test_an_exception_with_such_an_argument_is_raised_whether_the_type_is_known_or_not(typed, told):
    async with typed.client(json_types=TYPES) as knowing, typed.client(json_types=TYPES if told else ()) as client:
        handle = client.result((await knowing.send_task("typed.refuse", [PRICE])).id)
        with pytest.raises(TaskFailedError) as caught:
            await handle.get()
    assert (caught.value.exc_type, caught.value.exc_args) == ("ValueError", ("too much", PRICE if told else ENVELOPE))


async def test_a_class_that_says_how_it_is_json_needs_no_type(typed):
    class Point:
        def __json__(self):
            return {"x": 1, "at": dt.date(2026, 1, 2)}

    assert kombu_json.dumps([Point()]) == '[{"x": 1, "at": {"__type__": "date", "__value__": "2026-01-02"}}]'
    async with typed.client() as client:
        assert await client.call("typed.echo", (Point(),)) == [[{"x": 1, "at": dt.date(2026, 1, 2)}], {}]


ORDER = Order(item="tea", price=Decimal("2.50"), count=2)
CHARGE = RemoteTask[..., Receipt]("typed.charge", decode=Receipt.model_validate)
MODELS = [JSONType(Order, None, lambda model: model.model_dump(mode="json"))]


async def test_pydantics_models_are_arguments_and_answers_of_tasks_that_take_them(typed):
    async with typed.client(json_types=MODELS) as client:
        receipt = await client.call(CHARGE(ORDER, discount=Decimal("0.50")))
        assert receipt == Receipt(order=ORDER, total=Decimal("4.50"))
        handle = await client.send_task("typed.charge", [ORDER])
        assert (await handle.get(), handle.cached.args) == (
            {"order": {"item": "tea", "price": "2.50", "count": 2}, "total": "5.00"},
            [{"item": "tea", "price": "2.50", "count": 2}],
        )
        wrong = RemoteTask[..., Order]("typed.charge", decode=Order.model_validate)
        with pytest.raises(ResultDecodeError, match=r"typed\.charge answered something else"):
            await client.call(wrong(ORDER))


async def test_the_models_travel_as_celerys_own_client_sends_them(typed):
    with typed.celery() as app:
        task = app.task(name="typed.charge", pydantic=True, shared=False)(charge)
        theirs = task.delay(ORDER)
        assert theirs.get(timeout=20)["total"] == "5.00"
    async with typed.client(json_types=MODELS) as client:
        ours = await client.send_task("typed.charge", [ORDER])
        await ours.get()
        handle = client.result(theirs.id)
        await handle.get()
        assert handle.cached.args == ours.cached.args


def charge(order: Order, discount: Decimal = Decimal(0)) -> Receipt:
    """Like that of `support.typed_app`, of which a caller has the declaration."""
