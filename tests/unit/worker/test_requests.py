"""The state of a task that failed, for its metrics."""

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from fibo_worker.guard.requests import _state


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
def test_an_exception_gives_the_state_of_its_task(error, state):
    assert _state(error) == state
