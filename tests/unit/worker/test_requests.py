"""What becomes of a task, in a word for its metrics."""

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from fibo_worker.requests import _state


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("no"), "FAILURE"),
        (MemoryError(), "FAILURE"),
        (SoftTimeLimitExceeded(), "FAILURE"),
        (TimeLimitExceeded(2), "FAILURE"),
        (Retry(), "RETRY"),
        (Reject("later", requeue=True), "REJECTED"),
        (Ignore(), "IGNORED"),
        (WorkerLostError("gone"), "LOST"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each,
)
def test_what_a_task_raised_says_what_became_of_it(error, state):
    assert _state(error) == state
