"""The errors that a stranger meets first: each in a program of its own, against the real thing, as it comes out.

Every message must say what is wrong and what to do, come quickly, show no password, and come before anything was sent
where nothing should have been.
"""

from __future__ import annotations

import ast
import functools
import http.server
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gmpy2
import pytest
from support.ca import Authority, tls_server
from support.servers import RedisServer, free_port

from fibo_client import ConfigError, FiboClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PASSWORD = "s3cr3t"

PICKLED = ["cannot be pickled or copied", "Make a client in each process", "CeleryClient.result(id)"]

HEAD = """
import asyncio, sys
from fibo_client import *
from fibo_client.celery import *
URL = sys.argv[1]
"""

QUICK = 20.0
"""Seconds within which an error that waits for nothing must be there: ten times what a busy machine takes."""


@dataclass
class Ending:
    """How a program ended, and the last error that it wrote."""

    status: int
    out: str
    err: str
    seconds: float
    error: str = field(init=False)

    def __post_init__(self) -> None:
        raised = [line for line in self.err.splitlines() if line[:1].isalpha() and not line.startswith("Traceback")]
        self.error = raised[-1] if raised else ""

    def check(self, error: str, words: Sequence[str]) -> None:
        """Check the type of the error, by its name, and that all words are in its message."""
        assert self.status == 1, self.out + self.err
        kind, _, message = self.error.partition(": ")
        assert kind.rpartition(".")[2] == error, self.err
        for word in words:
            assert word in message, self.error
        assert PASSWORD not in self.out + self.err
        assert self.seconds < QUICK


