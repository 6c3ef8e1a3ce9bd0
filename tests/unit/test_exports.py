import dataclasses
import re
import sys
import types

import pytest
from support.programs import run

import fibo_client
import fibo_client.asgi
import fibo_client.celery
import fibo_client.telemetry.otel
import fibo_client.telemetry.sentry
import fibo_client.testing
import fibo_client.testing.pytest
import fibo_worker.app
import fibo_worker.dev
import fibo_worker.guard
import fibo_worker.settings
import fibo_worker.tasks
from fibo_client import errors
from fibo_client.celery import CeleryConfig
from fibo_client.celery.config import ConfigOverrides
from fibo_client.config import FiboConfig, FiboOverrides

PACKAGES = [fibo_client, fibo_client.asgi, fibo_client.celery, fibo_client.telemetry, fibo_client.testing]


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            fibo_client,
            """
            AsyncResult ChunkRetriedError ClientStateError ConfigError FIBONACCI FIBONACCI_CHUNK FIBO_TASK FiboClient
            FiboConfig FiboError LoopLocal MessageError NotReadyError PublishError PublishUnknownError ReadError
            RedisOptions ResultDecodeError ResultInflatesError ResultTimeoutError ResultTooDeepError ResultTooLargeError
            SQRT_TASK Stream TaskError TaskFailedError TaskRevokedError TooManyPendingError TransportError UNSET
            __version__
            """,
        ),
        (
            fibo_client.celery,
            """
            AsyncResult Cause CeleryClient CeleryConfig Chain ChainResult Chord ChordResult ClientStats Diagnosis Flow
            FlowResult Group GroupResult Inspect JSONType OwnedFlow OwnedResult RedisOptions RemoteTask RevocationCounts
            SendOptions Signature TaskFailure TaskMeta UNSET WorkerInfo chain chord group remote_task
            """,
        ),
        (fibo_client.asgi, "FiboMiddleware Problem Readiness"),
        (fibo_client.telemetry, "SendSpan Server Tracer"),
        (fibo_client.telemetry.otel, "OpenTelemetry"),
        (fibo_client.telemetry.sentry, "Sentry"),
        (fibo_client.testing, "FakeCelery FakeFibo FakeTask SentTask check_declared"),
        (fibo_client.testing.pytest, "fake_celery fake_fibo"),
        (fibo_worker.app, "app create_app"),
        (
            fibo_worker.dev,
            "Environment PrivateRedis StartError WorkerProcess embedded_redis_server find_redis_server running",
        ),
        (fibo_worker.guard, "DeadLetter DeadLetters GuardSettings protect"),
        (fibo_worker.settings, "WorkerSettings"),
        (fibo_worker.tasks, "CHUNK_BUDGET fibo_task fibonacci_chunk fibonacci_task register sqrt_task"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_public_changes_only_on_purpose(package, names):
    assert sorted(package.__all__) == names.split()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_names_everything_that_is_public_and_nothing_else(package):
    found = {
        name
        for name in dir(package)
        if not name.startswith("_")
        and not isinstance(getattr(package, name), types.ModuleType)
        and name != "annotations"
    }
    assert found == set(package.__all__) - {"__version__"}
    assert len(package.__all__) == len(set(package.__all__))


def test_every_error_can_be_imported_from_the_package():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)
    assert classes <= set(fibo_client.__all__)


def test_the_tree_in_the_docstring_is_the_tree_of_the_errors():
    drawn = re.findall(r"^    ([│├└─ ]*)(\w+)(.*)$", errors.__doc__, re.MULTILINE)
    above = []
    for branch, name, rest in drawn:
        depth = len(branch) // 4
        also = re.search(r"\(also (\w+)\)$", rest)
        bases = [above[depth - 1] if depth else "Exception", *([also[1]] if also else [])]
        assert [base.__name__ for base in getattr(errors, name).__bases__] == bases
        above[depth:] = [name]
    assert sorted(name for _, name, _ in drawn) == errors.__all__


def fields(config):
    return {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(("overrides", "config"), [(ConfigOverrides, CeleryConfig), (FiboOverrides, FiboConfig)])
def test_every_setting_but_the_two_urls_can_be_overridden_by_its_name_and_type(overrides, config):
    assert set(overrides.__annotations__) == fields(config) - {"broker_url", "result_backend"}
    declared = {field.name: field.type for field in dataclasses.fields(config)}
    assert {name: kind.__forward_arg__ for name, kind in overrides.__annotations__.items()} == {
        name: declared[name] for name in overrides.__annotations__
    }


def test_importing_the_client_imports_neither_celery_nor_the_worker():
    program = (
        "import sys, fibo_client, fibo_client.celery, fibo_client.testing; "
        "print(*{name.partition('.')[0] for name in sys.modules}.intersection("
        "{'amqp', 'billiard', 'celery', 'fibo_worker', 'gmpy2', 'kombu', 'vine'}))"
    )
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_importing_the_guard_loads_neither_the_tasks_nor_what_they_need():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['fibo_client', 'gmpy2', 'fibo_worker.tasks'])); "
        "from celery import Celery; from fibo_worker.guard import protect; protect(Celery('shop')).finalize(); "
        "print(*sorted(name for name in sys.modules if name.startswith('fibo_worker.') and '.guard' not in name))"
    )
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "fibo_worker._version fibo_worker.readiness fibo_worker.tasks\n",
        "",
    )


def test_no_client_that_talks_to_the_double_loads_redis_py():
    program = (
        "import asyncio, sys\n"
        "from fibo_client import FiboClient, RedisOptions\n"
        "from fibo_client.celery import CeleryClient\n"
        "from fibo_client.testing import FakeFibo\n"
        "async def main():\n"
        "    options = RedisOptions(master_name='m')\n"
        "    async with FiboClient('sentinel://h', transport=FakeFibo(), redis=options) as client:\n"
        "        print(await client.fibonacci(10))\n"
        "asyncio.run(main())\n"
        "print('redis' in sys.modules, CeleryClient()._session.broker, 'redis' in sys.modules)\n"
    )
    done = run(sys.executable, "-W", "error", "-c", program, CELERY_BROKER_URL="redis://localhost/0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "55\nFalse redis://localhost:6379/0 True\n", "")


def test_importing_the_package_alone_does_not_wait_for_redis_py_and_what_it_gives_is_there_all_the_same():
    program = (
        "import sys, fibo_client; assert 'redis' not in sys.modules; assert 'asyncio' not in sys.modules; "
        "assert set(fibo_client.__all__) <= set(dir(fibo_client)); assert 'redis' not in sys.modules; "
        "print(fibo_client.celery.CeleryClient.__name__, fibo_client.FiboClient.__name__); "
        "exec('from fibo_client import *'); print(Stream.__name__); fibo_client.FiboClint"
    )
    done = run(sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stdout) == (1, "CeleryClient FiboClient\nStream\n")
    assert "AttributeError: module 'fibo_client' has no attribute 'FiboClint'" in done.stderr
