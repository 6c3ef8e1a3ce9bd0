"""No page shows code that was not run or checked: every block of every page and README goes by a rule of its language.

- ``python`` runs against real workers. Behind a call of `print`, a comment says what it prints. What else a program
  writes, an error that ends it included, stands in a block ``text`` of the same page.
- ``console``, ``sh``, ``bash`` and blocks without a fence are commands: `test_documented_commands` types them.
- ``text`` is what something really said, with three dots for what differs from time to time.
- ``ini``, ``json``, ``toml`` and ``yaml`` are parsed.

Files that pages include have tests of their own: `test_examples`.
"""

import configparser
import functools
import json
import logging
import re
import shlex
import signal
import sys
import time
import tomllib

import httpx
import pytest
import yaml
from support.acl import lines as users
from support.commands import LANGUAGES as COMMANDS
from support.examples import EXAMPLES, matches
from support.pages import DOCS, PAGES, ROOT, all_blocks, blocks
from support.programs import FIBO_WORKER, run, started
from support.servers import RedisServer, free_port

from fibo_client.celery import CeleryClient
from fibo_client.errors import TransportError

PARSERS = {
    "ini": lambda text: configparser.ConfigParser().read_string(text),
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}
TROUBLESHOOTING = DOCS / "how-to" / "troubleshooting.md"
SECURITY = DOCS / "explanation" / "security.md"
MEASURING = DOCS / "how-to" / "trace-and-measure.md"


def cases(*languages):
    return [pytest.param(block, id=block.where) for block in all_blocks(*languages)]


def test_every_block_is_in_a_language_that_has_a_rule():
    ruled = {"python", "text", *COMMANDS, *PARSERS}
    assert [block.where for block in all_blocks() if block.language not in ruled] == []


def test_no_page_shows_code_by_a_directive_that_nobody_runs():
    directives = re.compile(r"^ *`{3,}\{(code|code-block|sourcecode|parsed-literal|testcode)\}", re.MULTILINE)
    assert [str(page) for page in PAGES if directives.search(page.read_text())] == []


# Programs.


@functools.cache
def run_program(program, url):
    """Run a program as it stands. Several tests look at what it wrote, and it is run once for them."""
    return run(sys.executable, "-W", "error", "-c", program, CELERY_BROKER_URL=url)


@pytest.fixture
def ran(worker, proj):
    """Run a program of a page with the worker that it calls."""
    return lambda program: run_program(program, proj.url if "proj.tasks" in program else worker.admin_url)


def commented(program):
    """What the comments behind calls of print say."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


def last_words(stderr):
    """The line that ends a traceback, or several where the message has some."""
    return re.split(r"^(?=[\w.]+(?:Error|Exception|Group)?: )", stderr, flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("block", cases("python"))
def test_a_program_in_a_page_does_what_the_page_says(block, ran):
    done = ran(block.text)
    shown = [other.text for other in blocks(block.page) if other.language == "text"]
    if done.returncode:
        assert any(matches(text, last_words(done.stderr)) for text in shown), done.stderr
    else:
        assert done.stderr == ""
    promises = commented(block.text)
    if done.stdout.splitlines() != promises:
        assert not promises, done.stdout
        assert any(matches(text, done.stdout) for text in shown), done.stdout


@pytest.mark.parametrize("block", cases("text"))
def test_what_a_page_quotes_was_really_said(block, ran):
    if block.page == SECURITY:
        # `support.acl` makes the users by these lines, for the worker and the client of many tests.
        assert shlex.split(block.text) in users()
    elif block.page == MEASURING:
        # Questions to Prometheus: of metrics that the worker has.
        metrics = re.findall(r"fibo_worker_\w+?(?=_total\b|_bucket\b|\b)", block.text)
        source = (ROOT / "fibo_worker" / "src" / "fibo_worker" / "guard" / "prometheus.py").read_text()
        assert metrics
        assert [name for name in metrics if f'"{name}"' not in source] == []
    elif " is gone, trying again: " in block.text:
        assert block.page == TROUBLESHOOTING  # The next test compares it.
    else:
        runs = [ran(other.text) for other in blocks(block.page) if other.language == "python"]
        said = [text for done in runs for text in (done.stdout, last_words(done.stderr))]
        assert any(matches(block.text, each) for each in said), "\n".join(said)


async def test_an_outage_is_logged_as_the_page_says(caplog):
    (block,) = (block for block in blocks(TROUBLESHOOTING) if " is gone, trying again: " in block.text)
    caplog.set_level(logging.INFO, "fibo_client")
    port = free_port()
    server = RedisServer(port=port)
    server.start()
    async with CeleryClient(f"redis://127.0.0.1:{port}/0") as client:
        await client.ping(timeout=0.1)
        server.stop()
        for _ in range(2):
            with pytest.raises(TransportError):
                await client.send_task("proj.tasks.add", (2, 3))
        with RedisServer(port=port):
            deadline = time.monotonic() + 20
            while len(caplog.messages) < 2 and time.monotonic() < deadline:
                try:
                    await client.send_task("proj.tasks.add", (2, 3))
                except TransportError:
                    continue
    assert matches(block.text, "\n".join(caplog.messages)), caplog.messages


# What is parsed.


def test_what_is_configuration_can_be_parsed():
    for block in all_blocks(*PARSERS):
        PARSERS[block.language](block.text)


def test_the_tutorial_s_service_answers_503_once_dev_has_stopped_and_goes_on_once_it_is_back_on_its_port():
    port = free_port()
    asked = f"http://127.0.0.1:{port}/fibonacci?n=10"
    ready = "Ctrl-C stops both."
    with started(*FIBO_WORKER, "dev") as dev:
        url, redis_port = re.search(r"export CELERY_BROKER_URL=(\S+:(\d+)/\S*)", dev.wait_for(ready)).groups()
        env = {"CELERY_BROKER_URL": url, "PYTHONPATH": str(EXAMPLES / "tutorial"), "PYTHONDONTWRITEBYTECODE": "1"}
        with started(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), env=env) as program:
            program.wait_for("Uvicorn running on")
            assert httpx.get(asked, timeout=20).json() == ["55"]
            assert dev.end(signal.SIGINT) == 0
            assert dev.text.endswith("Stopped.\n")
            assert httpx.get(asked, timeout=20).status_code == 503
            with started(*FIBO_WORKER, "dev", "--port", redis_port) as again:
                again.wait_for(ready)
                assert httpx.get(asked, timeout=20).json() == ["55"]
                assert again.end(signal.SIGINT) == 0
            assert program.end(signal.SIGINT) == 0


# The READMEs.


@pytest.mark.parametrize("name", ["fibo_client", "fibo_worker"])
def test_a_readme_for_the_package_index_has_no_link_that_works_only_in_the_repository(name):
    prose = re.sub(r"^```.*?^```$", "", (ROOT / name / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