def run_program(folder: Path, program: str, url: str = "", *options: str, **env: str) -> Ending:
    """Run a program as a stranger does: from a file, with nothing set."""
    path = folder / "program.py"
    path.write_text(HEAD + textwrap.dedent(program))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *options, path, url],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return Ending(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@pytest.fixture
def run(tmp_path):
    return functools.partial(run_program, tmp_path)


@pytest.fixture
def untouched(redis_server):
    """A database of its own. In the end nothing was sent there."""
    url = redis_server.fresh_url()
    yield url
    with redis_server.client(url) as client:
        assert client.keys() == []


def opened(body: str, url: str = "URL", **settings: object) -> str:
    """A program that runs this in a client that is open."""
    said = "".join(f", {name}={value!r}" for name, value in settings.items())
    inner = textwrap.indent(textwrap.dedent(body), " " * 8)
    return f"async def main():\n    async with FiboClient({url}{said}) as client:\n{inner}\n\nasyncio.run(main())\n"


def main(body: str) -> str:
    return f"async def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n\nasyncio.run(main())\n"


# The URL.

URLS = [
    ("http://localhost:6379/0", ["http:// is not known", "redis://localhost:6379/0"]),
    (f"https://:{PASSWORD}@localhost", ["https:// is not known", "redis://localhost:6379/0"]),
    ("tcp://localhost:6379", ["tcp:// is not known", "redis://"]),
    ("reddis://localhost", ["reddis:// is not known", "redis://"]),
    ("redis//localhost:6379/0", ["has no '://'", "as in redis://localhost:6379/0"]),
    ("redis:localhost:6379", ["has no '://'", "as in redis://localhost:6379/0"]),
    ("localhost:6379", ["has no '://'", "as in redis://localhost:6379/0"]),
    ("127.0.0.1", ["has no '://'", "as in redis://localhost:6379/0"]),
    (f"user:{PASSWORD}@localhost:6379", ["has no '://'", "as in redis://localhost:6379/0"]),
    ("redis://localhost:6379/zero", ["must be the number of a database", "redis://localhost:6379/0"]),
    ("redis:///localhost", ["must be the number of a database", "redis://localhost:6379/0"]),
    ("redis://localhost:6379/0/1", ["must be the number of a database"]),
    ("redis://localhost:port/0", ["port must be a number", "6379"]),
    ("redis://localhost:63790000/0", ["port must be a number", "6379"]),
    ("redis://localhost,6379/0", ["not a host name", "redis://localhost:6379/0"]),
    ("redis://<your-host>:6379/0", ["not a host name"]),
    ("redis://${REDIS_HOST}:6379/0", ["not a host name"]),
    ("redis://one:6379;redis://two:6379", ["sentinel://"]),
    ("'redis://localhost:6379/0'", ["quotation mark", "leave it out"]),
    ("redis://localhost:6379/0 ", ["a space"]),
    (f"redis://:{PASSWORD}@@localhost", ["percent-encoded", "'@' as %40"]),
    (f"redis://:pa/{PASSWORD}@localhost", ["percent-encoded", "'/' as %2F"]),
    ("rediscluster://localhost:6379", ["Redis Cluster is not supported", "sentinel://"]),
    (f"amqp://guest:{PASSWORD}@localhost//", ["amqp:// cannot be used", "only Redis is supported"]),
    (f"sqs://{PASSWORD}:key@", ["sqs:// cannot be used", "only Redis is supported"]),
    ("unix:///run/redis.sock", ["redis+socket:///path/to/redis.sock"]),
    ("redis+tls://localhost", ["rediss://, with two s"]),
    ("sentinel://localhost:26379/0", ["master_name"]),
    ("redis://localhost/0?ssl_cert_reqs=none", ["needs the scheme rediss://"]),
    (f"redis://localhost/0?password={PASSWORD}", ["user:password@host"]),
]  # fmt: skip


@pytest.mark.parametrize(("url", "words"), URLS, ids=[url.replace("/", "|") for url, _ in URLS])
def test_a_wrong_url_is_refused_with_the_right_spelling(url, words):
    with pytest.raises(ConfigError) as caught:
        FiboClient(url)
    message = "".join(traceback.format_exception_only(caught.value))
    for word in ["broker_url (or CELERY_BROKER_URL): ", *words]:
        assert word in message
    assert PASSWORD not in message
    assert caught.value.__context__ is None


def test_a_wrong_url_in_the_environment_is_said_to_be_there(run):
    ending = run("CeleryClient()", CELERY_BROKER_URL="localhost:6379")
    ending.check("ConfigError", ["CELERY_BROKER_URL", "has no '://'"])
    ending = run("CeleryClient()", CELERY_RESULT_BACKEND="db+sqlite:///results.db")
    ending.check("ConfigError", ["CELERY_RESULT_BACKEND", "only Redis is supported"])


# Redis.

CALL = "print(await client.fibonacci(5))"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (CALL, "PublishError"),
        ("print(await client.fibonacci_many([4, 3]))", "PublishError"),
        ("print(await client.submit(5))", "PublishError"),
        ("print(await client.celery.send_task('tasks.add', (2, 3)))", "PublishError"),
        ("print(await client.celery.result('x').ready())", "ReadError"),
        ("print(await client.celery.result('x').get(timeout=1))", "ResultTimeoutError"),
        ("print(await client.celery.ping())", "TransportError"),
        ("print(await client.celery.inspect().active())", "TransportError"),
        ("print(await client.celery.diagnose(client.celery.result('x')))", "TransportError"),
    ],
)
def test_without_a_redis_the_address_is_told_and_whether_it_runs_is_asked(run, call, error):
    port = free_port()
    ending = run(opened(call, f"'redis://:{PASSWORD}@localhost:{port}/0'"))
    ending.check(error, [f"redis://localhost:{port}/0", "Is Redis running there?"])


