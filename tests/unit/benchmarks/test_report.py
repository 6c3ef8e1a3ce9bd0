"""The tables of the benchmarks."""

import json

import pytest
from benchmarks.report import HEADINGS, Peer, Row, Work, cells, from_json, markdown, number, peer_table, pipes, table
from rich.console import Console


def row(**options):
    made = Row("calls", "calls/s", "more", **options)
    # The medians of the figures are 100 and 20; that of the ratios is 4.
    for ours, theirs in ((100, 50), (80, 20), (200, 10)):
        made.add(ours, theirs)
    return made


def test_a_ratio_is_taken_within_a_repeat_and_then_their_median():
    assert row().ratios == [2, 4, 20]
    assert row().ratio == 4


@pytest.mark.parametrize(("better", "goal", "met"), [("more", 4, True), ("more", 5, False), ("less", 3, False)])
def test_a_goal_is_met_by_the_median_ratio(better, goal, met):
    made = row(goal=goal)
    made.better = better
    assert made.met is met


def test_without_a_goal_nothing_is_met_or_missed():
    assert row().met is None


def test_a_goal_is_for_the_figure_where_nothing_is_beside_it():
    made = Row("lag", "ms", "less", goal=2.5, beside=None)
    for figure in (1, 2, 9):
        made.add(figure)
    assert made.ratio is None
    assert made.met is True
    assert cells(made)[1:8] == ["", "", "2.00", "", "ms", "<= 2.5", "met"]


def test_a_row_takes_the_other_side_if_and_only_if_there_is_one():
    with pytest.raises(ValueError, match="compared with Celery"):
        Row("calls", "calls/s", "more").add(1)
    with pytest.raises(ValueError, match="compared with nothing"):
        Row("lag", "ms", "less", beside=None).add(1, 2)


def test_a_row_says_what_workers_computed():
    made = Row("calls", "calls/s", "more", beside=None)
    made.add(1, work=Work(asked=10_000, computed=10_000, tasks=20))
    assert cells(made)[HEADINGS.index("workers computed")] == "10,000 in 20 tasks"
    assert cells(made)[0] == "calls"


def test_a_row_with_fewer_values_computed_than_asked_for_is_marked_as_folded():
    made = Row("calls", "calls/s", "more", beside=None)
    made.add(1, work=Work(asked=1000, computed=30, tasks=1))
    assert cells(made)[0] == "calls [folded]"
    assert cells(made)[HEADINGS.index("workers computed")] == "30 of 1,000 in 1 task"
    assert made.as_json()["folded"] is True


def test_the_limit_stands_beside_the_rate():
    made = Row("calls", "calls/s", "more", beside=None, limit="redis-py")
    made.add(1, limit=1234.5)
    assert cells(made)[HEADINGS.index("limit")] == "redis-py: 1,234"


def shown(what):
    console = Console(width=200)
    with console.capture() as said:
        console.print(what)
    return said.get()


def test_the_table_says_met_missed_and_folded():
    text = shown(table([row(goal=4), row(goal=5), row(folded=True)]))
    assert "4.00 (2.00 to 20.0)" in text
    assert "met" in text
    assert "missed" in text
    assert "calls [folded]" in text


def test_an_absent_peer_is_shown_with_the_reason():
    text = shown(peer_table([Peer("arq", figures={"submit": [1000.0]}), Peer("saq", absent="no wheel")], 2000))
    assert "1,000" in text
    assert "absent: no wheel" in text


RESULTS = {
    "facts": {"python": "3.11", "cores": 2},
    "answers": {"ours": {"right": 5, "asked": 5}},
    "measures": [row(goal=4, note="all n are distinct.").as_json()],
    "peers": [vars(Peer("arq", versions={"arq": "1.0"}, figures={"submit": [1000.0]}))],
    "curves": {},
    "estimates": [(10, 1e-6, 2e-6)],
}


def test_a_row_and_a_peer_survive_json():
    made = row(goal=4)
    made.work.append(Work(3, 3, 1))
    assert from_json(Row, json.loads(json.dumps(made.as_json()))) == made
    peer = Peer("arq", versions={"arq": "1.0"}, figures={"submit": [1.0]}, right=1, asked=1)
    assert from_json(Peer, json.loads(json.dumps(vars(peer)))) == peer


def test_the_page_s_tables_are_made_of_the_json_alone():
    text = markdown(json.loads(json.dumps(RESULTS)))
    assert "| calls | Celery | 4.00 (2.00 to 20.0) | 100 | 20.0 | calls/s | >= 4 | met |  |  |" in text
    assert "- calls: all n are distinct." in text
    assert "Right answers, ours: 5 of 5." in text
    assert "| arq | 1,000 |" in text
    assert "| 10 | 1.00 | 2.00 |" in text


def test_a_pipe_in_a_cell_does_not_end_the_cell():
    assert pipes(["a"], [["x | y"]]).splitlines()[-1] == "| x \\| y |"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (1234.4, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (-200, "-200")]
)
def test_figures_have_three_digits_that_matter(value, text):
    assert number(value) == text
