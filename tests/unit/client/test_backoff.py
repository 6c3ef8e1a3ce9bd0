"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fibo_client.celery.backoff import pause


@given(st.integers(1, 10_000), st.floats(0.001, 1), st.floats(1, 60))
def test_pauses_double_up_to_the_longest_and_are_shortened_by_half_at_most(failures, first, longest):
    whole = min(first * 2.0 ** min(failures - 1, 30), longest)
    assert whole / 2 <= pause(failures, first, longest) <= whole


def test_clients_that_failed_together_do_not_come_back_together():
    assert len({pause(3, 0.02, 0.5) for _ in range(100)}) > 90
