"""The stubs of an app's tasks: what their text is, and what has changed since it was written."""

import ast
import dataclasses
import functools
import inspect
from datetime import timedelta
from types import SimpleNamespace

import pytest
from support.signatures import SIGNATURES, App, Task, function

from fibo_client.celery import RemoteTask
from fibo_client.cli.stubs.drift import differences
from fibo_client.cli.stubs.names import function_names
from fibo_client.cli.stubs.reading import is_written_here, read_stubs
from fibo_client.cli.stubs.tasks import stubs_of
from fibo_client.cli.stubs.writing import module_text


def text(app):
    return module_text(stubs_of(app)[0], "shop.tasks:app")


def stub_of(run, **attributes):
    (found,), _ = stubs_of(App(task=Task(run, **attributes)))
    return found


def definition(module):
    """The first stub of a module, on one line."""
    (node, *_) = (each for each in ast.parse(module).body if isinstance(each, ast.FunctionDef))
    return ast.unparse(node)


# Signatures.


@pytest.mark.parametrize("postponed", [False, True], ids=["", "postponed"])
@pytest.mark.parametrize(("signature", "expected"), SIGNATURES)
def test_a_stub_has_the_parameters_and_the_result_as_far_as_json_carries_them(signature, expected, postponed):
    run = function(signature, postponed=postponed)
    written = text(App({"task": Task(run)}))
    assert definition(written) == ast.unparse(ast.parse(f"@remote_task('task')\ndef task{expected}: ..."))
    assert f"def task{expected}: ..." in written or len(expected) > 100


@pytest.mark.parametrize(("signature", "_"), SIGNATURES)
def test_what_was_written_is_read_back_without_a_difference(signature, _):
    found, _ = stubs_of(App({"task": Task(function(signature))}))
    assert differences(read_stubs(module_text(found, "a:app")), found) == []


@pytest.mark.parametrize(("signature", "_"), SIGNATURES)
def test_a_module_of_stubs_is_imported_and_its_tasks_take_what_the_app_takes(signature, _):
    run = function(signature)
    names = {}
    exec(text(App({"task": Task(run)})), names)
    assert isinstance(names["task"], RemoteTask)
    theirs, ours = inspect.signature(run), names["task"].parameters
    assert [(each.name, each.kind) for each in ours.parameters.values()] == [
        (each.name, each.kind) for each in theirs.parameters.values()
    ]


def test_what_wraps_a_task_leaves_its_signature():
    run = function("(a: int, b: str = 'x') -> int")

    @functools.wraps(run)
    def retried(*args, **kwargs):
        return run(*args, **kwargs)

    assert stub_of(retried) == stub_of(run)


def test_a_task_without_a_signature_takes_anything():
    assert "def task(*args: Any, **kwargs: Any) -> Any:" in definition(text(App({"task": Task(min)})))


def test_what_is_longer_than_a_line_is_any_because_its_place_would_depend_on_a_formatter():
    choices = ", ".join(repr(letter * 25) for letter in "abcdef")
    found = stub_of(function(f"(a: Literal[{choices}], b=('{'x' * 60}',), {'c' * 50}: int = 5) -> Literal[{choices}]"))
    assert [each.annotation for each in found.parameters] == ["Any", "Any", "int"]
    assert found.returns == "Any"
    assert found.parameters[1].default == f'("{"x" * 60}",)'


def test_a_task_of_which_no_stub_can_be_declared_is_left_out_with_the_reason():
    app = App({"bound": Task(function("(self, x)")), "a\nb": Task(function("()")), "": Task(function("()"))})
    found, notes = stubs_of(app)
    assert found == []
    assert notes == [
        ": it has no stub, because task must have 1 to 1024 characters, not 0",
        "a\\nb: it has no stub, because task='a\\nb' holds a character that cannot be printed; remove it",
        "bound: it has no stub, because it takes `self` from its caller; is bind=True missing?",
    ]


