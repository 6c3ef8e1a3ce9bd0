"""The command ``fibo`` as a program of its own: where a signal, a key or a neighbour in a pipe ends it or feeds it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fibo import revocation
from support.programs import run, started
from support.servers import RedisServer
from support.terminal import on_terminal

FIBO = str(Path(sys.executable).with_name("fibo"))
BAR = r"^Computing [━╸╺-]* *([\d,]+)/([\d,]+) "
MANY = ("compute", "--range", "1000000:1001000")


def on_screen(url, *arguments, **options):
    """Run a command on a terminal."""
    return on_terminal(FIBO, *arguments, env={"CELERY_BROKER_URL": url}, **options)


# In pipes.


def test_answers_come_while_the_input_is_still_open(worker):
    env = {**os.environ, "CELERY_BROKER_URL": worker.url}
    with subprocess.Popen(
        [FIBO, "compute", "-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        watchdog = threading.Timer(50, it.kill)
        watchdog.start()
        for number, answer in ((10, "10 55\n"), (4, "4 3\n")):
            it.stdin.write(f"{number}\n")
            it.stdin.flush()
            assert it.stdout.readline() == answer
        it.stdin.close()
        assert it.stdout.read() == ""
        assert it.wait(50) == 0
        watchdog.cancel()


def test_a_reader_that_goes_away_ends_it_quietly_and_the_rest_is_revoked(worker):
    with revocation(worker.process.log):
        shell = f"{FIBO} compute --range 1000000:1000400 --digits short | head -n 1; exit ${{PIPESTATUS[0]}}"
        done = run("bash", "-c", shell, CELERY_BROKER_URL=worker.url)

        assert (done.returncode, done.stderr) == (141, "")
        assert done.stdout.startswith("1000000 195328")


def test_a_signal_revokes_what_is_unfinished_and_says_so(worker):
    env = {"CELERY_BROKER_URL": worker.url}
    with revocation(worker.process.log), started(FIBO, *MANY, "--digits", "short", env=env) as program:
        program.wait_for("1000000 195328")

        assert program.end(signal.SIGTERM) == 128 + signal.SIGTERM

    assert re.search(
        r"^Stopped: \d+ of 1000 answered, workers were told to revoke the rest\. What", program.text, re.MULTILINE
    )
    assert "Traceback" not in program.text


INTERRUPTED = """
import os, signal, sys
from fibo_client.cli import main

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass  # As in a callback of the interpreter's, which loses it.

sys.meta_path.insert(0, Interrupt())
{before}
main()
"""


@pytest.mark.parametrize("module", ["typer", "fibo_client.cli.runner", "redis"])
def test_ctrl_c_while_modules_are_imported_stops_it_without_a_traceback_and_says_so(module):
    script = INTERRUPTED.format(module=module, before="")
    done = run(sys.executable, "-c", script, "compute", "10", "--broker", "redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


@pytest.mark.parametrize("before", ["sys.stderr = None", "os.close(2)", "sys.stderr.close()"])
def test_ctrl_c_while_modules_are_imported_stops_it_also_where_there_is_no_error_output(before):
    done = run(sys.executable, "-c", INTERRUPTED.format(module="typer", before=before), "--help")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# On a terminal.


def test_numbers_can_be_typed(worker):
    with on_screen(worker.url, "compute", "-") as terminal:
        terminal.wait_for("Type numbers; Ctrl-D ends.")
        terminal.type("4 10\n")
        terminal.wait_for("F(4) = 3\nF(10) = 55")
        terminal.type("six\n")
        terminal.wait_for("Error: line 2: 'six' is not a whole number")
        terminal.type("\x04")
        assert terminal.end() == 2


def test_ctrl_c_typed_stops_and_revokes_also_on_a_narrow_terminal(worker):
    with revocation(worker.process.log), on_screen(worker.url, *MANY, columns=40) as terminal:
        terminal.wait_for(lambda screen: re.search(BAR, screen, re.MULTILINE))
        assert not re.search("…", terminal.screen)
        terminal.type("\x03")
        assert terminal.end() == 130

    assert re.search(
        r"Stopped:\d+of1000answered,workersweretoldtorevoketherest\.What.*goeson\.$", "".join(terminal.screen.split())
    )
    assert "Computing" not in terminal.screen


def test_a_second_ctrl_c_ends_at_once_though_redis_does_not_answer():
    command = ("compute", "--range", "0:1000", "--timeout", "60")
    with RedisServer() as server, on_screen(server.url, *command) as terminal:
        terminal.wait_for(lambda screen: re.search(BAR, screen, re.MULTILINE))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            terminal.type("\x03")
            terminal.wait_for("Stopping; Ctrl-C again ends at once.")
            terminal.type("\x03")
            assert terminal.end() == 130
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert "Stopped: " not in terminal.screen  # It did not wait to know what became of the rest.
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")  # the cursor is back
