"""Tasks that a stub declares: what fits their parameters, what is refused, and what Python makes of them."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import pydoc

import pytest
from support.clock import virtual

from fibo_client import MessageError
from fibo_client.celery import CeleryClient, RemoteTask, Signature, remote_task
from fibo_client.telemetry.tracer import NOOP_SPAN
from fibo_client.testing import FakeCelery


@remote_task("shop.resize", queue="media", chunkable=True)
def resize(name: str, steps: int = 5, height: int = 7, width: int = 9) -> str:
    """Resize a picture."""


@remote_task("shop.paint", chunkable=True)
def paint(name: str, steps: int = ..., *colours: str, fast: bool = False) -> str: ...


@remote_task("shop.only", chunkable=True)
def only(name: str, /, *, size: int, **more: int) -> str: ...


@remote_task("shop.by_position")
def by_position(name: str, /) -> str: ...


class Shop:
    """A place for stubs."""

    @remote_task("shop.pack")
    @staticmethod
    def pack(what: str) -> bool: ...

    @staticmethod
    @remote_task("shop.ship")
    def ship(what: str) -> bool: ...


plain = RemoteTask[[int], int]("shop.plain", int, priority=3)
DECLARED = [resize, paint, only, Shop.pack, Shop.ship]


# What fits.


@pytest.mark.parametrize(
    ("task", "args", "kwargs"),
    [
        (resize, ("dog",), {}),
        (resize, ("dog", 3, 4), {}),
        (resize, (), {"name": "dog"}),
        (resize, ("dog",), {"height": 3}),
        (paint, ("dog", 3, "red", "blue"), {}),
        (paint, ("dog",), {"fast": True}),
        (only, ("dog",), {"size": 3}),
        (only, ("dog",), {"size": 3, "weight": 4}),
        (Shop.pack, ("dog",), {}),
        (Shop().ship, (), {"what": "dog"}),
        (RemoteTask("shop.any"), (1, 2, 3), {"self": 4}),
    ],
)
def test_arguments_that_fit_are_sent_as_they_were_written(task, args, kwargs):
    signature = task(*args, **kwargs)
    assert (signature.task, signature.args, signature.kwargs) == (task.name, args, kwargs)
    assert signature.remote_task is task


WRONG = [
    (resize, (), {}, "missing a required argument: 'name'"),
    (resize, ("dog", 1, 2, 3, 4), {}, "too many positional arguments"),
    (resize, ("dog",), {"stepz": 3}, "unexpected keyword argument 'stepz'"),
    (resize, ("dog",), {"name": "cat"}, "multiple values for argument 'name'"),
    (paint, (), {"fast": True}, "missing a required argument: 'name'"),
    (only, ("dog",), {}, "missing a required .*argument: 'size'"),
    (only, ("dog", 3), {}, "too many positional arguments"),
    (by_position, (), {"name": "dog"}, "positional.only"),
    (Shop.pack, (), {}, "missing a required argument: 'what'"),
]


@pytest.mark.parametrize(("task", "args", "kwargs", "why"), WRONG)
@virtual
async def test_arguments_that_do_not_fit_are_refused_by_all_that_send_before_anything_is_sent(task, args, kwargs, why):
    fake = FakeCelery()
    said = rf"^{task.name}\(.*\): .*({why})"
    with pytest.raises(TypeError, match=said):
        task(*args, **kwargs)
    async with CeleryClient(transport=fake) as client:
        for sends in (client.call, client.send_task):
            with pytest.raises(TypeError, match=said):
                await sends(task, args, kwargs)
        with pytest.raises(TypeError, match=said):
            client.start(task, args, kwargs)
    fake.assert_nothing_sent()


@virtual
async def test_a_stream_of_a_task_that_takes_no_single_argument_is_refused_at_once():
    async with CeleryClient(transport=FakeCelery()) as client:
        with pytest.raises(TypeError, match=r"missing a required .*'size'"):
            client.stream(only, ["dog"])


def test_the_error_does_not_show_the_arguments():
    with pytest.raises(TypeError) as caught:
        resize("secret", 1, 2, 3, "secret")
    assert "secret" not in str(caught.value)


# Chunks have positional arguments.


@pytest.mark.parametrize(
    ("call", "travels"),
    [
        (resize(name="dog"), ["dog"]),
        (resize("dog", height=3), ["dog", 5, 3]),
        (resize(steps=3, name="dog"), ["dog", 3]),
        (paint(name="dog"), ["dog"]),
        (paint(steps=1, name="dog"), ["dog", 1]),
    ],
)
@virtual
async def test_in_a_chunk_defaults_fill_gaps_and_nothing_else(call, travels):
    fake = FakeCelery()
    fake.task(call.task, lambda *args: list(args))
    async with CeleryClient(transport=fake) as client:
        assert await client.call_many([call, call], chunk_size=2) == [travels, travels]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (paint("dog", fast=True), "takes fast by keyword only"),
        (only("dog", size=3, weight=4), "takes size, more by keyword only"),
        (remote_task("shop.gap", chunkable=True)(lambda a, b=..., c=...: None)(1, c=2), "needs b, too, in a chunk"),
    ],
)
@virtual
async def test_arguments_that_have_no_position_are_refused_in_a_chunk(call, why):
    fake = FakeCelery()
    async with CeleryClient(transport=fake) as client:
        with pytest.raises(MessageError, match=why):
            await client.call_many([call], chunk_size=2)
    fake.assert_nothing_sent()


# What is no declaration.


def generator():
    yield 1


async def coroutine(): ...


async def async_generator():
    yield 1


class Callable:
    def __call__(self): ...


@pytest.mark.parametrize(
    ("stub", "why"),
    [
        (coroutine, "write `def`, not `async def`"),
        (async_generator, "write `def`, not `async def`"),
        (generator, "it has a `yield`"),
        (Callable, "must be a function"),
        (Callable(), "must be a function"),
        (Callable.__call__, "must not have `self`"),
        (Callable().__call__, "must be a function"),
        (functools.partial(generator), "must be a function"),
        (resize, "must be a function"),
        (len, "must be a function"),
        (5, "must be a function"),
    ],
)
def test_what_is_no_stub_is_refused_where_it_is_declared(stub, why):
    with pytest.raises(TypeError, match=rf"the stub of shop\.wrong .*{why}"):
        remote_task("shop.wrong")(stub)


@pytest.mark.parametrize("wrong", [generator, 5, None])
def test_a_decorator_without_the_name_says_how_it_is_written(wrong):
    with pytest.raises(TypeError, match=r'write @remote_task\("proj\.tasks\.add"\)'):
        remote_task(wrong)


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({"name": ""}, MessageError, "task must have 1 to 1024 characters"),
        ({"name": 5}, MessageError, "task must be text"),
        ({"name": "a\n"}, MessageError, "cannot be printed"),
        ({"name": "a", "queu": "b"}, MessageError, "'queu' is not an option; the options are: .*queue"),
        ({"name": "a", "task_id": "b"}, MessageError, "task_id is not for all calls of a task"),
        ({"name": "a", "decode": "int"}, TypeError, "decode must be a function, not str"),
        ({"name": "a", "parameters": resize}, TypeError, "parameters must be an inspect.Signature, not RemoteTask"),
    ],
)
def test_what_no_task_can_have_is_refused_when_it_is_made(given, error, why):
    with pytest.raises(error, match=why):
        RemoteTask(**given)


def test_an_option_that_is_none_is_refused_when_it_is_given_to_a_signature():
    with pytest.raises(MessageError, match="'queu' is not an option"):
        plain(1).with_options(queu="b")


# What Python makes of them.


def test_a_declared_task_has_the_name_the_text_and_the_signature_of_its_stub():
    assert (resize.__name__, resize.__module__, resize.__doc__) == ("resize", __name__, "Resize a picture.")
    assert list(inspect.signature(resize).parameters) == ["name", "steps", "height", "width"]
    assert inspect.signature(Shop.pack) == inspect.signature(Shop.ship)
    assert "def resize(name: str" in inspect.getsource(resize)
    for task in (resize, paint):
        told = pydoc.render_doc(task, renderer=pydoc.plaintext)
        assert f"{task.__name__} = <RemoteTask {task.name}(name: str, steps: int = " in told
        assert task.__doc__ in told


def test_a_repr_shows_the_parameters_where_these_are_known():
    assert repr(plain) == "RemoteTask('shop.plain')"
    assert repr(Shop.pack) == "<RemoteTask shop.pack(what: str) -> bool>"
    wide = remote_task("shop.wide")(eval(f"lambda {', '.join(f'argument_{n}' for n in range(1000))}: None"))
    assert len(repr(wide)) < 250


@pytest.mark.parametrize("task", DECLARED)
def test_a_declared_task_is_copied_and_pickled_as_functions_are(task):
    for again in (copy.copy(task), copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert again is task


def test_a_task_that_no_stub_declares_is_pickled_with_all_that_it_has():
    for again in (copy.copy(plain), copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert (again.name, again.decode, again.options) == ("shop.plain", int, {"priority": 3})
        assert again(1) == plain(1)


@pytest.mark.parametrize("signature", [resize("dog", steps=3), plain(1), Signature("shop.any", (1,))])
def test_a_signature_is_copied_and_pickled_with_all_that_it_has(signature):
    signature = signature.with_options(priority=1)
    for again in (copy.copy(signature), copy.deepcopy(signature), pickle.loads(pickle.dumps(signature))):
        assert again == signature
        assert again.with_options(priority=1) == signature
        assert getattr(again.remote_task, "name", None) == getattr(signature.remote_task, "name", None)


@virtual
async def test_what_logs_show_of_arguments_is_declared_once():
    log_in = remote_task("shop.log_in", argsrepr="(name, ***)", kwargsrepr="***")(lambda name, word: None)
    fake = FakeCelery()
    async with CeleryClient(transport=fake) as client:
        call = log_in("anna", word="secret")
        assert "secret" not in repr(call)
        messages = [client._session.encoder.one(call, options, NOOP_SPAN) for options in ({}, {"argsrepr": "(***)"})]
    assert [message.headers["argsrepr"] for message in messages] == ["(name, ***)", "(***)"]
    assert not any("secret" in str(message.headers) for message in messages)
