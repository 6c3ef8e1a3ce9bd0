import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import subprocess
import sys
import textwrap
import types
import typing
from pathlib import Path

import pytest

import fibo_client
import fibo_client.celery
import fibo_client.telemetry.otel
import fibo_client.testing
import fibo_client.testing.pytest
import fibo_worker.app
import fibo_worker.dev
import fibo_worker.settings
import fibo_worker.tasks
from fibo_client import errors
from fibo_client.celery import CeleryConfig, SendOptions, composing
from fibo_client.celery.config import ConfigOverrides
from fibo_client.config import FiboConfig, FiboOverrides
from fibo_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = [fibo_client, fibo_client.celery, fibo_client.telemetry, fibo_client.testing]
WORKER = [fibo_worker.app, fibo_worker.dev, fibo_worker.settings, fibo_worker.tasks]
MODULES = [*PACKAGES, fibo_client.telemetry.otel, fibo_client.testing.pytest, *WORKER]


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            fibo_client,
            """
            AsyncResult ClientStateError ConfigError FIBONACCI FIBONACCI_CHUNK FIBO_TASK FiboClient FiboConfig FiboError
            MessageError PublishError PublishUnknownError ReadError ResultDecodeError ResultInflatesError
            ResultTimeoutError ResultTooDeepError ResultTooLargeError SQRT_TASK Stream TaskError TaskFailedError
            TaskRevokedError TooManyConnectionsError TooManyInFlightError TransportError UNSET __version__
            """,
        ),
        (
            fibo_client.celery,
            """
            AsyncResult Cause CeleryClient CeleryConfig ClientStats Diagnosis Inspect RemoteTask SendOptions Signature
            TaskFailure TaskMeta UNSET WorkerInfo
            """,
        ),
        (fibo_client.telemetry, "Recorder Sending Server"),
        (fibo_client.telemetry.otel, "OpenTelemetry"),
        (fibo_client.testing, "FakeCelery FakeFibo FakeTask SentTask"),
        (fibo_client.testing.pytest, "fake_celery fake_fibo"),
        (fibo_worker.app, "app create_app"),
        (
            fibo_worker.dev,
            "Environment PrivateRedis StartError WorkerProcess embedded_redis_server find_redis_server running",
        ),
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


def test_the_options_that_are_accepted_are_those_that_are_typed():
    assert set(SendOptions.__annotations__) == composing.OPTIONS