# Names.


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (["shop.tasks.total"], ["total"]),
        (["total"], ["total"]),
        (["shop.tasks.class", "shop.tasks.None"], ["None_", "class_"]),
        (["a.list", "a.datetime", "a.Any", "a.remote_task"], ["Any_", "datetime_", "list_", "remote_task_"]),
        (["a.send-mail", "a.2fa", "a.é", "a._hidden", "a.!"], ["send_mail", "task_2fa", "é", "task_hidden", "task_"]),
        (["a.send", "b.send"], ["a_send", "b_send"]),
        (["a.x.send", "b.x.send", "c.send"], ["a_x_send", "b_x_send", "c_send"]),
        (["send", "b.send"], ["b_send", "send"]),
        (["b_send", "b.send", "c.send"], ["b_send", "b_send_2", "c_send"]),
        (["a.b-c", "a.b_c", "a.b c"], ["a_b_c", "a_b_c_2", "a_b_c_3"]),
        (["x-2", "x_2", "x.2"], ["x_2", "x_2_2", "task_2"]),
    ],
)  # fmt: skip
def test_a_name_is_valid_and_unique_and_the_same_in_whatever_order_the_tasks_come(tasks, expected):
    names = function_names(tasks)
    assert sorted(names.values()) == sorted(expected)
    assert function_names(reversed(tasks)) == names
    assert all(name.isidentifier() for name in names.values())


# Options.


def options(app):
    (found,), notes = stubs_of(app)
    return dict(found.options), notes


def test_options_are_those_that_celery_would_send():
    def run(): ...

    task = Task(run, queue="media", priority=3, expires=60, time_limit=5)
    assert options(App(task=task)) == ({"queue": '"media"', "priority": "3", "expires": "60"}, [])
    assert options(App(task=Task(run, compression="gzip"))) == ({"compression": '"gzip"'}, [])
    assert options(App(task=Task(run, compression="zstd", priority=True))) == ({}, [])
    assert options(App(task=Task(run, priority=255, expires=-1))) == ({}, [])
    assert options(App(task=Task(run, priority=0, expires=1e16))) == ({"priority": "0", "expires": "1e16"}, [])
    assert options(App(task=Task(run, expires=timedelta(minutes=1)))) == ({"expires": "60.0"}, [])


def test_a_time_limit_is_the_routes_alone_because_a_worker_knows_that_of_its_task():
    app = App(task=Task(lambda: None, time_limit=5), route=lambda *_, **__: {"time_limit": 9, "soft_time_limit": 8.5})
    assert options(app) == ({"time_limit": "9", "soft_time_limit": "8.5"}, [])


def test_the_queue_is_named_unless_it_is_the_one_that_clients_take():
    queue = SimpleNamespace(name="media")
    task = Task(lambda: None)
    assert options(App(task=task, route=lambda *_, **__: {"queue": queue})) == ({"queue": '"media"'}, [])
    assert options(App(task=task, route=lambda *_, **__: {"queue": "celery"})) == ({}, [])
    assert options(App(task=task, default_queue="shop")) == ({"queue": '"shop"'}, [])


def test_what_a_stub_cannot_say_of_a_route_is_told():
    def by_arguments(given, name, task_type):
        raise IndexError("no arguments")

    said, (note,) = options(App(task=Task(lambda: None, priority=3), route=by_arguments))
    assert said == {"priority": "3"}
    assert note == (
        "task: its route depends on more than its name (IndexError('no arguments')), "
        "and its stub has only what the task itself says"
    )
    by_key = App(task=Task(lambda: None), route=lambda *_, **__: {"exchange": "media", "routing_key": "video"})
    said, (note,) = options(by_key)
    assert (said, "names an exchange or a routing key" in note) == ({}, True)


# The module.


def test_a_module_has_what_it_needs_and_each_task_but_celerys_own_by_its_name():
    first = function("(steps: list[int], when: datetime, how: Literal['a']) -> Decimal")
    app = App({"z.last": Task(lambda: None), "celery.chord": Task(lambda: None), "a.first": Task(first, doc="Do it.")})
    assert text(app) == (
        '''"""The Celery tasks of shop.tasks:app. Written by fibo stubs; do not edit."""

# mypy: disable-error-code="empty-body"
# pyright: basic

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from fibo_client.celery import remote_task


@remote_task("a.first")
def first(steps: list[int], when: datetime, how: Literal["a"]) -> Decimal:
    """Do it."""
    ...


@remote_task("z.last")
def last() -> Any: ...
'''
    )


def test_a_name_in_a_text_needs_no_import():
    assert "import datetime" not in text(App({"task": Task(function("(a: Literal['datetime']) -> int"))}))


@pytest.mark.parametrize(
    "doc",
    ['"quoted"', 'it says "hi"', 'a """ b', '"', '""""', "\\", '\\"', 'x\\"""', "it's \\x1b", "é", "x" * 100],
)
def test_the_first_line_of_a_docstring_is_kept_whatever_is_in_it(doc):
    written = text(App({"task": Task(lambda: None, doc=f"\n    {doc}\n    and more")}))
    (node,) = (each for each in ast.parse(written).body if isinstance(each, ast.FunctionDef))
    assert ast.get_docstring(node, clean=False) == doc


