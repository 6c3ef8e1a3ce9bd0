"""Where lines are broken: at words, on terminals only."""

from __future__ import annotations

import os
import re
import textwrap

import pytest
from support.fibo import fibo, fibo_on_screen
from support.terminal import terminal

from fibo_client.cli.app import app
from fibo_client.cli.wrapping import columns, wrapped

NOWHERE = "redis://127.0.0.1:1/0"


def test_lines_are_broken_at_words_and_long_words_stay_whole():
    text = "one two three four\n\n  File 'x', line 1, in f\nafter 0c6f639d-fa0d-45ac, and well-known"
    assert wrapped(text, 12, indent=" ") == (
        "one two\n three four\n\n  File 'x', line 1, in f\nafter\n 0c6f639d-fa0d-45ac,\n and\n well-known"
    )
    assert wrapped(text, None) == text


def test_only_a_terminal_has_columns(tmp_path):
    with terminal(columns=66) as (descriptor, _):
        assert columns(descriptor) == 66
    with terminal(columns=0) as (descriptor, _):
        assert columns(descriptor) is None
    with (tmp_path / "file").open("w") as file:
        assert columns(file) is None
    assert columns(None) is None
    assert columns(os.sysconf("SC_OPEN_MAX")) is None


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    ("status", "command"),
    [
        (2, ("ping", "--set", "speed=10")),
        (2, ("compute", "--range", "0:3", "4")),
        (2, ("compute",)),
        (2, ("revoke", "x", "--signal", "HUP")),
        (2, ("call", "a.b", "--priority", "12")),
        (2, ("call", "a.b", "some", "more", "words", "that", "make", "a", "line", "which", "is", "a", "long", "one")),
        (2, ("call", "a.b", "--no-such-option-as-this-one-is-and-more-of-it-than-anybody-would-ever-want-to-write")),
        (2, ("result", "x", "--result-backend", "disabled://")),
        (4, ("ping",)),
    ],
)
def test_errors_are_broken_at_words_on_a_terminal_and_not_at_all_in_a_pipe(width, status, command):
    on_screen, screen = fibo_on_screen(NOWHERE, *command, columns=width, rows=50)
    shown = screen.raw.decode().splitlines()
    assert all(len(line) <= width for line in shown if " " in line)
    piped = fibo(NOWHERE, *command)
    assert " ".join(shown).split() == piped.stderr.split()
    assert sum(line.startswith("Error: ") for line in piped.stderr.splitlines()) == 1
    assert len(piped.stderr.partition("Error: ")[2].splitlines()) == 1
    assert (on_screen, piped.returncode) == (status, status)


@pytest.mark.parametrize("width", [80, 52])
@pytest.mark.parametrize("command", [(), *((command.callback.__name__,) for command in app.registered_commands)])
def test_help_is_broken_at_words_on_a_terminal(width, command):
    _, screen = fibo_on_screen(NOWHERE, *command, "--help", columns=width, rows=100)
    lines = screen.raw.decode().splitlines()
    # What is laid out stays: examples, and the exit codes.
    prose = [line for line in lines if not re.match("    fibo |  +[0-9]+  ", line)]
    assert all(len(line) <= width for line in prose), textwrap.indent("\n".join(prose), "  ")
