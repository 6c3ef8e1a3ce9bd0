"""Every command in a page or README is typed as it stands there, or is in `support.commands.NOT_RUN` with the reason.

Each page has a reader, who types its commands in order: what ends must end well and print what the page shows; what
goes on, a worker or a service, must become ready, and end well. Meanwhile the page's programs run with the
workers that it had started. Only ports, hosts and passwords of somebody else's are replaced. The console of the page on
the command line is typed by `test_command_line_page`.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.acl import make_users
from support.ca import Authority, tls_server
from support.commands import LANGUAGES, NOT_RUN, RUN_ELSEWHERE, RUNNABLE, check, known_variables, typed
from support.examples import EXAMPLES, matches, promised, run_program
from support.pages import DOCS, PAGES, ROOT, blocks, shown_files
from support.programs import started
from support.sentinels import Sentinel
from support.servers import free_port, stock_worker
from support.waiting import eventually, until

from fibo_client.celery import CeleryClient
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters

HOW_TO = DOCS / "how-to"
COMMAND_LINE = HOW_TO / "command-line.md"
DEAD_LETTERS = HOW_TO / "dead-letters.md"
DEPLOY = HOW_TO / "deploy.md"

# Of what the reader of a page has a copy, where that matters.
COPIES = {
    HOW_TO / "own-tasks.md": EXAMPLES,
    HOW_TO / "priorities.md": EXAMPLES,
    HOW_TO / "protect.md": EXAMPLES,
    DOCS / "tutorial.md": EXAMPLES / "tutorial",
}

IN_THE_REPOSITORY = {ROOT / "README.md", HOW_TO / "serve.md", HOW_TO / "serve-your-celery-app.md"}

GOES_ON = re.compile(r"(celery .*\bworker|fibo-worker (start|dev)|uvicorn)\b")
"""What goes on until Ctrl-C."""

PORT = re.compile(r"(?<=--port )\d+|(?<=-port )\d+|(?<=127\.0\.0\.1:)\d+")

BIN = Path(sys.executable).parent


def commands(page):
    return [
        each
        for block in blocks(page)
        if block.language in LANGUAGES and (page, block.language) != (COMMAND_LINE, "console")
        for each in typed(block.text)
    ]


@dataclass(frozen=True)
class Elsewhere:
    """What stands for somebody else's servers: what to put in place of their names, and which variables to set."""

    replaced: dict = field(default_factory=dict)
    env: dict = field(default_factory=dict)
    url: str = ""


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Make one Redis answer by TLS, by a Sentinel and for the users of the page on security, with a worker on it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    authority = Authority(folder)
    with tls_server(authority.sign("server", "localhost"), authority.cert) as (server, port):
        make_users(server)
        sentinel = Sentinel(folder / "sentinel", server.port, "cache")
        prefixed = {"broker_transport_options": {"global_keyprefix": "staging-"}}
        try:
            until(sentinel.knows_its_master)
            with WorkerProcess(server.url, stop_timeout=0), stock_worker(server.url, conf=prefixed):
                replaced = {
                    "//one:26379": f"//127.0.0.1:{sentinel.port}",
                    "//cache:6379": f"//localhost:{port}",
                    "@redis.example:6380": f"@localhost:{port}",
                    "/etc/ssl/ours.pem": str(authority.cert),
                }
                yield Elsewhere(replaced, {"SSL_CERT_FILE": str(authority.cert)}, server.url)
        finally:
            sentinel.kill()


