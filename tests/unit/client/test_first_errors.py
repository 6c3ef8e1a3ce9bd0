"""The errors that a stranger meets first, where no Redis is needed or none is there. Nothing is sent.

Each says what is wrong and what to do. With a Redis, and with workers, they go on in the other folders.
"""

from __future__ import annotations

import asyncio
import gc
import http.server
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
from unittest import mock

import pytest
from support.first_errors import PASSWORD, raises_soon
from support.servers import free_port

import fibo_client
from fibo_client import (
    ClientStateError,
    ConfigError,
    FiboClient,
    MessageError,
    PublishError,
    ReadError,
    ResultTimeoutError,
    TransportError,
)
from fibo_client import celery as fibo_client_celery
from fibo_client.celery import CeleryClient

NOWHERE = "redis://127.0.0.1:1/0"
"""Who sends anything there meets an error of its own."""

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


@pytest.mark.parametrize(
    ("variable", "url", "word"),
    [
        ("CELERY_BROKER_URL", "localhost:6379", "has no '://'"),
        ("CELERY_RESULT_BACKEND", "reids://localhost", "reids:// is not known"),
    ],
)
def test_a_wrong_url_in_the_environment_is_said_to_be_there(monkeypatch, variable, url, word):
    monkeypatch.setenv(variable, url)
    with raises_soon(ConfigError, variable, word):
        CeleryClient()


# No Redis.


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("fibonacci(5)", PublishError),
        ("fibonacci_many([4, 3])", PublishError),
        ("submit(5)", PublishError),
        ("celery.send_task('tasks.add', (2, 3))", PublishError),
        ("celery.result('x').ready()", ReadError),
        ("celery.result('x').get(timeout=1)", ResultTimeoutError),
        ("celery.ping()", TransportError),
        ("celery.inspect().active()", TransportError),
        ("celery.diagnose(client.celery.result('x'))", TransportError),
    ],
)
async def test_without_a_redis_the_address_is_told_and_whether_it_runs_is_asked(call, error):
    port = free_port()
    async with FiboClient(f"redis://:{PASSWORD}@localhost:{port}/0") as client:
        with raises_soon(error, f"redis://localhost:{port}/0", "Is Redis running there?"):
            await eval(f"client.{call}", {"client": client})


@pytest.mark.parametrize(
    ("set_up", "before"),
    [
        (lambda: None, [""]),
        (lambda: logging.basicConfig(level=logging.WARNING), ["WARNING:fibo_client:"]),
        (
            lambda: logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s"),
            ["fibo_client: "],
        ),
        (lambda: logging.getLogger("fibo_client").setLevel(logging.ERROR), []),
    ],
    ids=["nothing set", "basicConfig", "with a format", "errors only"],
)
async def test_an_outage_is_on_stderr_as_python_s_logging_is_set_up(capsys, set_up, before):
    port = free_port()
    root, logger = logging.getLogger(), logging.getLogger("fibo_client")
    # As in a program that has set up nothing: pytest's own handlers are away.
    with mock.patch.object(root, "handlers", []), mock.patch.object(root, "level", root.level):
        try:
            set_up()
            async with FiboClient(f"redis://localhost:{port}/0") as client:
                for _ in range(2):
                    with pytest.raises(PublishError):
                        await client.fibonacci(5)
        finally:
            logger.setLevel(logging.NOTSET)
    out, err = capsys.readouterr()
    lines = [line.partition(f"redis://localhost:{port}/0 is gone, trying again: ") for line in err.splitlines()]
    assert out == ""
    assert [line[0] for line in lines] == before
    assert all("Is Redis running there?" in line[2] for line in lines)


async def test_a_host_that_does_not_exist_is_told():
    async with FiboClient("redis://no-such-host.invalid:6379/0") as client:
        with raises_soon(PublishError, "no-such-host.invalid", "Is the host's name right?"):
            await client.fibonacci(5)


async def test_a_socket_that_does_not_exist_is_told(tmp_path):
    async with FiboClient(f"redis+socket://{tmp_path}/redis.sock") as client:
        with raises_soon(PublishError, "redis.sock", "Is Redis running, and is that the path of its socket?"):
            await client.fibonacci(5)


class _Web(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("scheme", "word"), [("redis", "Is that the port of a Redis"), ("rediss", "Does that port speak TLS?")]
)
async def test_a_port_of_another_service_is_told(scheme, word):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        try:
            async with FiboClient(f"{scheme}://127.0.0.1:{web.server_port}") as client:
                with raises_soon(PublishError, word):
                    await client.fibonacci(5)
        finally:
            web.shutdown()
            thread.join()


# A forgotten await.


