"""Completion of ``fibo`` by each shell that is on this machine, as somebody who presses the tabulator sees it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from support.terminal import on_terminal

pytestmark = pytest.mark.timeout(300)  # Shells start, and `fibo` several times in each.

START = {
    "bash": ("--norc", "--noprofile", "-i"),
    "zsh": ("-f", "-i"),
    "fish": ("--no-config", "-i"),
}
"""How each shell starts without the settings of whoever runs the tests."""

LOAD = {
    "bash": 'eval "$(fibo --show-completion)"',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(fibo --show-completion)"',
    "fish": "fibo --show-completion | source",
}
"""What has it complete without anything being installed."""


@pytest.fixture(params=START)
def shell(request):
    """The name of a shell."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not on this machine")
    return request.param


def start(shell, home, *options):
    """Start a shell on a terminal."""
    env = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "> "}
    return on_terminal(shell, *options, env=env, columns=120)


def entered(terminal, command):
    """Enter a command, and wait until it is done."""
    terminal.type(f"{command}; echo it' 'is' 'done\r")
    terminal.wait_for("it is done", 60)
    terminal.type("\x0c")  # Ctrl-L clears the screen.
    terminal.wait_for(lambda screen: "it is done" not in screen, 60)


def test_a_shell_completes_with_the_script_that_the_command_gives(shell, tmp_path):
    with start(shell, tmp_path, *START[shell]) as terminal:
        entered(terminal, LOAD[shell])
        terminal.type("fibo diag\t")
        terminal.wait_for("fibo diagnose", 60)
        terminal.type("\x15fibo compute --res\t")
        terminal.wait_for("fibo compute --result-backend", 60)
        terminal.type("\x15fibo compute --digits sh\t")
        terminal.wait_for("fibo compute --digits short", 60)


def test_completion_is_installed_for_the_shell_that_asks_and_works_in_the_next_one(shell, tmp_path):
    with start(shell, tmp_path, *START[shell]) as terminal:
        terminal.type("fibo --install-completion\r")
        terminal.wait_for(f"{shell} completion installed in", 60)
    with start(shell, tmp_path, "-i") as terminal:
        entered(terminal, "true")
        terminal.type("fibo diag\t")
        if shell == "zsh":
            terminal.type("\t")  # At the first one, it loads the script.
        terminal.wait_for("fibo diagnose", 60)