class Reader:
    """Somebody who types the commands of one page, in as many terminals as it takes."""

    def __init__(self, page, server, folder, elsewhere, stack):
        self.page = page
        self.server = server
        self.folder = ROOT if page in IN_THE_REPOSITORY else folder
        self.elsewhere = elsewhere
        self.stack = stack
        self.url = elsewhere.url or server.fresh_url()
        self.id = ""
        self.exported = {}
        self.ports = {}
        self.running = []
        self.workers = []

    def type(self, each):
        if each.first_words or each.command in RUN_ELSEWHERE:
            assert not each.answer, f"{each.command} is not run here, so nobody knows what it answers"
            if each.first_words:
                check(each.command)
            return
        assert each.program in RUNNABLE, f"{each.command!r} is neither run nor in support.commands.NOT_RUN"
        command = self.here(each.command)
        words = shlex.split(command)
        if each.program == "cd":
            self.folder /= words[1]
            assert self.folder.is_dir(), words
        elif each.program == "export":
            self.exported |= dict(word.split("=", 1) for word in words[1:])
            assert set(self.exported) <= known_variables()
        elif GOES_ON.match(command):
            assert not each.answer
            self.start(command)
        else:
            self.run(command, each.answer)

    def here(self, command):
        """Give a command with the ports, hosts and ids of this run."""
        command = PORT.sub(lambda found: str(self.port(found[0])), command)
        for theirs, ours in {"redis://localhost:6379/0": self.url, **self.elsewhere.replaced}.items():
            command = command.replace(theirs, ours)
        if re.search(r"\bID\b", command):
            if not self.id:
                self.id = self.shell("fibo call tasks.sqrt_task --args '[16]' --no-wait").stdout.strip()
            command = re.sub(r"\bID\b", self.id, command)
        return command

    def port(self, number):
        return self.ports.setdefault(number, free_port())

    def env(self, url):
        return {
            "CELERY_BROKER_URL": url,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Where a page has no option for it: the port of uvicorn, and the environment that make uses.
            "UVICORN_PORT": str(self.port("8000")),
            "MAKEFLAGS": f"--old-file=.venv/.ready -- BIN={BIN}",
            **self.elsewhere.env,
            **self.exported,
        }

    def shell(self, command):
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env={**os.environ, **self.env(self.url)}, input="y\n",
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def run(self, command, answer):
        if command.startswith("fibo-worker dead "):
            with self.server.client(self.url) as direct:
                direct.flushdb()
                dead_letters = DeadLetters(direct, "celery", limit=5)
                for number in range(5):
                    dead_letters.push(DeadLetter.now("it is no good", b"%d" % number, queue="celery", task="t"))
        if command.startswith("python3 -m venv "):
            command += " --without-pip"  # It takes five seconds, and is not used here.
        done = self.shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if answer:
            assert matches(answer, done.stdout), f"{command}\n{done.stdout}"

    def start(self, command):
        """Start what goes on. Each worker has a database of its own, and so gets only the tasks that it knows."""
        is_worker = not command.startswith(("uvicorn ", "fibo-worker dev"))
        url = self.exported.get("CELERY_BROKER_URL", self.server.fresh_url()) if is_worker else self.url
        program = self.stack.enter_context(started("bash", "-c", command, env=self.env(url), cwd=self.folder))
        self.running.append((command, program))
        if is_worker:
            self.workers.append((command, url, program))
        elif command.startswith("uvicorn "):
            program.wait_for("Uvicorn running on", 60)
        else:
            (self.url,) = re.findall(r"export CELERY_BROKER_URL=(\S+)", program.wait_for("Ctrl-C stops both.", 60))

    async def use_workers(self):
        """See that each worker answers, and run the programs of the page with those that the page has started."""
        for command, url, program in self.workers:
            if command.startswith("fibo-worker "):
                program.wait_for(" ready.", 60)
            else:  # Celery's own command does not say by itself when it is ready.
                await answered(url, command, program)
        for path in shown_files(self.page) if self.workers else ():
            text = path.read_text()
            if path.suffix == ".py" and "\n# Prints:\n" in text:
                (url,) = (
                    url for command, url, _ in self.workers if ("proj.tasks" in command) == ("proj.tasks" in text)
                )
                printed = run_program(path, CELERY_BROKER_URL=url)
                assert matches(promised(text), printed), printed

    def leave(self):
        for _, program in self.running:
            # At Ctrl-C a worker ends likewise, but with the status 1.
            is_worker = any(program is each for *_, each in self.workers)
            program.process.send_signal(signal.SIGTERM if is_worker else signal.SIGINT)
        for command, program in self.running:
            assert program.process.wait(30) == 0, f"{command}\n{program.text}"


async def answered(url, command, program):
    """Wait until a worker answers."""
    async with CeleryClient(url) as client:
        await eventually(
            lambda: client.ping(timeout=1), lambda: f"{command}: no worker answers\n{program.text}", timeout=60
        )


@pytest.mark.timeout(180)  # Several programs, each of which may take its time on a busy machine.
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if commands(page)]
)
async def test_the_commands_of_a_page_do_what_it_says(page, redis_server, tmp_path, request):
    theirs = page in (COMMAND_LINE, DEPLOY)
    if page in COPIES:
        shutil.copytree(COPIES[page], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    with contextlib.ExitStack() as stack:
        elsewhere = request.getfixturevalue("elsewhere") if theirs else Elsewhere()
        reader = Reader(page, redis_server, tmp_path, elsewhere, stack)
        for each in commands(page):
            reader.type(each)
        await reader.use_workers()
        reader.leave()


def test_no_command_is_excused_that_no_page_has():
    shown = [each for page in PAGES for each in commands(page)]
    assert {each.first_words for each in shown} - {None} == set(NOT_RUN)
    assert {each.command for each in shown} >= set(RUN_ELSEWHERE)


def test_a_command_that_nobody_has_a_word_on_is_refused(redis_server, tmp_path):
    with contextlib.ExitStack() as stack:
        reader = Reader(ROOT / "README.md", redis_server, tmp_path, Elsewhere(), stack)
        with pytest.raises(AssertionError, match="neither run nor"):
            reader.type(typed("rm -r /\n")[0])