@pytest.fixture
async def client():
    async with FiboClient(NOWHERE) as client:
        yield client


@pytest.mark.parametrize(
    "statement",
    [
        "print(client.fibonacci(5))",
        "print(f'{client.fibonacci(5)}')",
        "client.fibonacci(5)",
        "answer = client.fibonacci(5); del answer",
    ],
)
async def test_a_call_that_is_not_awaited_is_named_by_python(client, capsys, statement):
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'FiboClient\.fibonacci' was never awaited"):
        exec(statement, {"client": client})
    assert capsys.readouterr().out.startswith(
        "<coroutine object FiboClient.fibonacci at 0x" if "print" in statement else ""
    )


PICKLED = ["cannot be pickled or copied", "Make a client in each process", "CeleryClient.result(id)"]

NOT_AWAITED = ["must be an AsyncResult, not coroutine", "is an `await` missing"]

STATEMENTS = [
    # Without its `await`, a call is a coroutine.
    ("client.fibonacci(5) + 1", TypeError, ["'coroutine' and 'int'"]),
    ("client.fibonacci(5) > 1", TypeError, ["'coroutine' and 'int'"]),
    ("client.fibonacci_many([4, 3])[0]", TypeError, ["'coroutine' object is not subscriptable"]),
    ("sum(client.fibonacci_many([4, 3]))", TypeError, ["'coroutine' object is not iterable"]),
    (
        "await client.fibonacci(client.fibonacci(5))",
        TypeError,
        ["n must be an integer, not coroutine", "is an `await` missing?"],
    ),
    (
        "await client.fibonacci_many(client.fibonacci(5))",
        TypeError,
        ["ns must be an iterable of integers", "is an `await` missing?"],
    ),
    ("client.stream(client.fibonacci(5))", TypeError, ["source must be an iterable", "is an `await` missing?"]),
    ("await client.ready([client.submit(5)])", TypeError, NOT_AWAITED),
    (
        "await client.ready(client.submit_many([5]))",
        TypeError,
        ["must be a list of AsyncResults, not coroutine", "`await`"],
    ),
    ("await client.celery.gather([client.submit(5)])", TypeError, NOT_AWAITED),
    (
        "await client.celery.gather([client.fibonacci(5)])",
        TypeError,
        ["not coroutine", "For calls there is asyncio.gather"],
    ),
    ("await client.celery.revoke(client.submit(5))", TypeError, NOT_AWAITED),
    ("await client.celery.revoke([client.submit(5)])", TypeError, NOT_AWAITED),
    (
        "await client.celery.diagnose(client.submit(5))",
        TypeError,
        NOT_AWAITED,
    ),
    (
        "await client.celery.call_many([client.fibonacci(5)])",
        TypeError,
        ["a signature is wanted, such as RemoteTask('proj.add')(2, 3)", "not coroutine"],
    ),
    # A handle is not its answer.
    ("await client.celery.result('x').get", TypeError, ["object method can't be used in 'await' expression"]),
    ("client.submit(5).get()", AttributeError, ["'coroutine' object has no attribute 'get'"]),
    ("client.celery.send_task('add').id", AttributeError, ["'coroutine' object has no attribute 'id'"]),
    ("for handle in client.submit_many([4, 3]): pass", TypeError, ["'coroutine' object is not iterable"]),
    ("client.fibonacci(10) + 1", TypeError, ["unsupported operand type(s) for +: 'coroutine' and 'int'"]),
    ("client.celery.result('x') + 1", TypeError, ["'AsyncResult' and 'int'"]),
    # Wrong arguments.
    ("await client.fibonacci('5')", TypeError, ["n must be an integer, not str; use int(...)"]),
    ("await client.fibonacci(5.0)", TypeError, ["n must be an integer, not float; use int(...)"]),
    ("await client.fibonacci([5])", TypeError, ["n must be an integer, not list", "fibonacci_many()"]),
    ("await client.fibonacci(None)", TypeError, ["n must be an integer, not NoneType"]),
    ("await client.fibonacci(-1)", ValueError, ["n must be 0 or more, not -1"]),
    ("await client.fibonacci(10 ** 5000)", ValueError, ["n must be at most 10000000, not an integer of"]),
    ("await client.fibonacci_many(5)", TypeError, ["such as [4, 3, 8], not int", "fibonacci()"]),
    ("await client.fibonacci_many('12')", TypeError, ["such as [4, 3, 8], not str"]),
    ("await client.fibonacci_many(b'12')", TypeError, ["such as [4, 3, 8], not bytes"]),
    ("await client.fibonacci_many(None)", TypeError, ["such as [4, 3, 8], not NoneType"]),
    ("await client.fibonacci_many(['1'])", TypeError, ["n must be an integer, not str; use int(...)"]),
    (
        "await client.fibonacci_many(n async for n in client.stream([1]))",
        TypeError,
        ["stream() takes an async iterable"],
    ),
    ("await client.submit_many(5)", TypeError, ["such as [4, 3, 8], not int"]),
    ("await client.submit([5])", TypeError, ["n must be an integer, not list", "fibonacci_many()"]),
    ("client.stream(5)", TypeError, ["source must be an iterable or async iterable, not int"]),
    ("await client.sqrt('4')", TypeError, ["value must be a number, not str"]),
    ("await client.fibonacci(5, timeout='5')", TypeError, ["timeout must be a number of seconds or None"]),
    ("await client.fibonacci(5, timeout=-5)", ValueError, ["must be 0 or more; None is no limit"]),
    ("await client.ready(client.celery.result('x'))", TypeError, ["a list of AsyncResults", "put it into a list"]),
    ("await client.ready(['x'])", TypeError, ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.gather(['x'])", TypeError, ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.diagnose('x')", TypeError, ["CeleryClient.result(task_id) makes one of an id"]),
    ("await client.celery.send_task('add', 2, 3)", MessageError, ["args must be a list or a tuple", "(value,)"]),
    ("await client.celery.call('add', x=1)", MessageError, ["'x' is not an option", "call(name, args, kwargs)"]),
    ("await client.celery.call('add', 2)", MessageError, ["args must be a list or a tuple", "(value,)"]),
    ("await client.celery.send('add')", TypeError, ["a signature is wanted", "not str"]),
    ("await client.celery.send_task(FIBONACCI(5))", MessageError, ["has its arguments", "write: send(fibo.fibonacci"]),
    ("await client.celery.call(print, 1)", MessageError, ["a task's name, a RemoteTask or a Signature"]),
    ("await client.celery.call_many(['add'])", TypeError, ["a signature is wanted", "not str"]),
    ("await client.celery.send_task('add', ({1},))", MessageError, ["builtins.set", "JSON cannot carry; send"]),
    ("FiboClient(6379)", ConfigError, ["broker_url must be text, such as redis://localhost:6379/0, not int"]),
    ("FiboClient(time_out=5)", ConfigError, ["'time_out' is not a setting", "timeout"]),
    ("FiboClient(timeout='5')", ConfigError, ["timeout='5' must be a number of seconds"]),
    (
        "from fibo_client.testing import FakeFibo; FiboClient(FakeFibo())",
        ConfigError,
        ["broker_url must be text; write: transport=FakeFibo(...)"],
    ),
    (
        "from fibo_client.testing import FakeCelery; CeleryClient(transport=FakeCelery)",
        ConfigError,
        ["must be an object, not a class; write: transport=FakeCelery()"],
    ),
    ("CeleryClient(transport='memory')", ConfigError, ["must have a connect(), as FakeCelery() has, not be str"]),
    # What is asynchronous says so.
    ("with FiboClient(URL) as client: pass", TypeError, ["use `async with`"]),
    ("with CeleryClient(URL) as client: pass", TypeError, ["use `async with`"]),
    ("await FiboClient(URL)", TypeError, ["FiboClient can't be used in 'await' expression"]),
    ("for n, value in client.stream([1]): pass", TypeError, ["use `async for`"]),
    ("list(client.stream([1]))", TypeError, ["use `async for`"]),
    ("with client.stream([1]) as results: pass", TypeError, ["use `async with`"]),
    ("for update in result.updates(): pass", TypeError, ["'async_generator' object is not iterable"]),
    # What has connections stays in its process.
    ("import pickle; pickle.dumps(client)", TypeError, PICKLED),
    ("import pickle; pickle.dumps(client.celery)", TypeError, PICKLED),
    ("import pickle; pickle.dumps(result)", TypeError, PICKLED),
    ("import copy; copy.deepcopy(client)", TypeError, PICKLED),
]


