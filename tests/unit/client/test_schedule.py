"""When results are read: a pure decision, so no clock and no server is needed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client.celery.pending import PendingTask
from fibo_client.celery.schedule import AFTER_PUSH, LONGEST_FIRST, MAX_TAKEN, MAX_WIDTH, PACE, Schedule

POLL_MIN = 0.001


class ById:
    """A schedule, by ids: the tasks that are in it are those that are awaited."""

    def __init__(self) -> None:
        self.tasks: dict[str, PendingTask] = {}
        self.taken = []
        self.schedule = Schedule(self.tasks.values(), poll_min=POLL_MIN, poll_max=1.0)
        self.next_due = self.schedule.next_due
        self.arrived = self.schedule.arrived

    @property
    def width(self) -> int:
        return self.schedule.width

    def add(self, task_id: str, now: float, **options) -> None:
        task = self.tasks.setdefault(task_id, PendingTask(task_id))
        self.schedule.add(task, now, **options)

    def remove(self, task_id: str) -> None:
        if task_id in self.tasks:
            self.schedule.remove(self.tasks.pop(task_id))

    def hurry(self, task_id: str, now: float) -> None:
        if task_id in self.tasks:
            self.schedule.hurry(self.tasks[task_id], now)

    def set_pushed(self, task_id: str, now: float, *, pushed: bool) -> None:
        if task_id in self.tasks:
            self.schedule.set_pushed(self.tasks[task_id], now, pushed=pushed)

    def take(self, now: float, taken: int = 0) -> list[str]:
        more = self.schedule.take(now, taken)
        self.taken = [*self.taken[:taken], *more]
        return [task.id for task in more]

    def missed(self, task_ids: list[str], now: float) -> None:
        """Give back what was taken for the last read."""
        self.schedule.missed([task for task in self.taken if task.id in task_ids], now)


@pytest.fixture
def schedule() -> ById:
    return ById()


def follow(schedule: ById, until: float, now: float = 0.0) -> list[tuple[float, list[str]]]:
    """Read whenever something is due, find nothing, and say what was read when."""
    reads = []
    while (due := schedule.next_due()) is not None and due <= until:
        now = max(now, due)
        batch = schedule.take(now)
        reads.append((now, batch))
        schedule.missed(batch, now)
    return reads


def test_nothing_is_due_while_nobody_waits(schedule):
    assert schedule.next_due() is None
    assert schedule.take(1e9) == []


def test_the_first_read_comes_after_the_shortest_pause(schedule):
    schedule.add("a", 10.0)
    assert schedule.take(10.0) == []
    assert schedule.next_due() == 10.001
    assert schedule.take(10.001) == ["a"]


def test_a_read_that_shows_nothing_is_noticed_within_about_a_quarter_of_the_time_waited(schedule):
    schedule.add("a", 0.0)
    moments = [at for at, _ in follow(schedule, 3.9)]
    for previous, following in itertools.pairwise(moments[5:]):
        assert following - previous <= 0.4 * following


def test_pauses_end_at_the_longest(schedule):
    schedule.add("a", 0.0)
    moments = [at for at, _ in follow(schedule, 60.0)]
    pauses = [following - previous for previous, following in itertools.pairwise(moments[-20:])]
    assert max(pauses) <= 1.25
    assert min(pauses) >= 0.9


def test_a_thousand_results_that_do_not_come_are_read_in_few_commands(schedule):
    for number in range(1000):
        schedule.add(str(number), number * 0.0005)
    follow(schedule, 20.0)
    reads = follow(schedule, 30.0, now=20.0)
    assert len(reads) <= 5 * 10
    assert sum(len(batch) for _, batch in reads) >= 8 * 1000


def test_a_pushed_result_is_read_after_a_moment_and_then_only_as_a_safety_net(schedule):
    schedule.add("a", 0.0, first=0.05)
    schedule.set_pushed("a", 0.002, pushed=True)
    assert schedule.next_due() == 0.002 + AFTER_PUSH
    assert schedule.take(0.002 + AFTER_PUSH) == ["a"]
    schedule.missed(["a"], 0.003 + AFTER_PUSH)
    assert schedule.next_due() >= 0.9


def ask(schedule, seconds, now=0.0):
    """Read a result that is there after so many seconds. Give the moments of all reads."""
    schedule.add("a", now)
    reads = []
    while True:
        reads.append(schedule.next_due())
        schedule.take(reads[-1])
        if reads[-1] >= now + seconds:
            schedule.remove("a")
            return [moment - now for moment in reads]
        schedule.missed(["a"], reads[-1])


def test_the_first_read_of_a_lone_result_comes_when_answers_have_lately_come(schedule):
    reads = [ask(schedule, 0.003, now=float(second)) for second in range(200)]
    assert reads[0][0] == pytest.approx(POLL_MIN)
    late = reads[-50:]
    assert all(0.0027 < first[0] < 0.0035 for first in late)
    assert 0.6 < sum(len(each) == 1 for each in late) / 50 < 0.9


def test_the_first_read_is_never_long_after_the_beginning(schedule):
    for second in range(200):
        reads = ask(schedule, 0.5, now=float(second))
    assert reads[0] == pytest.approx(LONGEST_FIRST)
    for second in range(200, 500):
        reads = ask(schedule, 0.0, now=float(second))
    assert reads == [pytest.approx(POLL_MIN)]


def test_nothing_is_learnt_of_first_reads_from_results_that_are_left(schedule):
    for second in range(100):
        schedule.add("a", float(second))
        schedule.remove("a")
    assert ask(schedule, 0.0, now=100.0) == [pytest.approx(POLL_MIN)]


def test_a_result_whose_push_is_lost_is_read_at_once_and_then_often_again(schedule):
    schedule.add("a", 0.0)
    schedule.set_pushed("a", 0.0, pushed=True)
    schedule.missed(schedule.take(AFTER_PUSH), AFTER_PUSH)
    schedule.set_pushed("a", 5.0, pushed=False)
    assert schedule.take(5.0) == ["a"]
    schedule.missed(["a"], 5.0)
    assert schedule.next_due() <= 5.002


def test_a_confirmation_during_a_read_leads_to_another_read(schedule):
    schedule.add("a", 0.0)
    assert schedule.take(0.001) == ["a"]
    schedule.set_pushed("a", 0.0012, pushed=True)
    schedule.missed(["a"], 0.002)
    assert schedule.take(0.0012 + AFTER_PUSH) == ["a"]


def test_arrivals_pull_the_oldest_of_the_others_forward(schedule):
    for number in range(100):
        schedule.add(str(number), 0.0)
    follow(schedule, 5.0)
    schedule.remove("0")
    schedule.arrived(1, 1, 100, 5.0)
    due = schedule.next_due()
    assert due <= 5.0 + PACE
    assert schedule.take(due)[:3] == ["1", "2", "3"]


def test_arrivals_never_put_a_read_off(schedule):
    schedule.add("old", 0.0)
    schedule.add("young", 0.0)
    schedule.arrived(1, 1, 100, 0.0)
    assert schedule.next_due() == 0.001


def test_a_read_is_never_wider_than_the_limit(schedule):
    for number in range(2 * MAX_TAKEN):
        schedule.add(str(number), 0.0)
    assert len(schedule.take(1.0)) == MAX_TAKEN


def test_reads_become_narrower_when_answers_are_large_and_wider_again(schedule):
    for _ in range(20):
        schedule.arrived(1, 1, 2_000_000, 0.0)
    assert schedule.width == 2
    for _ in range(100):
        schedule.arrived(1, 1, 200, 0.0)
    assert schedule.width == MAX_WIDTH


def test_even_an_enormous_answer_leaves_a_width_of_one(schedule):
    for _ in range(50):
        schedule.arrived(1, 1, 10**9, 0.0)
    assert schedule.width == 1


def test_one_enormous_answer_does_not_have_the_others_read_one_by_one(schedule):
    schedule.arrived(500, 1, 20_000_000, 0.0)
    assert schedule.width >= 16


def test_reads_that_find_nothing_do_not_have_a_later_one_take_too_much(schedule):
    for _ in range(20):
        schedule.arrived(1, 1, 8_000_000, 0.0)
    for _ in range(100):
        schedule.arrived(500, 0, 0, 0.0)
    assert schedule.width == 64 * 1024 * 1024 // 8_000_000


def test_neither_old_nor_young_starve_when_more_is_due_than_a_read_takes():
    schedule = ById()
    for number in range(5 * MAX_WIDTH):
        schedule.add(f"old{number}", 0.0)
    now, seen = 1.0, set()
    for number in range(12):
        schedule.add(f"young{number}", now)
        batch = more = schedule.take(now)
        while len(more) == MAX_TAKEN:
            more = schedule.take(now, len(batch))
            batch = [*batch, *more]
        assert len(batch) <= MAX_WIDTH
        seen.update(batch)
        schedule.missed(batch, now)
        now += 0.01
    assert {f"old{number}" for number in range(5 * MAX_WIDTH)} <= seen
    assert any(task_id.startswith("young") for task_id in seen)


def test_what_is_removed_is_not_read(schedule):
    schedule.add("a", 0.0)
    schedule.add("b", 0.0)
    schedule.remove("a")
    assert schedule.take(1.0) == ["b"]


def test_what_is_outdated_goes_when_its_time_comes(schedule):
    for number in range(10_000):
        schedule.add(str(number), 0.0)
        schedule.remove(str(number))
    assert [schedule.take(LONGEST_FIRST) for _ in range(10_000 // MAX_TAKEN)] == [[]] * (10_000 // MAX_TAKEN)
    assert schedule.schedule._heap == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "hurry", "push", "lose", "read", "arrive"]), st.integers(0, 5)),
        max_size=60,
    )
)
def test_everything_awaited_is_always_due_within_the_longest_pause(steps):
    schedule = ById()
    now, awaited = 0.0, set()
    for step, number in steps:
        task_id = str(number)
        if step == "add":
            schedule.add(task_id, now)
            awaited.add(task_id)
        elif step == "remove":
            schedule.remove(task_id)
            awaited.discard(task_id)
        elif step == "hurry":
            schedule.hurry(task_id, now)
        elif step in ("push", "lose"):
            schedule.set_pushed(task_id, now, pushed=step == "push")
        elif step == "arrive" and task_id in awaited:
            schedule.remove(task_id)
            awaited.discard(task_id)
            schedule.arrived(1, 1, 100, now)
        else:
            schedule.missed(schedule.take(now), now)
        now += 0.003
    seen = set()
    for _, batch in follow(schedule, now + 1.3, now):
        seen.update(batch)
    assert seen == awaited


def test_a_read_that_is_chosen_in_portions_is_as_wide_as_one_may_be(schedule):
    for _ in range(20):
        schedule.arrived(1, 1, 14_000, 0.0)
    assert MAX_TAKEN < schedule.width < 2 * MAX_TAKEN
    for number in range(3 * MAX_TAKEN):
        schedule.add(str(number), 0.0)
    batch = schedule.take(1.0)
    assert len(batch) == MAX_TAKEN
    batch = [*batch, *schedule.take(1.0, len(batch))]
    assert len(batch) == schedule.width
    assert schedule.take(1.0, len(batch)) == []
