"""``fibo-worker dev`` and ``demo`` however they end: nothing of theirs is left."""

import signal

import pytest
from support.programs import FIBO_WORKER, alive, started, wait_until_gone

pytestmark = pytest.mark.timeout(180)  # Servers start and end, each in a second or two where nothing else happens.


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
def test_dev_serves_until_a_signal_and_leaves_nothing(sig):
    with started(*FIBO_WORKER, "dev") as program:
        program.wait_for("Ctrl-C stops both.")
        below = program.descendants()

        assert program.end(sig) == 0

    wait_until_gone(below, timeout=10)
    assert "Traceback" not in program.text
    assert program.text.endswith("Stopped.\n")


def test_nothing_survives_dev_even_if_it_is_killed():
    with started(*FIBO_WORKER, "dev") as program:
        program.wait_for("Ctrl-C stops both.")
        below = program.descendants()
        assert alive(below) == below

        assert program.end(signal.SIGKILL) == -signal.SIGKILL

    wait_until_gone(below, timeout=60)


def test_demo_takes_no_task_from_the_usual_queue_of_a_redis_that_is_named_and_stops_at_ctrl_c(redis_server, redis_url):
    with redis_server.client(redis_url) as client:
        client.lpush("celery", "somebody else's task")

        with started(*FIBO_WORKER, "demo", "--batch", "10000000", env={"CELERY_BROKER_URL": redis_url}) as program:
            said = program.wait_for("The square root of 4 is 2.0")
            assert said.startswith("A worker started in ")
            below = program.descendants()

            assert program.end(signal.SIGINT) == 130

        assert client.lrange("celery", 0, -1) == [b"somebody else's task"]
    wait_until_gone(below, timeout=10)
    assert "Traceback" not in program.text