def test_importing_the_client_imports_neither_celery_nor_the_worker():
    program = (
        "import sys, fibo_client, fibo_client.celery, fibo_client.testing; "
        "print(*{name.partition('.')[0] for name in sys.modules}.intersection("
        "{'amqp', 'billiard', 'celery', 'fibo_worker', 'gmpy2', 'kombu', 'vine'}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_importing_the_package_alone_does_not_wait_for_redis_py_and_what_it_gives_is_there_all_the_same():
    program = (
        "import sys, fibo_client; assert 'redis' not in sys.modules; assert 'asyncio' not in sys.modules; "
        "assert set(fibo_client.__all__) <= set(dir(fibo_client)); assert 'redis' not in sys.modules; "
        "print(fibo_client.celery.CeleryClient.__name__, fibo_client.FiboClient.__name__); "
        "exec('from fibo_client import *'); print(Stream.__name__); fibo_client.FiboClint"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (1, "CeleryClient FiboClient\nStream\n")
    assert "AttributeError: module 'fibo_client' has no attribute 'FiboClint'" in done.stderr


# The documentation in the code.


def public_classes():
    found = {
        value
        for package in MODULES
        for name in package.__all__
        if isinstance(value := getattr(package, name), type)
        and value.__module__.startswith(("fibo_client", "fibo_worker"))
    }
    return sorted(found, key=lambda each: each.__name__)


def public_members(cls):
    """What the class itself defines: functions, and the functions behind its properties and class methods."""
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        function = getattr(value, "__func__", getattr(value, "fget", value))
        # A dataclass and a TypedDict bring functions of their own, which have no file.
        if inspect.isfunction(function) and function.__code__.co_filename == inspect.getsourcefile(cls):
            yield pytest.param(function, isinstance(value, property), id=f"{cls.__name__}.{name}")


def public_functions():
    for module in WORKER:
        for name in module.__all__:
            if inspect.isfunction(function := getattr(module, name)):
                yield pytest.param(function, False, id=f"{module.__name__}.{name}")


FUNCTIONS = [*(member for cls in public_classes() for member in public_members(cls)), *public_functions()]


def sections(docstring):
    """The entries of each section of a Google docstring: ``{"Args": {"n": "0 to ..."}, "Returns": ...}``."""
    found = {}
    for title, body in re.findall(r"^(\w+):\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.MULTILINE):
        entries = re.findall(r"^(\S.*?):(?: |$)(.*)", textwrap.dedent(body), re.MULTILINE)
        found[title] = dict(entries) if title in ("Args", "Attributes", "Raises") else body
    return found


def check_summary(docstring):
    assert docstring
    summary, *rest = docstring.splitlines()
    assert re.fullmatch(r"\S.*\.", summary)
    assert not rest or not rest[0].strip()


@functools.cache
def module_tree(module):
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def class_node(cls):
    return next(
        node
        for node in module_tree(cls.__module__).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )


def own_nodes(node):
    """All nodes of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from own_nodes(child)


def raised_classes(function):
    """The classes that stand in the function's own ``raise Class(...)``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    raises = (node.exc for node in own_nodes(tree) if isinstance(node, ast.Raise))
    called = (each.func for each in raises if isinstance(each, ast.Call))
    return {each.id for each in called if isinstance(each, ast.Name) and each.id.endswith("Error")}


def exception(name):
    return next(getattr(place, name) for place in (errors, builtins, fibo_worker.dev) if hasattr(place, name))


@pytest.mark.parametrize(("function", "is_property"), FUNCTIONS)
def test_every_public_function_says_what_it_takes_gives_and_raises(function, is_property):
    check_summary(function.__doc__)
    if is_property:
        return
    told = sections(function.__doc__)
    first = function.__doc__.split(maxsplit=1)[0]
    assert not first.endswith(("s", "ing", "ed")), f"{first}: a summary is an order, such as 'Send'"

    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    signature = inspect.signature(function)
    parameters = [
        stars.get(parameter.kind, "") + name
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls")
    ]
    assert list(told.get("Args", ())) == parameters

    gives = signature.return_annotation
    yields = gives.startswith(("AsyncIterator[", "Iterator["))
    assert ("Yields" in told) == yields
    assert ("Returns" in told) == (gives not in ("None", "NoReturn") and not yields)

    listed = [exception(name) for name in told.get("Raises", ())]
    assert all(issubclass(each, Exception) for each in listed)
    for name in raised_classes(function):
        assert any(issubclass(exception(name), each) for each in listed), f"{name} is raised, but not told"


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_every_public_class_says_what_it_is_and_what_its_fields_are(cls):
    check_summary(cls.__doc__)
    told = sections(cls.__doc__)
    if "Args" in told:
        stars = {inspect.Parameter.VAR_KEYWORD: "**"}
        parameters = inspect.signature(cls).parameters
        assert list(told["Args"]) == [stars.get(each.kind, "") + name for name, each in parameters.items()]
    if dataclasses.is_dataclass(cls) or typing.is_typeddict(cls):
        body = class_node(cls).body
        documented = {
            node.target.id
            for node, text in itertools.pairwise(body)
            if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
        documented |= set(told.get("Attributes", ()))
        assert documented == {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def test_the_clients_say_what_they_are_made_from():
    for client in (fibo_client.FiboClient, fibo_client.celery.CeleryClient):
        assert {"Args", "Raises"} <= set(sections(client.__doc__))


def test_the_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
    shown = re.findall(r"^\.\. (?:auto\w+|data):: (\w+)$", text, re.MULTILINE)
    assert set(shown) >= {name for package in MODULES for name in package.__all__} - {"__version__"}
    assert sorted(shown) == sorted(set(shown))


def rows(page, title):
    """The first two columns of the first table below a heading."""
    section = page.read_text().split(f"\n{title}\n", 1)[1].split("\n#", 1)[0]
    return dict(re.findall(r"^\| `([A-Z_]+)` +\| (.*?) +\|", section, re.MULTILINE))


SETTINGS = REFERENCE / "settings.md"
WORKER_ROWS = rows(SETTINGS, "## Environment of the worker")


def test_the_reference_has_every_variable_that_the_packages_read():
    sources = {
        name: "".join(path.read_text() for path in (ROOT / name / "src").rglob("*.py"))
        for name in ("fibo_client", "fibo_worker")
    }
    read = {name: set(re.findall(r'"((?:CELERY|FIBO)_[A-Z_]+)"', text)) for name, text in sources.items()}
    # The worker keeps this one from its child processes, and does not read it.
    read["fibo_worker"] -= {"CELERY_BROKER_WRITE_URL"}
    read["fibo_client"] -= {*fibo_client.__all__}
    assert set(rows(SETTINGS, "## Environment of the clients")) == read["fibo_client"]
    assert set(WORKER_ROWS) == read["fibo_worker"]


def test_the_reference_has_the_defaults_of_the_worker():
    for name, value in WORKER_ROWS.items():
        default = getattr(WorkerSettings(), name.removeprefix("FIBO_").lower(), None)
        if isinstance(default, int):
            assert value == str(default), name


def test_the_readme_of_the_worker_says_of_its_variables_what_the_reference_says():
    assert rows(ROOT / "fibo_worker" / "README.md", "## Environment").items() <= WORKER_ROWS.items()
