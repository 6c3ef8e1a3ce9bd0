"""What the test kit makes of declared tasks: calls, answers, scripted functions, and the functions of a worker."""

from __future__ import annotations

import functools
import inspect
import itertools
import types
from inspect import Parameter
from typing import Any, Literal
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import virtual

from fibo_client.celery import CeleryClient, RemoteTask, Signature, remote_task
from fibo_client.testing import FakeCelery, FakeTask, check_declared


@remote_task("shop.resize", queue="media", chunkable=True)
def resize(name: str, steps: int = 5, *, fast: bool = False) -> str: ...


@remote_task("shop.add", chunkable=True)
def add(x: int, y: int = 1, z: int = ...) -> int: ...


@remote_task("shop.colours", frozenset)
def colours(*names: str, **more: int) -> Any: ...


double = RemoteTask[[int], int]("shop.double", chunkable=True)


@pytest.fixture
def fake():
    fake = FakeCelery()
    fake.task(resize, lambda name, steps=5, *, fast=False: f"{name}-{steps}")
    fake.task(add, lambda x, y=1, z=0: x + y + z)
    fake.task(double, lambda n: 2 * n)
    return fake


# What was sent.


@pytest.mark.parametrize("sent", [resize("dog", 3), resize("dog", steps=3), resize(steps=3, name="dog")])
@virtual
async def test_arguments_are_compared_by_the_parameters_that_they_are_for(fake, sent):
    async with CeleryClient(transport=fake) as client:
        assert await client.call(sent) == "dog-3"
    fake.assert_sent(resize, "dog", 3)
    fake.assert_sent(resize, "dog", steps=3)
    fake.assert_sent_once(resize, name="dog", steps=3, fast=False)
    fake.assert_sent(resize, mock.ANY, steps=mock.ANY)
    fake.assert_sent(resize("dog", 3))
    fake.assert_sent(resize, ...)
    fake.assert_not_sent(resize, "dog")
    fake.assert_not_sent(resize, "dog", 3, fast=True)
    fake.assert_not_sent(resize, "cat", mock.ANY)
    with pytest.raises(AssertionError, match=r"shop\.resize\('dog', steps=4\) was not sent\. What was sent \(1\)"):
        fake.assert_sent(resize, "dog", steps=4)


@virtual
async def test_a_default_is_the_same_call_whether_it_is_said_or_not(fake):
    async with CeleryClient(transport=fake) as client:
        await client.call_many([resize("dog"), resize("cat", 5), add(1)])
    for steps in ((), (5,)):
        fake.assert_sent_once(resize, "dog", *steps)
        fake.assert_sent_once(resize, "cat", *steps)
    fake.assert_sent(add, 1, y=1)
    fake.assert_not_sent(add, 1, 1, 0)  # Its default is known to the worker alone.


@pytest.mark.parametrize("asserts", ["assert_sent", "assert_sent_once", "assert_not_sent"])
def test_an_assertion_whose_arguments_do_not_fit_is_an_error_of_the_test(fake, asserts):
    with pytest.raises(TypeError, match=r"shop\.resize\(.*\): got an unexpected keyword argument 'stepz'"):
        getattr(fake, asserts)(resize, "dog", stepz=3)
    with pytest.raises(TypeError, match="missing a required argument: 'name'"):
        getattr(fake, asserts)(resize)


@virtual
async def test_a_call_by_name_that_does_not_fit_is_not_the_declared_one(fake):
    async with CeleryClient(transport=fake) as client:
        await client.send_task("shop.resize", ("dog",), {"stepz": 3})
    fake.assert_not_sent(resize, "dog")
    fake.assert_sent("shop.resize", "dog", stepz=3)
    fake.assert_sent(resize, ...)


@virtual
async def test_any_one_argument_is_one_argument(fake):
    async with CeleryClient(transport=fake) as client:
        await client.send_task("shop.add", (1, 2))
    fake.assert_sent("shop.add", ...)
    fake.assert_not_sent("shop.add", mock.ANY)
    fake.assert_sent("shop.add", mock.ANY, mock.ANY)


@virtual
async def test_any_name_can_be_an_argument_of_the_task(fake):
    async with CeleryClient(transport=fake) as client:
        await client.send_task("shop.any", (), {"task": 1, "self": 2, "queue": "q"})
    fake.assert_sent("shop.any", task=1, self=2, queue="q")


# With options, and queues.


