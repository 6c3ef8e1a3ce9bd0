"""What needs no server: arguments, help, completion."""

import re
import subprocess
import sys

import pytest
from support.fibo import fibo
from typer.testing import CliRunner

from fibo_client import RedisOptions, __version__
from fibo_client.cli.app import app
from fibo_client.cli.exit_codes import EXIT_CODES, ExitCode
from fibo_client.cli.runner import ClientOptions

COMMANDS = ["compute", "sqrt", "call", "result", "revoke", "ping", "workers", "diagnose", "stubs"]
NOWHERE = ("-b", "redis://:sesame@127.0.0.1:1/0")


def invoke(*arguments, **env):
    return CliRunner().invoke(app, arguments, prog_name="fibo", env=env)


def test_the_version_is_that_of_the_package():
    assert invoke("--version").output == f"fibo {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples_that_it_understands(command):
    text = invoke(command, "--help").output

    assert text.startswith(f"Usage: fibo {command}")
    examples = re.findall(rf"^    fibo {command}.*$", text, re.MULTILINE)
    assert examples
    options = set(re.findall(r"(?<!\S)--[a-z-]+", text.partition("Options:")[2]))
    assert {option for example in examples for option in re.findall(r"(?<=\s)--[a-z-]+", example)} <= options


def test_the_help_lists_the_commands_and_the_exit_codes():
    text = invoke("--help").output

    assert (
        re.findall(r"^  (\w+)  +\S", text.partition("Commands:")[2].partition("Exit codes")[0], re.MULTILINE)
        == COMMANDS
    )
    assert EXIT_CODES.removeprefix("\b\n").replace("\n", "\n  ").strip() in text
    assert {int(code) for code in re.findall(r"^ +(\d)  ", text, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_fibo_alone_shows_its_help():
    assert invoke().output.startswith("Usage: fibo [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compute"], "say which numbers"),
        (["compute", "4", "--range", "0:3"], "say the numbers or --range, not both"),
        (["compute", "x"], "'x' is not a whole number"),
        (["compute", "1.5"], "'1.5' is not a whole number"),
        (["compute", "4", "-"], "- reads numbers from the input, and stands alone"),
        (["compute", "-4"], "n must be 0 or more, not -4"),
        (["compute", "10000001"], "n must be at most 10000000, not 10000001"),
        (["compute", "4", "--josn"], "there is no option --josn; see --help"),
        (["compute", "--range", "0"], "'0' is not a range"),
        (["compute", "--range", "-2:3"], "n must be 0 or more, not -2"),
        (["compute", "--range", "3:-2:-1"], "n must be 0 or more, not -1"),
        (["compute", "--range", "0:10000002"], "n must be at most 10000000, not 10000001"),
        (["compute", "5", "--set", "max_n=4"], "n must be at most 4, not 5"),
        (["compute", "--range", "0:6", "--set", "max_n=4"], "n must be at most 4, not 5"),
        (["compute", "4", "--json", "--bare"], "--json always has all digits"),
        (["compute", "4", "--json", "--digits", "short"], "--json always has all digits"),
        (["compute", "4", "--digits", "few"], "'few' is not one of"),
        (["compute", "4", "--in-flight", "0"], "--in-flight"),
        (["compute", "4", "--priority", "10"], "--priority"),
        (["compute", "4", "--timeout", "soon"], "'soon' is no number of seconds; 'inf' is no limit"),
        (["compute", "4", "--timeout", "-1"], "-1 is less than 0 seconds"),
        (["compute", "4", "--timeout", "nan"], "'nan' is no number of seconds"),
        (["compute", "4", "-o", "/nonexistent/file"], "the answers cannot be written"),
        (["sqrt"], "Missing argument 'X'"),
        (["sqrt", "x"], "'x' is not a number"),
        (["sqrt", "-1"], "value must be 0 or more, not -1"),
        (["sqrt", "inf"], "value must be a finite number"),
        (["call"], "say which TASK to call, or give a flow by --flow"),
        (["call", "a.b", "--args", "[1"], "--args is not JSON: "),
        (["call", "a.b", "--args", "1"], "--args must be a list, as in '[2, \"x\"]'"),
        (["call", "a.b", "--kwargs", "[]"], "--kwargs must be an object, as in '{\"x\": 2}'"),
        (["call", "a.b", "1"], "Error: the task's own arguments are one JSON text; write --args '[1]'\n"),
        (["call", "a.b", "-1", "x y", "[2]"], """write --args '[-1, "x y", [2]]'\n"""),
        (["call", "a.b", "it's", "x=1"], """write --args '["it'"'"'s", "x=1"]'\n"""),
        (["call", "a.b", "x=1", "y=é"], """write --kwargs '{"x": 1, "y": "é"}'\n"""),
        (["call", "a.b", "1", "--queue", "math"], "write --args '[1]'"),
        (["call", "a.b", "--queu=math"], "there is no option --queu; see --help"),
        (["call", "a.b", "--countdown", "-5"], "-5 is less than 0 seconds"),
        (["call", "a.b", "--expires", "inf"], "'inf' is no number of seconds"),
        (["call", "a.b", "--countdown", "30"], "--countdown 30 is not over before --timeout 30 is"),
        (["call", "a.b", "--countdown", "5", "--set", "timeout=4"], "--countdown 5 is not over before --timeout 4 is"),
        (["result"], "Missing argument 'ID'"),
        (["revoke"], "Missing argument 'ID'"),
        (["revoke", "x", "--signal", "HUP"], "--signal"),
        (["comptue"], "No such command 'comptue'. Did you mean 'compute'?"),
        (["ping", "-b", "http://:sesame@host"], "http:// is not known; it must begin with redis://"),
        (["ping", "-b", "redis://:sesame@host:port/0"], "its port must be a number"),
        (["result", "x", "--result-backend", "redis://h/x"], "its path must be the number of a database"),
        (["ping", "--timeout", "inf"], "'inf' is no number of seconds"),
        (["ping", "--set", "io_timeout"], "--set io_timeout must be a name and a value"),
        (["ping", "-b", "redis://localhost", "--set", "result_backend=rediss:/h"], "it has no '://'"),
        (["ping", "--set", "speed=10"], "'speed' is not a setting; the settings are: "),
        (["ping", "--set", "io_timeout=soon"], "io_timeout='soon' must be a number of seconds"),
        (["ping", "--set", "redis.speed=10"], "'speed' is not a setting; the settings are: broker_prefix, "),
        (["ping", "--set", "redis.client_name=a b"], "client_name='a b' must be ASCII text without spaces"),
        (["ping", "--set", "redis.credential_provider=a.B"], "must be an object, such as YourProvider()"),
        (["ping", "--set", "master_name=x"], "it is one of redis=RedisOptions(master_name=...)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_arguments_is_said_plainly_with_status_2(arguments, message):
    broker = () if "-b" in arguments else NOWHERE
    result = invoke(*arguments[:1], *(broker if arguments[0] in COMMANDS else ()), *arguments[1:])

    assert message in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert "sesame" not in result.stderr


def test_settings_of_redis_are_given_by_the_dotted_name():
    options = ClientOptions(settings=("redis.master_name=cache", "queue=mine", "redis.client_name=web"))
    config = options.client().config

    assert config.queue == "mine"
    assert config.redis == RedisOptions(master_name="cache", client_name="web")


def test_a_task_name_that_cannot_be_one_is_refused_before_anything_is_sent():
    done = fibo("", "call", "", *NOWHERE)

    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_help_and_wrong_arguments_of_the_module_wait_for_neither_redis_nor_asyncio_nor_rich():
    program = (
        "import runpy, sys\n"
        "for arguments in (['--version'], ['--help'], ['compute', '--help'], ['compute'], ['comptue']):\n"
        "    sys.argv[1:] = arguments\n"
        "    try: runpy.run_module('fibo_client', run_name='__main__')\n"
        "    except SystemExit: pass\n"
        "print(*{'redis', 'asyncio', 'anyio', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)

    assert "Usage: fibo compute [OPTIONS]" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


# Completion. Nothing of it may ask a server.


def completed(shell, words):
    variables = {"_FIBO_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        variables |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        variables |= {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        variables["_TYPER_COMPLETE_WORD_TO_COMPLETE"] = words[-1]
    done = fibo(NOWHERE[1], **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "pwsh"])
def test_a_shell_completes_commands_options_and_choices(shell):
    commands = completed(shell, ["fibo", ""])
    assert all(command in commands for command in COMMANDS)
    assert "workers" in completed(shell, ["fibo", "wor"])
    assert "compute" not in completed(shell, ["fibo", "wor"])
    assert "--result-backend" in completed(shell, ["fibo", "compute", "--res"])
    assert "short" in completed(shell, ["fibo", "compute", "--digits", "sh"])
