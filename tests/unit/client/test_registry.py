"""Who waits for what, and until when: a pure decision."""

from __future__ import annotations

import gc
import math
import weakref

import pytest

from fibo_client.celery.protocol.meta import TaskFailure, TaskMeta, pending
from fibo_client.celery.registry import GRACE, Registry, Waiter, last_look
from fibo_client.errors import ReadError, ResultDecodeError


class CountingWaiter(Waiter):
    """A waiter that counts how often it is told that it is over."""

    calls: list[int]


def success(task_id: str, value: object = 1) -> TaskMeta:
    return TaskMeta(task_id=task_id, state="SUCCESS", result=value)


def failure(task_id: str) -> TaskMeta:
    failed = TaskFailure(exc_type="ValueError", exc_module="builtins", exc_args=(), traceback=None)
    return TaskMeta(task_id=task_id, state="FAILURE", failure=failed)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def enter(registry):
    """Enter a waiter, and count how often it is told that it is over."""

    def make(*task_ids: str, deadline: float = math.inf, read_from: float = 0.0, **options) -> CountingWaiter:
        calls = []
        waiter = CountingWaiter(deadline, read_from, dict.fromkeys(task_ids), lambda: calls.append(1), **options)
        waiter.calls = calls
        registry.add(waiter)
        return waiter

    return make


def test_a_result_ends_the_wait(registry, enter):
    waiter = enter("a")
    assert registry.arrive("a", success("a")) == ["a"]
    assert waiter.over
    assert waiter.arrived == {"a": success("a")}
    assert waiter.calls == [1]
    assert len(registry) == 0


def test_the_same_result_coming_twice_counts_once(registry, enter):
    waiter = enter("a")
    registry.arrive("a", success("a", 1))
    assert registry.arrive("a", success("a", 2)) == []
    assert waiter.arrived["a"].result == 1
    assert waiter.calls == [1]


def test_a_result_that_nobody_waits_for_is_ignored(registry):
    assert registry.arrive("a", success("a")) == []


def test_states_that_are_not_final_are_told_once_each_and_end_nothing(registry, enter):
    changes = []
    waiter = enter("a", on_change=changes.append)
    started = TaskMeta(task_id="a", state="STARTED")
    retry = TaskMeta(task_id="a", state="RETRY")
    for state in (started, started, retry):
        assert registry.arrive("a", state) == []
    assert changes == [started, retry]
    assert not waiter.over


def test_an_error_in_place_of_a_result_ends_the_wait_of_that_task_alone(registry, enter):
    broken, fine = enter("a"), enter("b")
    registry.arrive("a", ResultDecodeError("not JSON", "a"))
    assert isinstance(broken.arrived["a"], ResultDecodeError)
    assert not fine.over


def test_all_who_wait_for_a_task_get_its_result(registry, enter):
    waiters = [enter("a") for _ in range(3)]
    registry.arrive("a", success("a"))
    assert all(waiter.over for waiter in waiters)


def test_a_wait_for_many_ends_with_the_last_of_them(registry, enter):
    waiter = enter("a", "b", "c")
    for task_id in "bca":
        assert not waiter.over
        registry.arrive(task_id, success(task_id))
    assert waiter.over
    assert waiter.calls == [1]


def test_a_failure_ends_a_wait_for_many_if_asked_to(registry, enter):
    waiter = enter("a", "b", "c", end_on_failure=True)
    other = enter("c")
    registry.arrive("a", success("a"))
    assert not waiter.over
    assert sorted(registry.arrive("b", failure("b"))) == ["b"]
    assert waiter.over
    assert list(waiter.missing) == ["c"]
    assert not other.over


def test_the_ids_freed_by_a_failure_are_told(registry, enter):
    enter("a", "b", end_on_failure=True)
    assert sorted(registry.arrive("a", failure("a"))) == ["a", "b"]


def test_an_abandoned_wait_frees_only_what_nobody_else_waits_for(registry, enter):
    leaving, staying = enter("a", "b"), enter("b")
    assert registry.discard(leaving) == ["a"]
    assert registry.discard(leaving) == []
    registry.arrive("b", success("b"))
    assert staying.over
    assert leaving.calls == []


def test_a_deadline_passes_only_after_a_last_look(registry, enter):
    waiter = enter("a", deadline=10.0, read_from=9.95)
    registry.looked(["a"], 9.0, absent=True)
    assert registry.expire(10.0, 100) == ([], False)
    assert not waiter.timed_out
    registry.looked(["a"], 9.96, absent=True)
    assert registry.expire(10.001, 100) == (["a"], False)
    assert waiter.timed_out
    assert waiter.calls == [1]


def test_a_last_look_that_does_not_come_back_is_waited_for_a_moment_only(registry, enter):
    waiter = enter("a", deadline=10.0, read_from=9.95)
    assert registry.expire(10.0, 100) == ([], False)
    assert registry.next_deadline() == 10.0 + GRACE
    registry.expire(10.0 + GRACE, 100)
    assert waiter.timed_out


