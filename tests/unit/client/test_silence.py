"""What a timeout says of a Redis that gave no answer: no more than what is known."""

import pytest

from fibo_client.celery import CeleryClient
from fibo_client.celery.engine import Outcome
from fibo_client.celery.result import timeout_error

IS_IT = "Is that a Redis, with TLS or without as the URL says?"


@pytest.mark.parametrize("published", [True, None], ids=["results", "broker"])
@pytest.mark.parametrize(
    ("waited", "reached", "said"),
    [
        (5.0, False, IS_IT),
        (5.0, True, "Is it stopped, or very busy?"),
        (0.04, False, "A longer timeout is needed to know more."),
        (0.04, True, "A longer timeout is needed to know more."),
    ],
)
def test_only_a_redis_that_had_time_and_was_never_connected_is_doubted(published, waited, reached, said):
    client = CeleryClient("redis://localhost:1/0", "redis://localhost:2/0")
    silent = client.engine.store if published else client.engine.broker
    if reached:
        silent.weather.connected()
    outcome = Outcome({}, ["x"], timed_out=True, waited=waited, looks=0, published=published)
    error = timeout_error(outcome, [client.result("x")], ["x"], {})
    assert error.reason is not None
    assert error.reason.startswith(f"{silent} had not answered by then")
    assert error.reason.endswith(said)