@virtual
async def test_a_signature_is_compared_with_its_options(fake):
    async with CeleryClient(transport=fake) as client:
        await client.send(resize("dog"), priority=3, headers={"a": 1, "b": 2}, time_limit=5)
        await client.send(resize("cat"), queue="slow", countdown=5)
    fake.assert_sent(resize("dog"))
    fake.assert_sent(resize("dog").with_options(priority=3, headers={"b": 2}, time_limit=5))
    for options in ({"priority": 4}, {"headers": {"b": 3}}, {"time_limit": 6}, {"queue": "slow"}, {"shadow": "x"}):
        fake.assert_not_sent(resize("dog").with_options(**options))
    fake.assert_sent(resize, "cat")
    fake.assert_not_sent(resize("cat"))  # It is declared for another queue.
    fake.assert_sent(resize("cat").with_options(queue="slow", countdown=7))
    with pytest.raises(
        AssertionError, match=r"shop\.resize\('cat'\) with queue='media' was not sent(?s:.*)queue='slow'"
    ):
        fake.assert_sent(resize("cat"))


@virtual
async def test_a_worker_that_serves_some_queues_leaves_what_is_routed_to_others():
    fake = FakeCelery(queues=["math"])
    fake.task(add, returns=3)
    fake.task(resize, returns="done")
    async with CeleryClient(transport=fake, task_routes={"shop.add": "math"}) as client:
        assert await client.call(add(1, 2)) == 3
        handle = await client.send(resize("dog"))
        with pytest.raises(TimeoutError):
            await handle.get(timeout=1)
        assert await client.queue_depth(resize) == 1
        assert await client.queue_depth(add) == 0
    assert fake.assert_sent(add, 1, 2).queue == "math"
    assert fake.assert_sent(resize, "dog").queue == "media"


# In chunks.


@virtual
async def test_calls_in_a_chunk_count_as_calls(fake):
    async with CeleryClient(transport=fake) as client:
        assert await client.call_many([double(n) for n in (3, 4, 3)], chunk_size=10, queue="math") == [6, 8, 6]
        assert await client.call_many([add(1, y=2), add(x=3)], chunk_size=10) == [3, 4]
        assert await client.call(double(5)) == 10
    assert fake.assert_sent_once(double, 4).queue == "math"
    assert fake.assert_sent_once(double, 5).queue == "celery"
    fake.assert_sent("shop.double", 3)
    fake.assert_sent(add, x=1, y=2)
    fake.assert_sent(add(3).with_options(queue="celery"))
    fake.assert_not_sent(double, 6)
    with pytest.raises(AssertionError, match=r"shop\.double\(3\) was sent 2 times"):
        fake.assert_sent_once(double, 3)
    assert [(call.task, *call.args) for call in fake.calls] == [
        ("shop.double", 3),
        ("shop.double", 4),
        ("shop.double", 3),
        ("shop.add", 1, 2),
        ("shop.add", 3),
        ("shop.double", 5),
    ]
    assert [sent.task for sent in fake.sent] == ["celery.starmap", "celery.starmap", "shop.double"]
    fake.assert_sent("celery.starmap", ...)


# What the worker is told.


@pytest.mark.parametrize(
    "function",
    [
        lambda name, steps=5, *, fast=False: "x",
        lambda n, s=1, *, fast=None: "x",  # Other names of positional arguments, and other defaults.
        lambda name, steps=5, extra=7, **_: "x",
        lambda *_, **__: "x",
        mock.Mock(return_value="x"),
        functools.partial(lambda a, name, steps=5, **_: "x", 1),
    ],
)
def test_a_function_that_takes_what_is_declared_is_taken(fake, function):
    fake.task(resize, function)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda name, *, fast=False: "x", r"\(name, steps\): too many positional arguments"),
        (lambda name, steps, *, fast=False: "x", r"\(name\): missing a required .*'steps'"),
        (lambda name, steps=5: "x", r"\(name, fast=\.\.\.\): got an unexpected keyword argument 'fast'"),
        (lambda name, steps=5, *, fast: "x", r"\(name\): missing a required .*'fast'"),
        (lambda name, steps=5, *, fast=False, size: "x", r"\(name\): missing a required .*'size'"),
        (lambda: "x", r"\(name\): too many positional arguments"),
    ],
)
def test_a_function_that_does_not_take_what_is_declared_is_refused(fake, function, why):
    with pytest.raises(
        TypeError, match=rf"the function \(.*\) does not fit <RemoteTask shop\.resize.*>: called with {why}$"
    ):
        fake.task(resize, function)


