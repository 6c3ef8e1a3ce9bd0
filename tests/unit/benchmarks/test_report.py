"""What the benchmarks make of their figures."""

import json

import pytest
from benchmarks.report import HEADINGS, Peer, Row, Work, cells, from_json, headlines, times_better


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
    assert cells(made)[1:8] == ["", "", "2.00 (1.00 to 9.00)", "", "ms", "<= 2.5", "met"]


def test_where_the_best_counts_the_median_does_not():
    made = Row("longest step", "ms", "less", goal=1.5, beside=None, best=True)
    for figure in (7, 1, 9):
        made.add(figure)
    assert made.met is True
    assert cells(made)[3] == "1.00 (1.00 to 9.00)"


def test_a_single_figure_has_no_spread():
    made = Row("lag", "ms", "less", beside=None)
    made.add(2)
    assert cells(made)[3] == "2.00"


def test_a_row_takes_the_other_side_if_and_only_if_there_is_one():
    with pytest.raises(ValueError, match="compared with Celery"):
        Row("calls", "calls/s", "more").add(1)
    with pytest.raises(ValueError, match="compared with nothing"):
        Row("lag", "ms", "less", beside=None).add(1, 2)


def test_a_row_with_fewer_values_computed_than_asked_for_is_marked_as_folded():
    made = Row("calls", "calls/s", "more", beside=None)
    made.add(1, work=Work(asked=1000, computed=30, tasks=1))
    assert cells(made)[0] == "calls [folded]"
    assert cells(made)[HEADINGS.index("workers computed")] == "30 of 1,000 in 1 task"
    assert made.as_json()["folded"] is True


def test_the_top_of_the_page_has_the_rows_that_say_what_they_are_called_there():
    quick = Row("one call: p50", "ms", "less", goal=0.5, headline="One call")
    quick.add(1, 4)
    alone = Row("longest step", "ms", "less", goal=3, beside=None, best=True, headline="The longest step")
    for figure in (5, 2):
        alone.add(figure)
    results = json.loads(json.dumps({"measures": [each.as_json() for each in (row(), quick, alone)]}))
    assert headlines(results).splitlines()[2:] == [
        "| One call | 1.00 | 4.00 | ms | 0.25 | <= 0.5 | met |",
        "| The longest step | 2.00 |  | ms |  | <= 3 | met |",
    ]
    # What is not compared with Celery has no bar. A ratio where less is better is turned round, and so is its goal.
    assert times_better(results) == [("One call", 4, 2)]


def test_a_row_and_a_peer_survive_json():
    made = row(goal=4)
    made.work.append(Work(3, 3, 1))
    assert from_json(Row, json.loads(json.dumps(made.as_json()))) == made
    peer = Peer("arq", versions={"arq": "1.0"}, figures={"submit": [1.0]}, right=1, asked=1)
    assert from_json(Peer, json.loads(json.dumps(vars(peer)))) == peer
