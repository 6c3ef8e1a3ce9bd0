"""Who waits for what, and until when: a pure decision."""

from __future__ import annotations

import gc
import sys

import pytest

from fibo_client.celery.pending import DEADLINE_GRACE, MAX_OVER, PendingTasks, Wait
from fibo_client.celery.protocol.meta import TaskFailure, TaskMeta, pending
from fibo_client.errors import ReadError, ResultDecodeError


class Bell:
    """In place of a future: counts how often it is rung."""

    def __init__(self) -> None:
        self.rings = 0

    def done(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        self.rings += 1


class Table:
    """The table, by ids."""

    def __init__(self) -> None:
        self.tasks = PendingTasks()

    def arrive(self, task_id, answer):
        return ids(self.tasks.arrive(self.tasks.get(task_id), answer))

    def leave(self, wait):
        return ids(self.tasks.leave(wait))

    def note_read(self, task_ids, began, *, absent=False):
        return ids(self.tasks.note_read([self.tasks.get(task_id) for task_id in task_ids], began, absent=absent))

    def advance(self, now, limit=100):
        due = self.tasks.advance(now, limit)
        return ids(due.last_looks), due.is_late, ids(due.free), due.more


def ids(tasks):
    return [task.id for task in tasks]


def success(task_id: str, value: object = 1) -> TaskMeta:
    return TaskMeta(task_id=task_id, state="SUCCESS", result=value)


def failure(task_id: str) -> TaskMeta:
    failed = TaskFailure(exc_type="ValueError", exc_module="builtins", exc_args=(), traceback=None)
    return TaskMeta(task_id=task_id, state="FAILURE", failure=failed)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def enter(table):
    """Enter a wait."""

    def make(*task_ids: str, timeout: float | None = None, now: float = 0.0, **options) -> Wait:
        wait = Wait(Bell(), now, timeout, **options)
        table.tasks.enter(wait, task_ids)
        return wait

    return make


def test_a_result_ends_the_wait(table, enter):
    waiter = enter("a")
    assert table.arrive("a", success("a")) == ["a"]
    assert waiter.over
    assert waiter.arrived == {"a": success("a")}
    assert waiter.future.rings == 1
    assert len(table.tasks) == 0


def test_the_same_result_coming_twice_counts_once(table, enter):
    waiter = enter("a")
    table.arrive("a", success("a", 1))
    assert "a" not in table.tasks
    assert waiter.arrived["a"].result == 1
    assert waiter.future.rings == 1


def test_states_that_are_not_final_are_told_once_each_and_end_nothing(table, enter):
    waiter, other = enter("a", wants_changes=True), enter("a")
    started = TaskMeta(task_id="a", state="STARTED")
    retry = TaskMeta(task_id="a", state="RETRY")
    for state, seen in ((started, [started]), (started, [started]), (retry, [started, retry])):
        assert table.arrive("a", state) == []
        assert (list(waiter.changes), waiter.future.rings) == (seen, len(seen))
    assert (other.changes, other.future.rings) == (None, 0)
    assert not waiter.over


def test_an_error_in_place_of_a_result_ends_the_wait_of_that_task_alone(table, enter):
    broken, fine = enter("a"), enter("b")
    table.arrive("a", ResultDecodeError("not JSON", "a"))
    assert isinstance(broken.arrived["a"], ResultDecodeError)
    assert not fine.over


def test_all_who_wait_for_a_task_get_its_result(table, enter):
    waiters = [enter("a") for _ in range(3)]
    table.arrive("a", success("a"))
    assert all(waiter.over for waiter in waiters)


def test_a_wait_for_many_ends_with_the_last_of_them(table, enter):
    waiter = enter("a", "b", "c")
    for task_id in "bca":
        assert not waiter.over
        table.arrive(task_id, success(task_id))
    assert waiter.over
    assert list(waiter.arrived) == ["b", "c", "a"]


def test_a_failure_ends_a_wait_for_many_if_asked_to(table, enter):
    waiter = enter("a", "b", "c", end_on_failure=True)
    other = enter("c")
    table.arrive("a", success("a"))
    assert not waiter.over
    assert sorted(table.arrive("b", failure("b"))) == ["b"]
    assert waiter.over
    assert list(waiter.missing) == ["c"]
    assert not other.over


def test_a_wait_is_over_when_the_answers_came_that_are_enough(table, enter):
    wait = enter("first", "last")
    wait.enough = {"last"}
    assert not wait.has_enough
    assert table.arrive("last", success("last")) == ["last", "first"]
    assert wait.over
    assert wait.has_enough
    assert list(wait.missing) == ["first"]


def test_answers_that_are_not_wanted_wake_nobody_until_it_is_over(table, enter):
    wait = enter("first", "second", "last")
    wait.enough = {"last"}
    table.arrive("first", success("first"))
    assert (wait.future.rings, wait.over) == (0, False)
    table.arrive("last", success("last"))
    assert (wait.future.rings, wait.over) == (1, True)
    assert wait.arrived.keys() == {"first", "last"}


def test_a_failure_that_ends_a_wait_wakes_it_although_it_is_not_wanted(table, enter):
    wait = enter("first", "last")
    wait.enough, wait.end_on_failure = {"last"}, True
    table.arrive("first", failure("first"))
    assert (wait.future.rings, wait.over) == (1, True)


def test_waits_that_share_what_is_enough_are_each_over_when_it_came(table, enter):
    one, two = enter("a", "b"), enter("c", "d")
    one.enough = two.enough = {"b", "d"}
    table.arrive("b", success("b"))
    assert not one.over
    table.arrive("d", success("d"))
    assert two.over
    assert one.has_enough


def test_the_ids_freed_by_a_failure_are_told(table, enter):
    enter("a", "b", end_on_failure=True)
    assert sorted(table.arrive("a", failure("a"))) == ["a", "b"]


def test_an_abandoned_wait_frees_only_what_nobody_else_waits_for(table, enter):
    leaving, staying = enter("a", "b"), enter("b")
    assert table.leave(leaving) == ["a"]
    assert table.leave(leaving) == []
    table.arrive("b", success("b"))
    assert staying.over
    assert leaving.future.rings == 0


def test_a_deadline_passes_only_after_a_last_look(table, enter):
    waiter = enter("a", timeout=10.0)
    table.note_read(["a"], 9.0, absent=True)
    assert table.advance(10.0)[2:] == ([], False)
    assert not waiter.timed_out
    table.note_read(["a"], 9.96, absent=True)
    assert table.advance(10.001)[2:] == (["a"], False)
    assert waiter.timed_out
    assert waiter.future.rings == 1


def test_a_last_look_that_does_not_come_back_is_waited_for_a_moment_only(table, enter):
    waiter = enter("a", timeout=10.0)
    assert table.advance(10.0)[2:] == ([], False)
    assert table.tasks.next_moment() == 10.0 + DEADLINE_GRACE
    table.advance(10.0 + DEADLINE_GRACE)
    assert waiter.timed_out


def test_a_last_look_that_begins_late_is_waited_for_as_long(table, enter):
    waiter = enter("a", timeout=10.0)
    assert table.advance(11.0) == (["a"], True, [], False)  # The event loop was held up.
    table.advance(11.0 + DEADLINE_GRACE / 2)
    assert not waiter.timed_out
    table.advance(11.0 + DEADLINE_GRACE)
    assert waiter.timed_out


def test_an_answer_that_is_being_decoded_is_waited_for(table, enter):
    waiter = enter("a", timeout=10.0)
    waiter.missing["a"].is_decoding = True
    for now in (10.0, 10.0 + DEADLINE_GRACE, 10.0 + 2 * DEADLINE_GRACE):
        assert table.advance(now)[2:] == ([], False)
    assert not waiter.over
    waiter.missing["a"].is_decoding = False
    table.advance(10.0 + 3 * DEADLINE_GRACE)
    assert waiter.timed_out


def test_a_wait_ends_when_the_last_of_its_tasks_was_looked_at_or_has_its_answer(table, enter):
    waiter = enter("a", "b", timeout=10.0)
    table.advance(10.0)
    table.note_read(["a"], 9.96, absent=True)
    assert table.advance(10.001)[2:] == ([], False)
    table.arrive("b", success("b"))
    assert table.advance(10.002)[2:] == (["a"], False)
    assert waiter.timed_out
    assert list(waiter.arrived) == ["b"]


def test_a_last_look_that_finds_the_answer_prevents_the_timeout(table, enter):
    waiter = enter("a", timeout=10.0)
    table.advance(10.0)
    table.arrive("a", success("a"))
    assert table.advance(11.0)[2:] == ([], False)
    assert waiter.over
    assert not waiter.timed_out


def test_last_looks_are_asked_for_in_time_and_once(table, enter):
    enter("a", "b", timeout=10.0)
    enter("c", timeout=20.0)
    assert table.tasks.next_moment() == 9.95
    assert table.advance(9.94)[:2] == ([], False)
    assert table.advance(9.95)[:2] == (["a", "b"], True)
    assert table.advance(9.96)[:2] == ([], False)
    assert table.tasks.next_moment() == 10.0
    table.advance(10.0)
    table.advance(10.0 + DEADLINE_GRACE)
    assert table.tasks.next_moment() == 19.95


def test_a_single_look_is_nobodys_time_that_is_nearly_up(table, enter):
    enter("a", timeout=10.0, once=True)
    assert table.advance(0.0)[:2] == (["a"], False)


def test_a_wait_for_nothing_ends_at_its_deadline_or_when_it_is_finished(table, enter):
    late, done = enter(timeout=10.0), enter(timeout=10.0)
    table.tasks.finish(done)
    assert (done.over, done.future.rings) == (True, 1)
    assert table.advance(10.0) == ([], False, [], False)
    assert (late.timed_out, done.timed_out) == (True, False)


def test_a_wait_that_is_over_needs_no_last_look(table, enter):
    enter("a", timeout=10.0)
    table.arrive("a", success("a"))
    assert table.tasks.next_moment() is None


def test_deadlines_pass_in_bounded_portions(table, enter):
    waiters = [enter(str(number), timeout=10.0) for number in range(10)]
    for expected in (True, True, False):
        assert table.advance(9.95, 4)[3] is expected
    table.note_read([str(number) for number in range(10)], 9.96, absent=True)
    for expected in ((4, True), (8, True), (10, False)):
        *_, more = table.advance(10.0, 4)
        assert (sum(waiter.timed_out for waiter in waiters), more) == expected


def test_a_wait_for_many_tasks_counts_as_many(table, enter):
    for start in (0, 4, 8):
        enter(*(str(start + number) for number in range(4)), timeout=10.0)
    for expected in (True, True, False):
        assert table.advance(9.95, 4)[3] is expected


def test_a_timeout_keeps_the_last_state_seen(table, enter):
    waiter = enter("a", timeout=10.0)
    table.arrive("a", TaskMeta(task_id="a", state="STARTED"))
    table.advance(11.0)
    assert waiter.missing["a"].meta.state == "STARTED"


def test_one_look_is_enough_for_who_asks_for_one(table, enter):
    waiter, patient = enter("a", "b", once=True, now=5.0), enter("a")
    assert table.note_read(["a"], 5.0, absent=True) == []
    assert not waiter.over
    assert table.note_read(["b"], 5.0, absent=True) == ["b"]
    assert waiter.over
    assert waiter.arrived == {"a": pending("a"), "b": pending("b")}
    assert not patient.over


def test_a_look_that_began_before_the_question_does_not_answer_it(table, enter):
    waiter = enter("a", once=True, now=5.0)
    table.note_read(["a"], 4.9, absent=True)
    assert not waiter.over


def test_who_asks_for_one_look_is_told_when_it_failed_and_the_others_wait_on(table, enter):
    waiter, patient = enter("a", once=True), enter("a")
    error = ReadError("connection refused")
    assert table.tasks.unreadable([table.tasks.get("a")], error) == []
    assert waiter.error is error
    assert waiter.future.rings == 1
    assert not patient.over


def test_failing_everybody_ends_everybody_once(table, enter):
    waiters = [enter("a", "b"), enter("b")]
    error = RuntimeError("closed")
    assert ids(table.tasks.fail(table.tasks.first_waits, error)) == ["a"]
    assert ids(table.tasks.fail(table.tasks.first_waits, error)) == ["b"]
    assert [waiter.error for waiter in waiters] == [error, error]
    assert [waiter.future.rings for waiter in waiters] == [1, 1]
    assert table.tasks.first_waits == []


def test_memory_follows_what_is_awaited_now(table, enter):
    for number in range(5000):
        table.leave(enter(str(number), timeout=1e9 + number))
    assert len(table.tasks) == 0
    assert len(table.tasks._heap) < 300


@pytest.mark.parametrize(("timeout", "expected"), [(10.0, 109.95), (0.06, 100.03), (0.1, 100.05)])
def test_the_last_look_is_shortly_before_the_deadline_or_half_way(timeout, expected):
    assert Wait(Bell(), 100.0, timeout).read_from == pytest.approx(expected)


def test_who_comes_later_finds_the_state_that_was_seen(table, enter):
    enter("a")
    started = TaskMeta(task_id="a", state="STARTED")
    table.arrive("a", started)
    assert list(enter("a", wants_changes=True).changes) == [started]


def test_one_look_at_a_result_that_is_gone_does_not_tell_an_old_state(table, enter):
    enter("a")
    table.arrive("a", TaskMeta(task_id="a", state="STARTED"))
    waiter = enter("a", once=True)
    table.note_read(["a"], 1.0, absent=True)
    assert waiter.arrived["a"].state == "PENDING"


def test_a_task_that_is_asked_for_twice_is_awaited_once(table, enter):
    waiter = enter("a", "a")
    assert table.arrive("a", success("a")) == ["a"]
    assert waiter.over


def test_the_answers_of_a_wait_that_is_over_are_kept_neither_by_a_deadline_nor_by_the_record(table, enter):
    enter("slow", timeout=1.0)
    waiter = enter("a", timeout=2.0)
    task = table.tasks.get("a")
    table.arrive("a", success("a"))
    assert not [each for each in gc.get_referrers(waiter) if each is not sys._getframe()]
    assert task.waits == []
    assert table.tasks.next_moment() == 0.95


def test_very_many_that_are_over_are_dropped_in_portions(table, enter):
    waiters = [enter(str(number), timeout=10.0 + number) for number in range(1000)]
    last = enter("last", timeout=5000.0)
    for waiter in waiters:
        table.leave(waiter)
    before = len(table.tasks._heap)
    table.tasks.next_moment()
    assert before - len(table.tasks._heap) == MAX_OVER
    # Their moments come, and nothing is due; then that of the last one.
    while (moment := table.tasks.next_moment()) < 4900.0:
        due = table.tasks.advance(moment, 64)
        assert (due.last_looks, due.free, due.is_late) == ([], [], False)
    assert not last.over
    assert [task.id for task in table.tasks.advance(moment, 64).last_looks] == ["last"]