@pytest.mark.parametrize(("statement", "error", "words"), STATEMENTS, ids=[statement for statement, _, _ in STATEMENTS])
async def test_a_mistake_is_refused_with_what_to_write(client, statement, error, words):
    # By name: the package imports some of them only when they are asked for.
    exported = {name: getattr(fibo_client, name) for name in fibo_client.__all__}
    names = {**exported, **vars(fibo_client_celery), "client": client, "URL": NOWHERE}
    exec(f"async def attempt(result):\n    {statement}", names)
    with warnings.catch_warnings():
        # Python names a call that is not awaited then, too. Of a question, the error says it all.
        warnings.filterwarnings("ignore", r"coroutine '(Fibo|Celery)Client\.", RuntimeWarning)
        with raises_soon(error, *words):
            await names["attempt"](client.celery.result("x"))
        gc.collect(1)  # From Python 3.12 on, what is not awaited is in a cycle.


# Opening, closing, and where a client lives.


async def unopened():
    await FiboClient(NOWHERE).fibonacci(5)


async def closed():
    async with FiboClient(NOWHERE) as client:
        pass
    await client.fibonacci(5)


async def twice():
    async with FiboClient(NOWHERE) as client, client:
        pass


async def again():
    client = FiboClient(NOWHERE)
    for _ in range(2):
        async with client:
            pass


