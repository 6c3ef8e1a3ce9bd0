"""``fibo-worker dev`` ends at a service manager's signal and at that of a closed terminal as it does at Ctrl-C."""

import signal

import pytest
from support.programs import FIBO_WORKER, gone, started


@pytest.mark.timeout(180)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
def test_dev_serves_until_a_signal_and_leaves_nothing(sig):
    with started(*FIBO_WORKER, "dev") as program:
        program.wait_for("Ctrl-C stops both.")
        below = program.descendants()

        assert program.end(sig) == 0

    assert gone(below, timeout=10)
    assert "Traceback" not in program.text
    assert program.text.endswith("Stopped.\n")