def test_a_docstring_holds_no_control_characters_and_is_a_line_long_at_most():
    assert stub_of(lambda: None, doc="red\x1b[31m").doc == "red\\x1b[31m"
    assert stub_of(lambda: None, doc="word " * 100).doc == "word " * 19 + "..."
    assert stub_of(lambda: None, doc="\n").doc == ""


def test_only_what_the_command_wrote_may_be_overwritten():
    assert is_written_here(text(App()))
    assert is_written_here("\n")
    assert not is_written_here('"""My own module, not written by fibo stubs."""\n')
    assert not is_written_here("import os\n# Written by fibo stubs\n")


# Drift.


def changed(before, after):
    """What is said of a task whose signature has changed."""
    stubs = [[dataclasses.replace(stub_of(function(each)), task="t")] for each in (before, after)]
    said = [each.text for each in differences(*stubs)]
    assert differences(stubs[1], stubs[1]) == []
    return said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("(a)", "(a)", []),
        ("(a)", "(b)", ["the parameter a is called b now"]),
        ("(a)", "(a, b)", ["there is a new parameter: b: Any"]),
        ("(a, b: int = 5)", "(a)", ["the parameter b is gone"]),
        ("(a)", "(b: int)", ["the parameter a is gone", "there is a new parameter: b: int"]),
        ("(a: int)", "(a: str)", ["the type of a is str, and was int"]),
        ("(a=5)", "(a=6)", ["the default of a is 6, and was 5"]),
        ("(a)", "(a=6)", ["the default of a is new: 6"]),
        ("(a=5)", "(a)", ["the default of a is gone; it was 5"]),
        ("(a=len)", "(a=min)", []),
        ("(a)", "(*, a)", ["the parameter a is keyword-only now, and was positional or keyword"]),
        ("(a, b)", "(b, a)", ["the parameters are in another order: b, a"]),
        ("(a, b, c)", "(a, c)", ["the parameter b is gone"]),
        ("(a, b, c)", "(a, x, c)", ["the parameter b is called x now"]),
        ("(a) -> int", "(a) -> str", ["the result is str, and was int"]),
        (
            "(a, *args)",
            "(a: int = 1, **kwargs) -> str",
            [
                "the parameter args is gone",
                "the type of a is int, and was Any",
                "the default of a is new: 1",
                "there is a new parameter: **kwargs: Any",
                "the result is str, and was Any",
            ],
        ),
    ],
)
def test_a_changed_task_is_told_of_argument_by_argument(before, after, said):
    assert changed(before, after) == said


def test_tasks_that_have_come_or_gone_are_told_of_and_so_are_options_and_names():
    def run(): ...

    before, _ = stubs_of(App({"a.x": Task(run, queue="q"), "b.y": Task(run), "c.z": Task(run, priority=1)}))
    after, _ = stubs_of(App({"a.x": Task(run, queue="r"), "b.w": Task(run), "c.z": Task(run), "d.z": Task(run)}))
    assert [tuple(each) for each in differences(before, after)] == [
        ("a.x", 'the option queue is "r", and was "q"'),
        ("b.w", "is a new task"),
        ("b.y", "the app has no such task any more"),
        ("c.z", "its stub is called c_z, and was z"),
        ("c.z", "the option priority is gone; it was 1"),
        ("d.z", "is a new task"),
    ]


def test_how_a_module_is_laid_out_and_what_somebody_added_is_no_difference():
    by_hand = """
from fibo_client import celery

@remote_task('task',
             chunkable=True, queue='media', decode=frozenset)
def task(a: 'no type at all' , b: Literal['x']='x', *, c: dict[
        str, int] = {'a' : 1e+16}) -> "Any": pass

@another("task")
def other(): ...
"""
    signature = "(a: 'list', b: Literal['x'] = 'x', *, c: dict[str, int] = {'a': 1e16})"
    app = App(task=Task(function(signature), queue="media"))
    now, _ = stubs_of(app)
    assert [each.text for each in differences(read_stubs(by_hand), now)] == [
        "the type of a is list[Any], and was 'no type at all'",
        "the default of c is ..., and was {'a': 1e+16}",
        "the result is Any, and was 'Any'",
    ]


def test_no_code_of_the_module_is_run():
    assert read_stubs("raise SystemExit\n@remote_task(exit())\ndef f(a=exit()) -> exit(): ...") == []