async def another_loop():
    async with FiboClient(NOWHERE) as client:
        await asyncio.to_thread(lambda: asyncio.run(client.fibonacci(5)))


async def opened_on_another_loop():
    async with FiboClient(NOWHERE) as client:
        await asyncio.to_thread(lambda: asyncio.run(client.open()))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (unopened, ["not opened yet", "inside `async with`", "open() first"]),
        (closed, ["is closed", "make a new one"]),
        (twice, ["open already", "use it as it is"]),
        (again, ["is closed", "make a new one"]),
        (another_loop, ["opened on another event loop", "one client on each loop"]),
        (opened_on_another_loop, ["opened on another event loop", "one client on each loop"]),
    ],
)
async def test_a_client_that_cannot_be_used_here_says_where_it_can(use, words):
    with raises_soon(ClientStateError, *words):
        await use()


async def test_opening_without_await_is_named_by_python_and_then_by_the_client():
    client = FiboClient(NOWHERE)
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'FiboClient\.open' was never awaited"):
        client.open()
    with raises_soon(ClientStateError, "not opened yet"):
        await client.fibonacci(5)


def test_a_client_does_not_outlive_its_asyncio_run():
    def outlive():
        client = FiboClient(NOWHERE)
        asyncio.run(client.open())
        with raises_soon(ClientStateError, "has been closed", "each asyncio.run() has a loop of its own"):
            asyncio.run(client.fibonacci(5))
        del client
        gc.collect()

    with pytest.warns(ResourceWarning, match="was not closed"):
        outlive()


# Programs: what only the interpreter can show.


@pytest.fixture
def run(tmp_path):
    """Run a program as a stranger does: from a file, with nothing set."""

    def run(program: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(program))
        return subprocess.run(
            [sys.executable, *options, path, url],
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    return run


def test_an_error_that_nobody_catches_ends_in_what_to_do_and_shows_no_password(run):
    program = """
    import asyncio, sys
    from fibo_client import FiboClient

    async def main():
        async with FiboClient(sys.argv[1]) as client:
            print(await client.fibonacci(5))

    asyncio.run(main())
    """
    done = run(program, f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    assert (done.returncode, done.stdout) == (1, "")
    first, *_, last = done.stderr.splitlines()
    assert re.match(r"redis://127\.0\.0\.1:\d+/0 is gone, trying again: ", first)
    assert last.startswith("fibo_client.errors.PublishError: ")
    assert "Is Redis running there?" in last
    assert PASSWORD not in done.stderr


def test_what_a_program_has_forgotten_is_named_when_it_ends(run):
    program = """
    import asyncio, sys
    from fibo_client import FiboClient

    async def main():
        client = await FiboClient(sys.argv[1]).open()
        client.answer = client.fibonacci(5)
        return client

    client = asyncio.run(main())
    """
    done = run(program, NOWHERE, "-X", "dev")
    assert (done.returncode, done.stdout) == (0, "")
    assert "ResourceWarning: a fibo_client client was not closed; use `async with`" in done.stderr
    assert "RuntimeWarning: coroutine 'FiboClient.fibonacci' was never awaited" in done.stderr


def test_a_client_is_not_handed_to_a_spawned_process_but_made_there(run):
    program = """
    import asyncio, multiprocessing, sys
    from fibo_client import FiboClient, PublishError

    async def own(url):
        async with FiboClient(url) as client:
            try:
                await client.fibonacci(5)
            except PublishError as error:
                print(error)

    def work(url):
        asyncio.run(own(url))

    if __name__ == "__main__":
        spawn = multiprocessing.get_context("spawn")
        try:
            spawn.Process(target=print, args=(FiboClient(sys.argv[1]),)).start()
        except TypeError as error:
            print(error)
        process = spawn.Process(target=work, args=sys.argv[1:])
        process.start()
        process.join()
    """
    done = run(program, NOWHERE)
    assert done.returncode == 0, done.stderr
    refused, asked = done.stdout.splitlines()
    assert all(word in refused for word in PICKLED)
    assert "Is Redis running there?" in asked