@virtual
async def test_of_a_bound_function_the_running_task_is_left_out(fake):
    def progress(task: FakeTask, name: str, steps: int = 5, *, fast: bool = False) -> str:
        return task.request.task

    fake.task(resize, progress, bind=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fast'"):
        fake.task(resize, lambda task, name, steps=5: "x", bind=True)
    async with CeleryClient(transport=fake) as client:
        assert await client.call(resize("dog")) == "shop.resize"


def test_a_function_that_does_not_tell_its_parameters_is_taken():
    FakeCelery().task(remote_task("shop.most")(lambda *numbers: 0), max)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (str, ["x"], [5, ["x"], {}]),
        ("int", [5], ["5", True, 5.0]),
        (float, [5, 5.5], ["5", True]),
        (bool, [True], [1, "x"]),
        (list[int], [[], [1], (1, 2)], ["x", ["x"], {1: 2}]),
        (tuple[int, str], [(1, "x"), [1, "x"]], ["x"]),
        (dict[str, int], [{}, {"a": 1}], [[], "x"]),
        ("str | None", ["x"], [5]),
        (list["str | int"], [["x", 1]], [[None]]),
        (Literal["in", "out"], ["in"], ["on", 5]),
        ("Any", ["x", 5, [1]], []),
        ("Unknown", ["x", 5], []),
        (Signature, ["x", 5], []),
    ],
)
def test_a_fixed_answer_is_compared_with_what_the_task_is_declared_to_return(fake, annotation, good, bad):
    def stub() -> None: ...

    stub.__annotations__["return"] = annotation
    task = remote_task("shop.stub")(stub)
    for value in good:
        fake.task(task, returns=value)
    for value in bad:
        with pytest.raises(TypeError, match=r"<RemoteTask shop\.stub\(\).* does not answer returns="):
            fake.task(task, returns=value)
        fake.task(task, lambda value=value: value)


def test_a_fixed_answer_must_be_one_that_the_task_decodes(fake):
    fake.task(colours, returns=["red"])
    with pytest.raises(TypeError, match=r"shop\.colours.* cannot decode returns=5: 'int' object is not iterable"):
        fake.task(colours, returns=5)
    fake.task(double, returns="what is not known is not compared")


# The functions of a worker.


class Bound:
    """A task of Celery's kind: what it calls is `run`."""

    def run(self, name, steps=5, *, fast=False): ...

    def __call__(self, *args, **kwargs): ...


WORKER = {
    "shop.resize": Bound(),
    "shop.add": lambda x, y=1, z=None: x + y,
    "shop.colours": lambda *names, **more: list(names),
    "shop.double": lambda anything, at_all: None,
    "shop.more": lambda: None,
}


def test_declared_tasks_that_the_workers_functions_take_are_fine():
    check_declared([resize, add, colours, double], WORKER)
    module = types.ModuleType("stubs")
    module.__dict__.update(resize=resize, add=add, other=5, RemoteTask=RemoteTask)
    check_declared(module, WORKER)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda name, steps=5: None, r"called with \(name=\.\.\., .*\): got an unexpected keyword argument 'fast'"),
        (types.SimpleNamespace(run=lambda name, steps=5: None), "called with .*: got an unexpected .* 'fast'"),
        (lambda name, steps=6, *, fast=False: None, "its default of steps is 6"),
        (lambda name, steps=5, *, fast=True: None, "its default of fast is True"),
        (lambda title, steps=5, *, fast=False: None, r"called with \(name=\.\.\.\): missing a required .*'title'"),
        (lambda title=1, steps=5, *, fast=False, **_: None, "it has title in the place of name"),
        (lambda steps=5, name=5, *, fast=False: None, r"called with \(name, .*\): multiple values for .*'steps'"),
        (lambda name, /, steps=5, *, fast=False: None, r"called with \(name=\.\.\.\): .*positional.only.*"),
        (lambda name=1, /, steps=5, **_: None, "it takes name by position only|called with .*positional.only.*"),
        (lambda *args, fast=False: None, r"called with \(name=\.\.\.\): got an unexpected keyword argument 'name'"),
        (lambda name, steps=5, *, fast=False, how: None, r"called with \(name=\.\.\.\): missing a required .*'how'"),
        (lambda name, steps, *, fast=False: None, r"called with \(name=\.\.\.\): missing a required .*'steps'"),
    ],
)
def test_what_a_function_would_not_take_is_told(function, why):
    said = r"^1 of 2 declared tasks do not fit the worker's:\n    <RemoteTask shop\.resize\(.*> does not fit \(.*\): "
    with pytest.raises(AssertionError, match=f"{said}({why})$"):
        check_declared([resize, add], WORKER | {"shop.resize": function})


