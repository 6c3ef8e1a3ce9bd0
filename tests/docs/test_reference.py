"""The reference has what is public: names, settings, variables with their defaults, and the names in telemetry."""

import importlib
import re

import pytest
from sphinx.pycode import ModuleAnalyzer
from support.pages import DOCS, ROOT

from fibo_client.celery import CeleryConfig, RedisOptions, SendOptions
from fibo_client.config import FiboConfig
from fibo_client.telemetry import otel
from fibo_worker.guard import GuardSettings
from fibo_worker.settings import WorkerSettings

REFERENCE = DOCS / "reference"
SETTINGS = REFERENCE / "settings.md"
MODULES = [
    "fibo_client",
    "fibo_client.celery",
    "fibo_client.telemetry",
    "fibo_client.telemetry.otel",
    "fibo_client.telemetry.sentry",
    "fibo_client.testing",
    "fibo_client.testing.pytest",
    "fibo_worker.app",
    "fibo_worker.dev",
    "fibo_worker.guard",
    "fibo_worker.settings",
    "fibo_worker.tasks",
]


def rows(page, title):
    """The first two columns of the first table below a heading."""
    section = page.read_text().split(f"\n{title}\n", 1)[1].split("\n#", 1)[0]
    return dict(re.findall(r"^\| `([A-Z_]+)` +\| (.*?) +\|", section, re.MULTILINE))


WORKER_ROWS = rows(SETTINGS, "## Environment of the worker")


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    shown = set(re.findall(r"^\.\. (?:auto\w+|data):: (\w+)$", text, re.MULTILINE))
    assert {name for module in MODULES for name in importlib.import_module(module).__all__} - shown == {"__version__"}


@pytest.mark.parametrize(
    "settings", [CeleryConfig, FiboConfig, RedisOptions, SendOptions, GuardSettings, WorkerSettings]
)
def test_every_setting_has_a_docstring_without_which_the_reference_leaves_it_out(settings):
    documented = ModuleAnalyzer.for_module(settings.__module__).find_attr_docs()
    public = {name for name in settings.__annotations__ if not name.startswith("_")}
    assert {name for name in public if (settings.__name__, name) not in documented} == set()


def test_the_variables_in_the_reference_are_those_that_the_packages_read():
    sources = {
        name: "".join(path.read_text() for path in (ROOT / name / "src").rglob("*.py"))
        for name in ("fibo_client", "fibo_worker")
    }
    read = {name: set(re.findall(r'"((?:CELERY|FIBO)_[A-Z_]+)"', text)) for name, text in sources.items()}
    # The worker keeps this one from its child processes, and does not read it.
    read["fibo_worker"] -= {"CELERY_BROKER_WRITE_URL"}
    read["fibo_client"] -= {"FIBO_TASK"}
    assert set(rows(SETTINGS, "## Environment of the clients")) == read["fibo_client"]
    assert set(WORKER_ROWS) == read["fibo_worker"]


def test_the_defaults_of_the_worker_in_the_reference_are_those_in_the_code():
    for name, value in WORKER_ROWS.items():
        default = getattr(WorkerSettings(), name.removeprefix("FIBO_").lower(), None)
        if isinstance(default, int):
            assert value == str(default), name


def test_the_attributes_and_metrics_in_the_reference_are_those_in_the_code():
    told = re.findall(r"^\| `([a-z_.]+\.[a-z_.]+)` \|", (REFERENCE / "telemetry.md").read_text(), re.MULTILINE)
    names = {value for name, value in vars(otel).items() if name.isupper() and isinstance(value, str)}
    assert set(told) == {name for name in names if re.fullmatch(r"[a-z_.]+\.[a-z_.]+", name)}
