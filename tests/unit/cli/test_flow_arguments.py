"""What ``fibo call`` reads of `--then` and `--flow`."""

from __future__ import annotations

import pytest
import typer

from fibo_client.celery import RemoteTask, chain, chord, group
from fibo_client.cli.flow_arguments import composed, read_flow, step_of

add = RemoteTask[..., int]("proj.add")
total = RemoteTask[..., int]("proj.total")


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("proj.add", add()),
        (" proj.add ", add()),
        ("proj.add [2]", add(2)),
        ('proj.add {"x": 2}', add(x=2)),
        ("proj.add  [ [1, 2], null ]", add([1, 2], None)),
    ],
)
def test_a_step_is_a_task_with_its_arguments_behind_it(text, step):
    assert step_of(text) == step


@pytest.mark.parametrize(
    ("text", "flow"),
    [
        ('"proj.add"', add()),
        ('{"task": "proj.add"}', add()),
        ('{"task": "proj.add", "args": [1], "kwargs": {"y": 2}}', add(1, y=2)),
        ('{"task": "proj.add", "options": {"queue": "math"}}', add().with_options(queue="math")),
        ('{"task": "proj.add", "immutable": true}', add().immutable()),
        ('{"chain": ["proj.add", "proj.total"]}', chain(add(), total())),
        ('{"group": ["proj.add", {"chain": ["proj.add", "proj.add"]}]}', group(add(), add() | add())),
        ('{"chain": [{"group": ["proj.add", "proj.add"]}, "proj.total"]}', chain(chord([add(), add()], total()))),
    ],
)
def test_a_flow_is_a_task_a_chain_or_a_group(text, flow):
    assert read_flow(text) == flow


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON"),
        ("5", "a flow is a task, as .*; not 5"),
        ("[]", "a flow is a task"),
        ('{"chain": []}', "a chain needs a step at least"),
        ('{"chain": [5]}', "; not 5"),
        ('{"chain": ["a"], "group": ["b"]}', "a flow is a task"),
        ('{"chain": ["a"], "queue": "b"}', "a flow is a task"),
        ('{"task": "a", "queue": "b"}', "a flow is a task"),
        ('{"task": 5}', "a flow is a task"),
        ('{"task": ""}', "1 to 1024 characters"),
        ('{"task": "a", "args": 5}', "a: args must be a list, not 5"),
        ('{"task": "a", "kwargs": []}', r"a: kwargs must be an object, not \[\]"),
        ('{"task": "a", "options": []}', "a: options must be an object"),
        ('{"task": "a", "options": {"prio": 5}}', "a: 'prio' is not an option"),
        ('{"task": "a", "options": {"link": "b"}}', "a: link must be a signature"),
        ('{"task": "a", "immutable": 1}', "a: immutable must be true or false, not 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"chain": [' * 5000 + '"a"' + "]}" * 5000, "nested too deeply"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_flow_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        read_flow(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, [], {}, (), None), "say which TASK to call"),
        ((None, [], {}, ("a",), None), "say which TASK to call"),
        (("a", [], {}, (), "flow.json"), "--flow says all that is run"),
        ((None, [], {}, ("a",), "flow.json"), "--flow says all that is run"),
        ((None, [], {}, (), "no-such-file.json"), "--flow no-such-file.json cannot be read: No such file"),
        (("a", [], {}, ("b 5",), None), "--then b: the arguments are a list or an object, as in --then 'b [2]'"),
        (("a", [], {}, ("b [5",), None), "--then b: what follows the name is not JSON"),
        (("a", [], {}, ("",), None), "1 to 1024 characters"),
    ],
)
def test_what_cannot_be_run_is_a_usage_error(given, said, capsys):
    with pytest.raises(typer.Exit) as caught:
        composed(*given)
    assert caught.value.exit_code == 2
    assert said in capsys.readouterr().err


def test_a_task_alone_is_itself_and_with_others_a_chain(tmp_path):
    assert composed("proj.add", [1], {"y": 2}, (), None) == add(1, y=2)
    assert composed("proj.add", [1, 2], {}, ("proj.add [3]", "proj.total"), None) == chain(add(1, 2), add(3), total())
    path = tmp_path / "flow.json"
    path.write_text('{"group": ["proj.add"]}')
    assert composed(None, [], {}, (), str(path)) == group(add())
