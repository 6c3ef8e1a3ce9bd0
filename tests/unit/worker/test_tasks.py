import math

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from hypothesis import given
from hypothesis import strategies as st

from fibo_client import contract
from fibo_worker import tasks
from fibo_worker.fibonacci import fibonacci
from fibo_worker.tasks import CHUNK_BUDGET, register

NOT_INDEXES = [
    (-1, "ValueError", "n must be 0 or more, not -1"),
    (True, "TypeError", "n must be an integer, not bool"),
    (1.0, "TypeError", "n must be an integer, not float"),
    ("1", "TypeError", "n must be an integer, not str"),
    (None, "TypeError", "n must be an integer, not NoneType"),
    ([1], "TypeError", "n must be an integer, not list"),
    (1001, "ValueError", "n must be at most 1000, not 1001 (the worker's FIBO_MAX_N)"),
]
ERRORS = {"TypeError": TypeError, "ValueError": ValueError}


@pytest.fixture
def app():
    app = Celery("test", set_as_current=False)
    register(app, max_n=1000)
    return app


def run(app, name, *args, **options):
    return app.tasks[name].apply(args, **options)


def test_an_app_gets_the_four_tasks_of_the_contract(app):
    ours = {name for name in app.tasks if not name.startswith("celery.")}

    assert ours == {"fibo.fibonacci", "fibo.fibonacci_chunk", "tasks.fibo_task", "tasks.sqrt_task"}


def test_each_app_keeps_its_own_limit_and_its_own_tasks(app):
    other = Celery("other", set_as_current=False)
    register(other, max_n=10)
    bare = Celery("bare", set_as_current=False)

    assert run(app, "fibo.fibonacci", 11).get() == "59"
    with pytest.raises(ValueError, match="n must be at most 10, not 11"):
        run(other, "fibo.fibonacci", 11).get()
    assert "fibo.fibonacci" not in bare.tasks


def test_fibo_task_gives_the_value_and_a_sentence_with_its_own_id(app):
    result = run(app, "tasks.fibo_task", 10, task_id="the-id")

    assert result.get() == (10, "The Fibonacci calculated with task id the-id was 55")


def test_arguments_may_be_given_by_name(app):
    assert app.tasks["tasks.fibo_task"].apply(kwargs={"value": 4}).get()[0] == 4
    assert app.tasks["tasks.sqrt_task"].apply(kwargs={"value": 4}).get() == 2.0
    assert app.tasks["fibo.fibonacci"].apply(kwargs={"n": 4}).get() == "3"
    assert app.tasks["fibo.fibonacci_chunk"].apply(kwargs={"numbers": [4]}).get() == ["3"]


@given(st.integers(0, 5000))
def test_a_number_comes_back_through_the_contract(n):
    assert contract.decode_number(tasks.fibonacci_task(n)) == fibonacci(n)


@pytest.mark.parametrize(("value", "kind", "message"), NOT_INDEXES)
@pytest.mark.parametrize("name", ["fibo.fibonacci", "tasks.fibo_task"])
def test_what_is_no_index_fails_and_says_why(app, name, value, kind, message):
    with pytest.raises(ERRORS[kind]) as caught:
        run(app, name, value).get()

    assert str(caught.value) == message


def test_the_largest_number_that_is_allowed_is_computed(app):
    assert contract.decode_number(run(app, "fibo.fibonacci", 1000).get()) == fibonacci(1000)


def test_a_chunk_gives_every_number_in_order_and_repeats_what_is_repeated(app):
    answer = run(app, "fibo.fibonacci_chunk", [4, 3, 4, 0, 1000]).get()

    assert contract.decode_chunk(answer) == [3, 2, 3, 0, fibonacci(1000)]


@pytest.mark.parametrize(("value", "kind", "message"), NOT_INDEXES)
def test_in_a_chunk_what_is_no_index_fails_alone(app, value, kind, message):
    answer = run(app, "fibo.fibonacci_chunk", [10, value, 11]).get()

    assert answer == ["37", {"error": [kind, message]}, "59"]