@pytest.mark.parametrize(
    ("setting", "before"),
    [
        ("", [""]),
        ("basicConfig(level=logging.WARNING)", ["WARNING:fibo_client:"]),
        ("basicConfig(level=logging.WARNING, format='%(name)s: %(message)s')", ["fibo_client: "]),
        ("getLogger('fibo_client').setLevel(logging.ERROR)", []),
    ],
    ids=["nothing set", "basicConfig", "with a format", "errors only"],
)
def test_an_outage_is_on_stderr_as_python_s_logging_is_set_up(run, setting, before):
    twice = "for _ in range(2):\n    try:\n        await client.fibonacci(5)\n    except PublishError: pass"
    port = free_port()
    set_up = f"import logging; logging.{setting}\n" if setting else ""
    ending = run(set_up + opened(twice, f"'redis://localhost:{port}/0'"))
    assert (ending.status, ending.out) == (0, "")
    lines = [line.partition("Redis is gone, trying again: redis://localhost:") for line in ending.err.splitlines()]
    assert [line[0] for line in lines] == before
    assert all(line[2].startswith(f"{port}/0: ") for line in lines)


def test_a_host_that_does_not_exist_is_told(run):
    ending = run(opened(CALL, "'redis://no-such-host.invalid:6379/0'"))
    ending.check("PublishError", ["no-such-host.invalid", "Is the host's name right?"])


def test_a_socket_that_does_not_exist_is_told(run, tmp_path):
    ending = run(opened(CALL, f"'redis+socket://{tmp_path}/redis.sock'"))
    ending.check("PublishError", ["redis.sock", "Is Redis running, and is that the path of its socket?"])


class _Web(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_port_of_another_service_is_told(run):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            plain = run(opened(CALL, f"'redis://127.0.0.1:{web.server_port}'"))
            secure = run(opened(CALL, f"'rediss://127.0.0.1:{web.server_port}'"))
        finally:
            web.shutdown()
            thread.join()
    plain.check("PublishError", ["Is that the port of a Redis"])
    secure.check("PublishError", ["Does that port speak TLS?"])


@pytest.fixture(scope="module")
def locked():
    """A Redis that wants a password."""
    with RedisServer(password="right") as server:
        yield server


@pytest.mark.parametrize("call", [CALL, "await client.celery.send_task('x')"], ids=["fibonacci", "send_task"])
@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("", ["Redis wants a password: redis://:password@host"]),
        (f":{PASSWORD}@", ["Check the user name and the password in the URL"]),
        (f"bob:{PASSWORD}@", ["Check the user name and the password in the URL"]),
    ],
    ids=["no password", "wrong password", "unknown user"],
)
def test_a_password_that_is_wrong_or_missing_is_told(run, locked, who, words, call):
    ending = run(opened(call, f"'redis://{who}127.0.0.1:{locked.port}/0'"))
    ending.check("PublishError", [f"redis://127.0.0.1:{locked.port}/0: ", *words])


def test_a_password_for_a_redis_that_has_none_is_told(run, redis_server):
    ending = run(opened(CALL, f"'redis://:{PASSWORD}@127.0.0.1:{redis_server.port}/0'"))
    ending.check("PublishError", ["has no password: leave it out of the URL"])


def test_a_database_that_is_not_there_is_told(run, redis_server):
    ending = run(opened(CALL, f"'redis://127.0.0.1:{redis_server.port}/99999'"))
    ending.check("PublishError", ["DB index is out of range", "0 to 15"])


def test_a_redis_that_is_taken_for_a_sentinel_is_told(run, redis_server):
    ending = run(opened(CALL, f"'sentinel://127.0.0.1:{redis_server.port}/0'", master_name="mymaster"))
    ending.check("PublishError", ["no Sentinel, whose port is 26379"])


def test_tls_to_a_redis_without_it_is_told(run, redis_server):
    url = f"'rediss://127.0.0.1:{redis_server.port}/0'"
    ending = run(opened(CALL, url, io_timeout=1))
    ending.check("PublishError", ["no connection within 1 s", "Does that port speak TLS?", "redis://"])
    ending = run(opened("print(await client.fibonacci(5, timeout=0.5))", url, io_timeout=1))
    ending.check("ResultTimeoutError", ["had not answered by then", "with TLS or without"])


