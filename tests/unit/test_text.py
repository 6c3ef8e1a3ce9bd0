"""Whatever others wrote, what is shown of it is bounded and does nothing to a terminal or a log."""

import copy
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.hostile_text import ACTS, ESCAPES, TEXTS, acts, check

from fibo_client import errors
from fibo_client.celery import Cause, CeleryClient, Diagnosis, Signature, TaskFailure, TaskMeta, WorkerInfo
from fibo_client.text import (
    LONGEST,
    LONGEST_TRACEBACK,
    dataclass_repr,
    listed,
    partial_repr,
    printable,
    printable_lines,
    short_repr,
)


def test_plain_text_stays_as_it_is():
    for text in ("", "plain", "Zoë — ünïcode ✓ 日本語 👩‍👩‍👧 \u00a0", "a\\x1b"):
        assert printable(text) == text
    assert printable("x" * 50, 50) == "x" * 50


def test_what_acts_is_written_as_python_would_write_it():
    assert printable("a\x1b[2J\u202eb\ud800\n\x00é") == r"a\x1b[2J\u202eb\ud800\n\x00é"
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_what_is_too_long_is_cut_and_says_so():
    assert printable("x" * 100, 10) == "xxxxxxx..."
    assert printable("\x1b" * 3, 10) == r"\x1b\x1..."


def test_of_a_long_traceback_both_ends_are_shown():
    middle = "  middle\n"
    text = printable_lines(f"Traceback\n{middle * 100_000}ValueError: the end")
    assert text.startswith("Traceback\n  middle\n")
    assert text.endswith("  middle\nValueError: the end")
    assert "characters are left out here" in text
    assert printable_lines("a\n  b\tc\x1b\r\nd") == "a\n  b\\tc\\x1b\\r\nd"


def test_a_value_is_shown_by_the_beginning_of_its_repr_where_it_has_one():
    class Odd:
        def __repr__(self):
            raise OSError

    class Rude:
        def __repr__(self):
            return ESCAPES * 1000

    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert short_repr("x") == "'x'"
    assert short_repr("x" * 200) == "'" + "x" * 76 + "..."
    assert short_repr(deep) == "[" * 77 + "..."
    assert [short_repr(each) for each in (10**5000, Odd())] == ["<int>", "<Odd>"]
    check(short_repr(Rude()), 80)


def test_of_many_texts_some_are_shown_and_the_rest_is_counted():
    assert listed(["a", "b"], str) == "a, b"
    assert listed(range(100), str, most=3) == "0, 1, 2 and 97 more"


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary() | st.floats(),
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_the_beginning_of_a_value_is_that_of_its_repr(value):
    assert partial_repr(value, 10_000) == repr(value)
    assert partial_repr(value, 10) == repr(value) or len(partial_repr(value, 10)) > 10


@given(TEXTS, st.integers(4, 300))
@example("\u202e" * 100, 10)
def test_no_text_acts_or_is_longer_than_asked_for(text, longest):
    check(printable(text, longest), longest)
    check(short_repr(text, longest), longest)
    check(printable_lines(text, longest), longest + 60, "\n")
    assert acts(printable(text, None)) == []


ERRORS = {
    "PublishError": lambda text: errors.PublishError(text, [text]),
    "PublishUnknownError": lambda text: errors.PublishUnknownError(text, [text]),
    "NotReadyError": lambda text: errors.NotReadyError(1.0),
    "TooManyPendingError": lambda text: errors.TooManyPendingError(limit=1, pending=2, wanted=3),
    "ResultTimeoutError": lambda text: errors.ResultTimeoutError(
        task=text, task_ids=[text, text], state=text, waited=1.0, queue=text, total=2, reason=text, unread=text
    ),
    "TaskFailedError": lambda text: errors.TaskFailedError(
        task_id=text, task=text, exc_type=text, exc_module=text, exc_args=(text,) * 30, traceback=text, queue=text
    ),
    "TaskRevokedError": lambda text: errors.TaskRevokedError(task_id=text, task=text, reason=text, info=text),
    "ChunkRetriedError": lambda text: errors.ChunkRetriedError(task_id=text, task=text, info=text),
    "ResultDecodeError": lambda text: errors.ResultDecodeError(text, text),
}


def check_error(name, text):
    error = ERRORS.get(name, getattr(errors, name))(text)
    for each in (error, copy.copy(error)):
        for said in (str(each), f"{each}", *each.args):
            check(said, LONGEST)
        check(repr(each), LONGEST * 2)
        for note in getattr(each, "__notes__", []):
            check(note, LONGEST_TRACEBACK + 100, "\n")
        check("".join(traceback.format_exception(each)), LONGEST + LONGEST_TRACEBACK + 200, "\n")


@pytest.mark.parametrize("name", errors.__all__)
@given(text=TEXTS)
def test_no_error_acts_on_a_terminal_whatever_it_is_made_of(name, text):
    check_error(name, text)


@pytest.mark.parametrize("text", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("name", errors.__all__)
def test_no_error_is_endless(name, text):
    check_error(name, text)


def test_a_long_name_of_an_exception_hides_neither_its_arguments_nor_its_task():
    error = errors.TaskFailedError(
        task_id="id", task="t", exc_type="E" * 5_000_000, exc_module="m", exc_args=("why",), traceback="T"
    )
    assert "t[id] raised EEE" in str(error)
    assert str(error).endswith("...('why')")
    assert len(error.exc_type) == 5_000_000, "what came is kept as data"


def check_handles(text):
    failure = TaskFailure(exc_type=text, exc_module=text, exc_args=(text,) * 50, traceback=text)
    meta = TaskMeta(
        task_id=text, state=text, result={text: text}, failure=failure, name=text, worker=text, queue=text, args=[text],
        kwargs={text: text}, date_done=text, parent_id=text, children=[text],
    )  # fmt: skip
    client = CeleryClient("redis://localhost:1/0")
    handle = client.result("an-id", text)
    handle._meta = meta
    signature = Signature(text, (text,) * 50, {f"name-{k}": text for k in range(50)})
    names, elsewhere = (text,) * 50, {f"{k}{text}": text for k in range(7)}
    diagnoses = [
        Diagnosis(
            task_id=text, task=text, state=text, cause=cause, queue=text, guessed=True, depth=1,
            ahead=ahead, searched=True, sent=True, workers=names, silent=1, listening=names, registered=names,
            unregistered=names, held={text: text}, since=None, elsewhere=elsewhere,
        )
        for cause in Cause
        for ahead in (None, 0)
    ]  # fmt: skip
    for each in (failure, meta, handle, signature, WorkerInfo(text), client.inspect([text] * 50), *diagnoses):
        for said in (repr(each), str(each), f"{each}"):
            check(said, 3 * LONGEST)
    check(dataclass_repr(meta), 3 * LONGEST)


@given(TEXTS)
def test_no_handle_and_nothing_that_is_known_of_a_task_acts_on_a_terminal(text):
    check_handles(text)


@pytest.mark.parametrize("text", ACTS.values(), ids=ACTS)
def test_no_handle_is_endless(text):
    check_handles(text)
