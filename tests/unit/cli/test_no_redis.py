"""Where no Redis is, or the terminal alone matters."""

import logging
import re

import pytest
from support.fibo import fibo, fibo_on_screen


@pytest.mark.parametrize(
    ("command", "host"),
    [
        (("compute", "10"), "127.0.0.1:1"),
        (("compute", "10"), "name.invalid"),
        (("sqrt", "2"), "127.0.0.1:1"),
        (("call", "a.b"), "127.0.0.1:1"),
        (("result", "x"), "127.0.0.1:1"),
        (("revoke", "x"), "127.0.0.1:1"),
        (("ping",), "127.0.0.1:1"),
    ],
)
def test_no_redis_is_status_4_in_one_line_and_no_password_is_shown(command, host):
    done = fibo(f"redis://:sesame@{host}/0", *command)

    assert (done.returncode, done.stdout) == (4, "")
    assert re.fullmatch(
        r"Error: redis://(127\.0\.0\.1:1|name\.invalid:6379)/0: .+\? "
        r"--broker or CELERY_BROKER_URL says where it is\.\n",
        done.stderr,
    )
    assert "sesame" not in done.stderr


@pytest.mark.parametrize("command", [("compute", "10"), ("ping",)])
def test_debug_shows_the_log_and_the_traceback_but_no_password(command):
    done = fibo("redis://:sesame@127.0.0.1:1/0", *command, FIBO_DEBUG="1")

    assert done.returncode == 4
    assert "redis://127.0.0.1:1/0 is gone" in done.stderr
    # Numbers that were not answered are no errors to Python.
    assert ("Traceback" in done.stderr) == (command == ("ping",))
    assert "sesame" not in done.stderr
    assert logging.getLogger("fibo_client").level == logging.NOTSET  # as it was before


@pytest.mark.parametrize("columns", [52, 80, 200])
def test_help_can_be_read_on_a_terminal(columns):
    status, screen = fibo_on_screen("", "compute", "--help", rows=90, columns=columns)

    assert status == 0
    assert screen.screen.startswith("Usage: fibo compute [OPTIONS] [N]...")
    assert "\n    fibo compute --range 0:10000 > numbers.txt\n" in screen.screen
    assert max(map(len, screen.raw.decode().splitlines())) <= min(columns, 80)