def test_a_redis_with_tls_that_is_taken_for_one_without_is_told(run, tmp_path):
    authority = Authority(tmp_path)
    with tls_server(authority.sign("good", "127.0.0.1"), authority.cert) as (_, port):
        plain = run(opened(CALL, f"'redis://127.0.0.1:{port}/0'"))
        untrusted = run(opened(CALL, f"'rediss://127.0.0.1:{port}/0'"))
    plain.check("PublishError", ["Redis closed it at once", "does it want TLS? Then the scheme is rediss://"])
    untrusted.check("PublishError", ["Give the authority that signed it: ssl_ca_certs"])


# Workers.


@pytest.mark.parametrize(
    "call",
    [
        "print(await client.fibonacci(5, timeout=1))",
        "print(await client.celery.call('tasks.add', 2, 3, timeout=1))",
        "print(await (await client.submit(5)).get(timeout=1))",
        "print(await client.fibonacci_many([5, 6], timeout=1))",
    ],
)
def test_that_no_worker_listens_is_told(run, redis_server, call):
    ending = run(opened(call), url := redis_server.fresh_url())
    ending.check("ResultTimeoutError", ["last known state is PENDING", f"No worker listens on {url}: start one"])


ASK = """
try:
    print(await client.fibonacci(5, timeout=1, queue="fibbo"))
except ResultTimeoutError as error:
    print(await client.celery.diagnose(error))
    raise
"""


def test_that_no_worker_takes_from_a_queue_is_told_by_the_diagnosis_of_the_error(run, worker):
    ending = run(opened(ASK), worker.admin_url)
    ending.check("ResultTimeoutError", ["sent to 'fibbo'", "CeleryClient.diagnose(error)"])
    assert "no worker takes tasks from 'fibbo' (start one with -Q fibbo)" in ending.out


def test_a_task_that_no_worker_knows_is_told(run, worker):
    ending = run(opened("await client.celery.call('tasks.ad', 2, 3)"), worker.url)
    ending.check(
        "TaskFailedError",
        ["NotRegistered('tasks.ad'): the worker that took it from the queue 'celery' knows no task of that name"],
    )


def test_that_client_and_worker_have_each_a_limit_of_their_own_is_told(run, worker):
    calls = "client.fibonacci(10_000_001), client.celery.call('fibo.fibonacci', 10_000_001)"
    ending = run(opened(f"print(*await asyncio.gather({calls}, return_exceptions=True), sep='\\n')"), worker.url)
    client, remote = ending.out.splitlines()
    assert client == "n must be at most 10000000, not 10000001 (the client's max_n)"
    assert "n must be at most 10000000, not 10000001 (the worker's FIBO_MAX_N)" in remote


def test_printing_a_huge_number_says_how_and_computing_with_it_needs_nothing(run, worker):
    ending = run(opened("number = await client.fibonacci(30_000)\nprint(number % 1000)\nprint(number)"), worker.url)
    # It is a Python int, so CPython says it: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
    ending.check("ValueError", ["4300 digits", "sys.set_int_max_str_digits()"])
    assert ending.out == f"{int(gmpy2.fib(30_000)) % 1000}\n"


# A forgotten await.


@pytest.mark.parametrize(
    "statement",
    [
        "print(client.fibonacci(5))",
        "print(f'{client.fibonacci(5)}')",
        "client.fibonacci(5)",
        "answer = client.fibonacci(5); del answer",
    ],
)
def test_a_call_that_is_not_awaited_is_named_by_python(run, untouched, statement):
    ending = run(opened(statement), untouched)
    assert ending.status == 0
    assert "RuntimeWarning: coroutine 'FiboClient.fibonacci' was never awaited" in ending.err
    assert ending.out.startswith("<coroutine object FiboClient.fibonacci at 0x" if "print" in statement else "")


def test_a_question_that_is_printed_says_how_to_ask_it(run, untouched):
    ending = run(opened("print(client.celery.result('x').ready())"), untouched)
    assert ending.out == "<coroutine, write: await result.ready()>\n"
    assert "was never awaited" in ending.err