def test_an_empty_chunk_gives_an_empty_list(app):
    assert run(app, "fibo.fibonacci_chunk", []).get() == []


def test_a_chunk_may_be_as_long_as_the_contract_says_and_no_longer(app):
    assert len(run(app, "fibo.fibonacci_chunk", [1] * contract.MAX_CHUNK).get()) == contract.MAX_CHUNK

    with pytest.raises(ValueError, match="at most 1000 numbers, not 1001"):
        run(app, "fibo.fibonacci_chunk", [1] * (contract.MAX_CHUNK + 1)).get()


@pytest.mark.parametrize("value", [5, "123", {"a": 1}, None])
def test_a_chunk_that_is_no_list_fails(app, value):
    with pytest.raises(TypeError, match="a chunk must be a list of integers"):
        run(app, "fibo.fibonacci_chunk", value).get()


def test_a_chunk_whose_answer_would_be_huge_is_refused_before_it_is_computed():
    with pytest.raises(ValueError, match=f"must add up to at most {CHUNK_BUDGET}, not {CHUNK_BUDGET + 1}"):
        tasks.fibonacci_chunk([CHUNK_BUDGET, 1])


def test_the_largest_number_fits_into_a_chunk_alone_also_if_it_is_above_the_usual_limit(monkeypatch):
    monkeypatch.setattr(tasks, "CHUNK_BUDGET", 10)

    assert len(tasks.fibonacci_chunk([1000], max_n=1000)) == 1
    with pytest.raises(ValueError, match="must add up to at most 1000"):
        tasks.fibonacci_chunk([1000, 1], max_n=1000)


def test_refused_numbers_do_not_count_towards_the_size_of_a_chunk():
    assert tasks.fibonacci_chunk([CHUNK_BUDGET + 1, 3])[1] == "2"


@pytest.mark.parametrize(("value", "root"), [(0, 0.0), (4, 2.0), (2, math.sqrt(2)), (0.25, 0.5), (10**300, 1e150)])
def test_the_square_root_is_a_float(app, value, root):
    answer = run(app, "tasks.sqrt_task", value).get()

    assert type(answer) is float
    assert answer == root


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("4", TypeError),
        (None, TypeError),
    ],
)
def test_what_has_no_square_root_fails(app, value, error):
    with pytest.raises(error, match="value must"):
        run(app, "tasks.sqrt_task", value).get()


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("fibo.fibonacci", (10**4000,), ValueError),
        ("fibo.fibonacci", ("9" * 10**6,), TypeError),
        ("fibo.fibonacci", range(100_000), TypeError),
        ("fibo.fibonacci_chunk", (["9" * 10**6],), None),
        ("fibo.fibonacci_chunk", ([[[]]] * 1000,), None),
        ("tasks.sqrt_task", (10**4000,), ValueError),
    ],
    ids=["digits", "text", "arguments", "chunk with a text", "odd chunk", "root of digits"],
)
def test_large_arguments_are_refused_in_few_words(app, name, args, error):
    result = run(app, name, *args)
    if error is None:
        assert {item["error"][0] for item in result.get()} == {"TypeError"}
        assert max(len(item["error"][1]) for item in result.get()) < 1000
    else:
        with pytest.raises(error) as caught:
            result.get()
        assert len(str(caught.value)) < 1000


def test_of_a_long_answer_the_log_has_only_the_beginning(app, caplog):
    caplog.set_level("INFO", "celery.app.trace")
    long = {"fibo.fibonacci_chunk": [1000] * 1000, "fibo.fibonacci": 1000, "tasks.fibo_task": 1000}
    for name, argument in long.items():
        build_tracer(name, app.tasks[name], app=app)("the-id", [argument], {}, {"id": "the-id"})

    assert len(caplog.messages) == 3
    for message in caplog.messages:
        assert "succeeded in" in message
        assert len(message) < 110