def test_a_last_look_that_finds_the_answer_prevents_the_timeout(registry, enter):
    waiter = enter("a", deadline=10.0, read_from=9.95)
    registry.expire(10.0, 100)
    registry.arrive("a", success("a"))
    assert registry.expire(11.0, 100) == ([], False)
    assert waiter.over
    assert not waiter.timed_out


def test_last_looks_are_asked_for_in_time_and_once(registry, enter):
    enter("a", "b", deadline=10.0, read_from=9.95)
    enter("c", deadline=20.0, read_from=19.95)
    assert registry.next_look() == 9.95
    assert registry.last_looks(9.94) == ([], False)
    assert registry.last_looks(9.95) == (["a", "b"], True)
    assert registry.last_looks(9.96) == ([], False)
    assert registry.next_look() == 19.95


def test_a_single_look_is_nobodys_time_that_is_nearly_up(registry, enter):
    enter("a", deadline=10.0, read_from=0.0, once=True)
    assert registry.last_looks(0.0) == (["a"], False)


def test_a_wait_that_is_over_needs_no_last_look(registry, enter):
    enter("a", deadline=10.0, read_from=9.95)
    registry.arrive("a", success("a"))
    assert registry.next_look() is None
    assert registry.next_deadline() is None


def test_deadlines_pass_in_bounded_portions(registry, enter):
    waiters = [enter(str(number), deadline=10.0, read_from=9.0) for number in range(10)]
    registry.looked([str(number) for number in range(10)], 9.5, absent=True)
    for expected in ((4, True), (8, True), (10, False)):
        _, more = registry.expire(10.0, 4)
        assert (sum(waiter.timed_out for waiter in waiters), more) == expected


def test_a_timeout_keeps_the_last_state_seen(registry, enter):
    waiter = enter("a", deadline=10.0, read_from=9.0)
    registry.arrive("a", TaskMeta(task_id="a", state="STARTED"))
    registry.expire(11.0, 100)
    assert waiter.arrived["a"].state == "STARTED"
    assert list(waiter.missing) == ["a"]


def test_one_look_is_enough_for_who_asks_for_one(registry, enter):
    waiter, patient = enter("a", "b", once=True, read_from=5.0), enter("a")
    assert registry.looked(["a"], 5.0, absent=True) == []
    assert not waiter.over
    assert registry.looked(["b"], 5.0, absent=True) == ["b"]
    assert waiter.over
    assert waiter.arrived == {"a": pending("a"), "b": pending("b")}
    assert not patient.over


def test_a_look_that_began_before_the_question_does_not_answer_it(registry, enter):
    waiter = enter("a", once=True, read_from=5.0)
    registry.looked(["a"], 4.9, absent=True)
    assert not waiter.over


def test_who_asks_for_one_look_is_told_when_it_failed_and_the_others_wait_on(registry, enter):
    waiter, patient = enter("a", once=True), enter("a")
    error = ReadError("connection refused")
    assert registry.unreadable(["a", "b"], error) == []
    assert waiter.error is error
    assert waiter.calls == [1]
    assert not patient.over


def test_failing_everybody_ends_everybody_once(registry, enter):
    waiters = [enter("a", "b"), enter("b")]
    error = RuntimeError("closed")
    assert sorted(registry.fail(registry.everybody(), error)) == ["a", "b"]
    assert [waiter.error for waiter in waiters] == [error, error]
    assert [waiter.calls for waiter in waiters] == [[1], [1]]
    assert registry.everybody() == []


def test_memory_follows_what_is_awaited_now(registry, enter):
    for number in range(5000):
        waiter = enter(str(number), deadline=1e9 + number, read_from=1e9)
        registry.discard(waiter)
    assert len(registry) == 0
    assert len(registry._deadlines) + len(registry._looks) < 300


@pytest.mark.parametrize(("timeout", "expected"), [(10.0, 109.95), (0.06, 100.03), (0.1, 100.05)])
def test_the_last_look_is_shortly_before_the_deadline_or_half_way(timeout, expected):
    assert last_look(timeout, 100.0, 100.0 + timeout) == pytest.approx(expected)


def test_who_comes_later_is_told_the_state_that_was_seen(registry, enter):
    enter("a")
    started = TaskMeta(task_id="a", state="STARTED")
    registry.arrive("a", started)
    changes = []
    enter("a", on_change=changes.append)
    assert changes == [started]


def test_one_look_at_a_result_that_is_gone_does_not_tell_an_old_state(registry, enter):
    enter("a")
    registry.arrive("a", TaskMeta(task_id="a", state="STARTED"))
    waiter = enter("a", once=True)
    registry.looked(["a"], 1.0, absent=True)
    assert waiter.arrived["a"].state == "PENDING"


def test_the_answers_of_a_wait_that_is_over_are_not_kept_for_an_older_deadline(registry, enter):
    enter("slow", deadline=1.0)
    waiter = enter("a", deadline=2.0, read_from=1.9)
    registry.arrive("a", success("a"))
    kept = weakref.ref(waiter)
    del waiter
    gc.collect()
    assert kept() is None
    assert registry.next_deadline() == 1.0