STATEMENTS = [
    # Without its `await`, a call is a coroutine.
    ("client.fibonacci(5) + 1", "TypeError", ["'coroutine' and 'int'"]),
    ("client.fibonacci(5) > 1", "TypeError", ["'coroutine' and 'int'"]),
    ("client.fibonacci_many([4, 3])[0]", "TypeError", ["'coroutine' object is not subscriptable"]),
    ("sum(client.fibonacci_many([4, 3]))", "TypeError", ["'coroutine' object is not iterable"]),
    (
        "await client.fibonacci(client.fibonacci(5))",
        "TypeError",
        ["n must be an integer, not coroutine", "is an `await` missing?"],
    ),
    (
        "await client.fibonacci_many(client.fibonacci(5))",
        "TypeError",
        ["ns must be an iterable of integers", "is an `await` missing?"],
    ),
    ("client.stream(client.fibonacci(5))", "TypeError", ["source must be an iterable", "is an `await` missing?"]),
    (
        "await client.ready([client.submit(5)])",
        "TypeError",
        ["must be an AsyncResult, not coroutine", "is an `await` missing"],
    ),
    (
        "await client.ready(client.submit_many([5]))",
        "TypeError",
        ["must be a list of AsyncResults, not coroutine", "`await`"],
    ),
    (
        "await client.celery.gather([client.submit(5)])",
        "TypeError",
        ["must be an AsyncResult, not coroutine", "`await`"],
    ),
    (
        "await client.celery.gather([client.fibonacci(5)])",
        "TypeError",
        ["not coroutine", "For calls there is asyncio.gather"],
    ),
    ("await client.celery.revoke(client.submit(5))", "TypeError", ["must be an AsyncResult, not coroutine", "`await`"]),
    (
        "await client.celery.revoke([client.submit(5)])",
        "TypeError",
        ["must be an AsyncResult, not coroutine", "`await`"],
    ),
    (
        "await client.celery.diagnose(client.submit(5))",
        "TypeError",
        ["must be an AsyncResult, not coroutine", "`await`"],
    ),
    (
        "await client.celery.call_many([client.fibonacci(5)])",
        "TypeError",
        ["call_many takes signatures", "not coroutine"],
    ),
    # A handle is not its answer.
    ("await client.celery.result('x').get", "TypeError", ["object method can't be used in 'await' expression"]),
    ("client.submit(5).get()", "AttributeError", ["'coroutine' object has no attribute 'get'"]),
    ("client.celery.send_task('add').id", "AttributeError", ["'coroutine' object has no attribute 'id'"]),
    ("for handle in client.submit_many([4, 3]): pass", "TypeError", ["'coroutine' object is not iterable"]),
    ("client.fibonacci(10) + 1", "TypeError", ["unsupported operand type(s) for +: 'coroutine' and 'int'"]),
    ("client.celery.result('x') + 1", "TypeError", ["'AsyncResult' and 'int'"]),
    # A question is not its answer either.
    ("if result.ready(): pass", "TypeError", ["this is a coroutine, not its answer", "write: await result.ready()"]),
    (
        "while not result.ready(): pass",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await result.ready()"],
    ),
    ("result.ready() == True", "TypeError", ["this is a coroutine, not its answer", "write: await result.ready()"]),
    (
        "if result.state() == 'SUCCESS': pass",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await result.state()"],
    ),
    (
        "while result.state() != 'SUCCESS': pass",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await result.state()"],
    ),
    (
        "if client.ready([result]): pass",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await client.ready(results)"],
    ),
    (
        "all(client.ready([result]))",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await client.ready(results)"],
    ),
    (
        "client.ready([result])[0]",
        "TypeError",
        ["this is a coroutine, not its answer", "write: await client.ready(results)"],
    ),
    # Wrong arguments.
    ("await client.fibonacci('5')", "TypeError", ["n must be an integer, not str; use int(...)"]),
    ("await client.fibonacci(5.0)", "TypeError", ["n must be an integer, not float; use int(...)"]),
    ("await client.fibonacci([5])", "TypeError", ["n must be an integer, not list", "fibonacci_many()"]),
    ("await client.fibonacci(None)", "TypeError", ["n must be an integer, not NoneType"]),
    ("await client.fibonacci(-1)", "ValueError", ["n must be 0 or more, not -1"]),
    ("await client.fibonacci(10 ** 5000)", "ValueError", ["n must be at most 10000000, not an integer of"]),
    ("await client.fibonacci_many(5)", "TypeError", ["such as [4, 3, 8], not int", "fibonacci()"]),
    ("await client.fibonacci_many('12')", "TypeError", ["such as [4, 3, 8], not str"]),
    ("await client.fibonacci_many(b'12')", "TypeError", ["such as [4, 3, 8], not bytes"]),
    ("await client.fibonacci_many(None)", "TypeError", ["such as [4, 3, 8], not NoneType"]),
    ("await client.fibonacci_many(['1'])", "TypeError", ["n must be an integer, not str; use int(...)"]),
    (
        "await client.fibonacci_many(n async for n in client.stream([1]))",
        "TypeError",
        ["stream() takes an async iterable"],
    ),
    ("await client.submit_many(5)", "TypeError", ["such as [4, 3, 8], not int"]),
    ("await client.submit([5])", "TypeError", ["n must be an integer, not list", "fibonacci_many()"]),
    ("client.stream(5)", "TypeError", ["source must be an iterable or async iterable of integers, not int"]),
    ("await client.sqrt('4')", "TypeError", ["value must be a number, not str"]),
    ("await client.fibonacci(5, timeout='5')", "TypeError", ["timeout must be a number of seconds or None"]),
    ("await client.fibonacci(5, timeout=-5)", "ValueError", ["must be 0 or more; None is no limit"]),
    ("await client.ready(client.celery.result('x'))", "TypeError", ["a list of AsyncResults", "put it into a list"]),
    ("await client.ready(['x'])", "TypeError", ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.gather(['x'])", "TypeError", ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.diagnose('x')", "TypeError", ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.send_task('add', 2, 3)", "MessageError", ["args must be a list or a tuple", "(value,)"]),
    ("await client.celery.call('add', x=1)", "MessageError", ["'x' is not an option", "kwargs={...}"]),
    ("await client.celery.call(print, 1)", "MessageError", ["a task's name, a RemoteTask or a Signature"]),
    ("await client.celery.call_many(['add'])", "TypeError", ["call_many takes signatures", "not str"]),
    ("await client.celery.send_task('add', ({1},))", "MessageError", ["builtins.set", "JSON cannot carry; send"]),
    ("FiboClient(6379)", "ConfigError", ["broker_url must be text, such as redis://localhost:6379/0, not int"]),
    ("FiboClient(time_out=5)", "ConfigError", ["'time_out' is not a setting", "timeout"]),
    ("FiboClient(timeout='5')", "ConfigError", ["timeout='5' must be a number of seconds"]),
    (
        "from fibo_client.testing import FakeFibo; FiboClient(FakeFibo())",
        "ConfigError",
        ["broker_url must be text; write: transport=FakeFibo(...)"],
    ),
    (
        "from fibo_client.testing import FakeCelery; CeleryClient(transport=FakeCelery)",
        "ConfigError",
        ["must be an object, not a class; write: transport=FakeCelery()"],
    ),
    ("CeleryClient(transport='memory')", "ConfigError", ["must have a connect(), as FakeCelery() has, not be str"]),
    # What is asynchronous says so.
    ("with FiboClient(URL) as client: pass", "TypeError", ["use `async with`"]),
    ("with CeleryClient(URL) as client: pass", "TypeError", ["use `async with`"]),
    ("await FiboClient(URL)", "TypeError", ["FiboClient can't be used in 'await' expression"]),
    ("for n, value in client.stream([1]): pass", "TypeError", ["use `async for`"]),
    ("list(client.stream([1]))", "TypeError", ["use `async for`"]),
    ("with client.stream([1]) as results: pass", "TypeError", ["use `async with`"]),
    ("for update in result.updates(): pass", "TypeError", ["'async_generator' object is not iterable"]),
    # What has connections stays in its process.
    ("import pickle; pickle.dumps(client)", "TypeError", PICKLED),
    ("import pickle; pickle.dumps(client.celery)", "TypeError", PICKLED),
    ("import pickle; pickle.dumps(result)", "TypeError", PICKLED),
    ("import copy; copy.deepcopy(client)", "TypeError", PICKLED),
]

ATTEMPT = """
try:
    {statement}
except Exception as error:
    print([{number}, type(error).__name__, str(error)])
"""


@pytest.fixture(scope="module")
def answers(redis_server, tmp_path_factory):
    """What each of the statements raises, by its number, all of them in one program."""
    attempts = [ATTEMPT.format(statement=each, number=number) for number, (each, _, _) in enumerate(STATEMENTS)]
    program = opened("result = client.celery.result('x')\n" + "".join(attempts))
    ending = run_program(tmp_path_factory.mktemp("statements"), program, url := redis_server.fresh_url())
    assert ending.status == 0, ending.err
    assert not ending.err.replace("RuntimeWarning", "").count("Traceback")
    with redis_server.client(url) as client:
        assert client.keys() == []
    return {number: (kind, text) for number, kind, text in map(ast.literal_eval, ending.out.splitlines())}


@pytest.mark.parametrize("number", range(len(STATEMENTS)), ids=[statement for statement, _, _ in STATEMENTS])
def test_a_mistake_is_refused_with_what_to_write(answers, number):
    _, error, words = STATEMENTS[number]
    kind, text = answers[number]
    assert kind == error
    for word in words:
        assert word in text


# Opening, closing, and where a client lives.

STATES = [
    ("client = FiboClient(URL)\nawait client.fibonacci(5)", ["not opened yet", "inside `async with`", "open() first"]),
    ("async with FiboClient(URL) as client: pass\nawait client.fibonacci(5)", ["is closed", "make a new one"]),
    ("async with FiboClient(URL) as client:\n    async with client: pass", ["open already", "use it as it is"]),
    ("client = FiboClient(URL)\nfor _ in 1, 2:\n    async with client: pass", ["is closed", "make a new one"]),
    ("async with FiboClient(URL) as client:\n    await asyncio.to_thread(lambda: asyncio.run(client.fibonacci(5)))",
     ["opened on another event loop", "one client on each loop"]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), STATES, ids=["unopened", "closed", "twice", "again", "another loop"])
def test_a_client_that_cannot_be_used_here_says_where_it_can(run, untouched, body, words):
    run(main(body), untouched).check("ClientStateError", words)


def test_a_client_does_not_outlive_its_asyncio_run(run, untouched):
    program = "client = FiboClient(URL)\nasyncio.run(client.open())\nasyncio.run(client.fibonacci(5))"
    run(program, untouched).check("ClientStateError", ["has been closed", "each asyncio.run() has a loop of its own"])


def test_opening_without_await_is_named_by_python_and_then_by_the_client(run, untouched):
    ending = run(main("client = FiboClient(URL)\nclient.open()\nawait client.fibonacci(5)"), untouched)
    ending.check("ClientStateError", ["not opened yet"])
    assert "coroutine 'FiboClient.open' was never awaited" in ending.err


def test_a_stream_that_is_left_halfway_without_async_with_ends_by_itself(run, worker):
    ending = run(opened("async for n, value in client.stream(range(10_000)):\n    break\nprint(n >= 0)"), worker.url)
    assert (ending.status, ending.out, ending.err) == (0, "True\n", "")


def test_a_client_that_is_not_closed_is_told_in_pythons_development_mode(run, untouched):
    program = main("client = await FiboClient(URL).open()\nawait client.ready([])")
    assert run(program, untouched).err == ""
    assert "ResourceWarning: a fibo_client client was not closed; use `async with`" in run(
        program, untouched, "-X", "dev"
    ).err  # fmt: skip
