"""The command ``fibo`` takes bounded memory, however long its input is."""

from __future__ import annotations

import sys
from pathlib import Path

import gmpy2
import pytest
from support.programs import resident, started
from support.waiting import until

FIBO = Path(sys.executable).with_name("fibo")
LINES = 1_000_000


@pytest.mark.timeout(600)
def test_an_endless_input_takes_bounded_memory(worker):
    env = {"CELERY_BROKER_URL": worker.url}
    shell = f"yes 90 | {FIBO} compute - --bare | head -n {LINES} | sort -u"
    with started("bash", "-c", f"set -o pipefail; {shell}", env=env) as program:
        sizes = [0]

        def is_over():
            sizes.extend(map(resident, program.descendants()))
            return program.process.poll() is not None

        until(is_over, timeout=500, interval=0.1)
        assert program.process.returncode == 141
        program.wait_for("\n")
    assert program.text == f"{gmpy2.fib(90)}\n"
    assert 0 < max(sizes) < 200 * 1024 * 1024