@pytest.mark.parametrize("function", [lambda *a, **k: None, lambda name, steps=5, size=1, **k: None])
def test_a_function_may_take_more_than_is_declared(function):
    check_declared([resize], {"shop.resize": function})


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda *names: None, r"called with \(\*\*more\): "),
        (lambda **more: None, r"called with \(\*names\): too many"),
        (lambda first, *names, **more: None, r"called with \(\): missing a required .*'first'"),
    ],
)
def test_any_number_of_arguments_must_be_taken_where_it_is_declared(function, why):
    with pytest.raises(AssertionError, match=why):
        check_declared([colours], {"shop.colours": function})


KINDS = [Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY]


@st.composite
def parameters(draw):
    """Parameters of any kinds, with names from few, so that two sets of them have some in common."""
    names = draw(st.lists(st.sampled_from("abcd"), max_size=3, unique=True))
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), min_size=len(names), max_size=len(names))))
    made, optional = [], False
    for name, kind in zip(names, kinds, strict=True):
        optional = draw(st.booleans()) or (optional and kind is not Parameter.KEYWORD_ONLY)
        made.append(Parameter(name, kind, default=0 if optional else Parameter.empty))
    if draw(st.booleans()):
        made.append(Parameter("rest", Parameter.VAR_POSITIONAL))
    if draw(st.booleans()):
        made.append(Parameter("more", Parameter.VAR_KEYWORD))
    return inspect.Signature(sorted(made, key=lambda each: each.kind))


def every_call(declared):
    """All calls that can be made. The value of each argument is its name."""
    listed = list(declared.parameters.values())
    kinds = {each.kind for each in listed}
    positional = [each.name for each in listed if each.kind in KINDS[:2]]
    by_name = [each.name for each in listed if each.kind in KINDS[1:]]
    for count in range(len(positional) + (9 if Parameter.VAR_POSITIONAL in kinds else 1)):
        args = [*positional, *"*********"][:count]
        options = [each for each in by_name if each not in args] + ["**"] * (Parameter.VAR_KEYWORD in kinds)
        for chosen in itertools.product([True, False], repeat=len(options)):
            kwargs = {name: name for name in itertools.compress(options, chosen)}
            try:
                declared.bind(*args, **kwargs)
            except TypeError:
                continue
            yield args, kwargs


def takes_every_call(declared, takes):
    """Whether a function takes each of them, and an argument in one place, by position or by name."""
    places = {}
    for args, kwargs in every_call(declared):
        try:
            bound = takes.bind(*args, **kwargs)
        except TypeError:
            return False
        for place, found in bound.arguments.items():
            if takes.parameters[place].kind is Parameter.VAR_KEYWORD:
                for sent in found:
                    places.setdefault(sent, set()).add("**")
            elif takes.parameters[place].kind is not Parameter.VAR_POSITIONAL:
                places.setdefault(found, set()).add(place)
    both = [each.name for each in declared.parameters.values() if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return all(places.get(name, set()) in (set(), {name}, {"**"}) for name in both)


@given(parameters(), parameters())
def test_a_function_fits_if_it_takes_every_call_that_the_declaration_allows(declared, takes):
    def function(): ...

    function.__signature__ = takes
    task = RemoteTask("shop.any", parameters=declared)
    try:
        check_declared([task], {"shop.any": function})
    except AssertionError:
        fits = False
    else:
        fits = True
    assert fits == takes_every_call(declared, takes)


def test_a_task_that_is_not_there_is_told():
    with pytest.raises(AssertionError) as caught:
        check_declared([double, add], {"shop.add": WORKER["shop.add"]})
    assert str(caught.value).endswith(
        "1 of 2 declared tasks do not fit the worker's:\n    RemoteTask('shop.double') is not there"
    )


@pytest.mark.parametrize("tasks", [[], types.ModuleType("empty"), [resize, "shop.add"]])
def test_what_are_no_declared_tasks_is_refused(tasks):
    with pytest.raises(TypeError, match="RemoteTask"):
        check_declared(tasks, WORKER)
