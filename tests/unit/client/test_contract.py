"""What client and worker agree on."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client import contract, errors


@given(st.integers(0, 2**5000))
def test_a_number_travels_as_lower_case_hexadecimal_text(value):
    text = contract.encode_number(value)
    assert contract.decode_number(text) == value
    assert set(text) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "text", [None, 55, "", "0x37", "0X37", "-37", "+37", "3_7", " 37", "37\n", "xyz", "٣", b"37", ["37"]]
)
def test_anything_else_is_not_a_number(text):
    with pytest.raises(ValueError):
        contract.decode_number(text)


def test_a_number_far_beyond_the_limit_of_decimal_text_travels():
    value = 3**100_000
    assert contract.decode_number(contract.encode_number(value)) == value


@pytest.mark.parametrize("n", [True, 1.0, "1", None, [1]])
def test_an_index_is_an_integer(n):
    with pytest.raises(TypeError, match="must be an integer"):
        contract.check_n(n)


@pytest.mark.parametrize(
    ("n", "said"), [(-1, "0 or more, not -1"), (11, "at most 10, not 11"), pytest.param(10**5000, "bits", id="huge")]
)
def test_an_index_lies_between_zero_and_the_largest(n, said):
    with pytest.raises(ValueError, match=said):
        contract.check_n(n, 10)
    assert [contract.check_n(good, 10) for good in (0, 10)] == [0, 10]


@pytest.mark.parametrize("answer", [None, [4], [4, 5], ["4", "x"], "ab", {"n": 4}])
def test_an_answer_of_the_wrong_shape_is_refused(answer):
    with pytest.raises(ValueError):
        contract.decode_fibo_task(answer)


@pytest.mark.parametrize("answer", [None, "2.0", True, [2.0]])
def test_a_root_is_a_number(answer):
    with pytest.raises(ValueError):
        contract.decode_sqrt(answer)
    assert contract.decode_sqrt(2) == 2.0


def test_a_chunk_carries_values_and_errors():
    failed = contract.encode_failure(ValueError("n must be 0 or more"))
    value, error = contract.decode_chunk(["37", failed])
    assert value == 55
    assert isinstance(error, errors.TaskFailedError)
    assert (error.exc_type, error.exc_args) == ("ValueError", ("n must be 0 or more",))


@pytest.mark.parametrize("answer", [None, "37", [None], [{"error": "x"}], [{"error": ["a", "b", "c"]}]])
def test_a_broken_chunk_is_refused(answer):
    with pytest.raises(ValueError):
        contract.decode_chunk(answer)


def test_errors_cross_a_process_boundary():
    error = errors.ResultTimeoutError(
        task="t", task_ids=["a", "b"], state="PENDING", waited=1.5, total=3, finished={0: 7}, reason="Why.", looks=3
    )
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.looks, again.published) == (3, None)
    assert (again.finished, again.task_ids) == ({0: 7}, ("a", "b"))
    failed = errors.TaskFailedError(
        task_id="a", task="t", exc_type="E", exc_module=None, exc_args=("x" * 5000,), traceback="Traceback ..."
    )
    again = pickle.loads(pickle.dumps(failed))
    assert again.exc_args == failed.exc_args
    assert len(str(again)) < 1000
    assert again.__notes__ == failed.__notes__
