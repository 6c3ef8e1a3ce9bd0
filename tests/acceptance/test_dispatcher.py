import re
import sys
from pathlib import Path

import pytest
from support.programs import run

DISPATCHER = Path(__file__).with_name("dispatcher.py")
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(params=["worker", "stock"])
def url(request):
    """Our worker, and a plain one with two tasks: the dispatcher cannot tell them apart."""
    return request.getfixturevalue(request.param).admin_url


def test_a_dispatcher_that_knows_celery_alone_gets_every_answer(url):
    done = run(sys.executable, DISPATCHER, url)

    assert done.returncode == 0, done.stderr
    *lines, root = done.stdout.splitlines()
    answers = {}
    ids = set()
    for line in lines:
        if not re.fullmatch(rf"Task \[{UUID}\] is not ready", line):
            said = re.fullmatch(rf"Value \[(\d+)\] -> The Fibonacci calculated with task id ({UUID}) was (\d+)", line)
            assert said, line
            answers[int(said[1])] = int(said[3])
            ids.add(said[2])
    assert answers == {4: 3, 3: 2, 8: 21, 6: 8, 10: 55}
    assert len(ids) == 5
    assert root == "2.0"
