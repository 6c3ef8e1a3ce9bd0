"""Every program in docs/examples runs against a real Redis and real workers, and prints what it says."""

import os
import re
import shlex
import shutil
import signal
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from support.ca import Authority, tls_server
from support.environments import environment
from support.examples import EXAMPLES, matches, promised, run_program
from support.pages import DOCS, PAGES, ROOT, shown_files
from support.programs import descendants, run, wait_until_gone
from support.rabbit import HOW_TO_GET_ONE, find_rabbitmq, running_rabbitmq
from support.sentinels import MASTER, SentinelSet
from support.servers import project_worker

from fibo_worker.child import Child
from fibo_worker.dev import WorkerProcess
from fibo_worker.settings import WorkerSettings

DEPLOY = EXAMPLES / "deploy"
MOVING = EXAMPLES / "moving"
PINS = {
    "arq": ROOT / "tests" / "benchmarks" / "peers" / "arq.txt",
    "taskiq": ROOT / "tests" / "benchmarks" / "peers" / "taskiq.txt",
    "aio_celery": ROOT / "tests" / "support" / "aio_celery.txt",
}

# These have tests of their own: `test_loops`, `test_sentry`, `test_service`, `test_installing` and `test_tracing`.
ELSEWHERE = (EXAMPLES / "loops", EXAMPLES / "sentry", EXAMPLES / "service", EXAMPLES / "testing", EXAMPLES / "tracing")
PROGRAMS = [path for path in sorted(EXAMPLES.rglob("*.py")) if not {*ELSEWHERE} & {*path.parents}]
CONNECTING = [path for path in PROGRAMS if path.name.startswith("connect_")]
MODULES = [
    path for path in PROGRAMS if path.parent.name in ("proj", "shop") or path.name in ("remote.py", "service.py")
]
OTHERS = [MOVING / f"{name}_before.py" for name in PINS]
OWN_TYPES = EXAMPLES / "own_types.py"
PROTECT = EXAMPLES / "protect.py"
PLAIN = [path for path in PROGRAMS if path not in [*CONNECTING, *MODULES, *OTHERS, OWN_TYPES, PROTECT]]


def ids(path):
    return str(path.relative_to(EXAMPLES))


@pytest.mark.parametrize("path", PLAIN, ids=ids)
def test_an_example_prints_what_it_says(path, worker, proj):
    program = path.read_text()
    url = proj.url if "proj.tasks" in program else worker.admin_url
    strict = not path.stem.endswith("_before")
    printed = run_program(path, strict=strict, CELERY_BROKER_URL=url)
    assert matches(promised(program), printed), printed


def check(name, **env):
    path = EXAMPLES / name
    printed = run_program(path, **env)
    assert matches(promised(path.read_text()), printed), printed


def test_the_example_with_two_urls_reads_results_from_the_second(redis_server):
    tasks, results = redis_server.fresh_url(), redis_server.fresh_url()
    with project_worker(tasks, result_backend=results):
        check("connect_two_urls.py", TASKS_URL=tasks, RESULTS_URL=results)


def test_the_example_with_prefixes_reaches_the_worker_with_the_same_ones(redis_server):
    url = redis_server.fresh_url()
    with project_worker(url, app="proj.prefixed"):
        check("connect_prefixes.py", CELERY_BROKER_URL=url)


def test_the_example_with_types_of_its_own_gets_them_back(redis_server):
    url = redis_server.fresh_url()
    with project_worker(url, app="proj.orders"):
        check(OWN_TYPES.name, CELERY_BROKER_URL=url)


def test_the_example_that_harms_a_protected_worker_gets_its_answers(redis_server):
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(EXAMPLES), "PYTHONDONTWRITEBYTECODE": "1"}
    with WorkerProcess(url, app="shop.tasks", env=env, stop_timeout=0) as process:
        check(PROTECT.name, CELERY_BROKER_URL=url)
        process.check()


def test_the_example_with_tls_checks_the_certificate_of_the_server(tmp_path):
    authority = Authority(tmp_path)
    with tls_server(authority.sign("server", "localhost"), authority.cert) as (_, port):
        url = f"rediss://localhost:{port}/0"
        with WorkerProcess(f"{url}?ssl_ca_certs={authority.cert}", stop_timeout=0):
            check("connect_tls.py", REDIS_URL=url, REDIS_CA=str(authority.cert))


def test_the_example_with_sentinel_finds_the_master(tmp_path):
    with SentinelSet.running(tmp_path) as sentinels, WorkerProcess(sentinels.master.url, stop_timeout=0):
        check("connect_sentinel.py", SENTINELS_URL=sentinels.url, MASTER_NAME=MASTER)


def test_every_example_that_needs_a_server_of_its_own_is_run_by_one_of_these_tests():
    named = {"connect_two_urls.py", "connect_prefixes.py", "connect_tls.py", "connect_sentinel.py"}
    assert {path.name for path in CONNECTING} == named


def test_every_example_is_shown_in_a_page():
    files = {*EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.toml"), *DEPLOY.iterdir()}
    unseen = files - set().union(*(shown_files(page) for page in PAGES))
    assert [path for path in sorted(unseen) if path.name != "__init__.py"] == []


def test_no_page_shows_a_file_twice():
    for page in PAGES:
        shown = shown_files(page)
        assert [path for path in shown if shown.count(path) > 1] == [], page


# What other libraries' users have: run with these libraries, in environments of their own.


def interpreter_with(name):
    """Give the interpreter of an environment with one of the other libraries, as pinned."""
    pins = str(PINS[name].relative_to(ROOT))
    return environment(f"moving-{name}", Path(sys.executable), ["--requirement", pins], [pins])


@pytest.mark.parametrize(
    ("name", "command"),
    [("arq", ["arq", "arq_before.WorkerSettings"]), ("taskiq", ["taskiq", "worker", "taskiq_before:broker"])],
)
def test_what_is_moved_from_runs_with_the_library_that_it_is_written_for(name, command, redis_url):
    path = MOVING / f"{name}_before.py"
    python = interpreter_with(name)
    env = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(MOVING), "PYTHONDONTWRITEBYTECODE": "1"}
    worker = Child([str(python.parent / command[0]), *command[1:]], name=name, env=env)
    try:
        printed = run_program(path, python=python, strict=False, REDIS_URL=redis_url)
        assert matches(promised(path.read_text()), printed)
    finally:
        worker.stop(signal.SIGKILL)


@pytest.mark.timeout(150)  # RabbitMQ takes its time to start, on a busy machine a minute.
def test_what_is_moved_from_aio_celery_runs_over_rabbitmq(redis_url, tmp_path):
    found = find_rabbitmq()
    if found is None:
        pytest.skip(HOW_TO_GET_ONE)
    path = MOVING / "aio_celery_before.py"
    python = interpreter_with("aio_celery")
    before = descendants(os.getpid())
    with running_rabbitmq(*found, tmp_path) as url, project_worker(url, result_backend=redis_url):
        printed = run_program(path, python=python, strict=False, AMQP_URL=url, REDIS_URL=redis_url)
        assert matches(promised(path.read_text()), printed)
        started = descendants(os.getpid()) - before
    wait_until_gone(started, 20)


def test_what_is_moved_from_aio_celery_fits_its_types():
    python = interpreter_with("aio_celery")
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--follow-untyped-imports", "--python-executable", str(python),
        "--cache-dir", os.devnull,
        str(MOVING / "aio_celery_before.py"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


# What deploys a worker.


def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt install systemd")
    text = (DEPLOY / "fibo-worker@.service").read_text()
    program = Path(sys.executable).parent / "fibo-worker"
    unit = tmp_path / "fibo-worker@.service"
    unit.write_text(text.replace("/opt/fibo/bin/fibo-worker", str(program)))
    assert unit.read_text() != text
    done = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_starts_a_worker_with_arguments_that_it_takes():
    (line,) = re.findall(
        r"^ExecStart=\S+/fibo-worker (.*)$", (DEPLOY / "fibo-worker@.service").read_text(), re.MULTILINE
    )
    done = run(sys.executable, "-m", "fibo_worker", *line.replace("%i", "1").split(), "--help")
    assert done.returncode == 0, done.stderr


def test_workers_of_one_machine_serve_their_metrics_on_ports_of_their_own():
    unit = (DEPLOY / "fibo-worker@.service").read_text()
    (port,) = re.findall(r"--metrics-port (\S+)", unit)
    assert {port.replace("%i", str(number)) for number in (1, 9)} == {"9801", "9809"}
    assert "FIBO_METRICS_PORT" not in (DEPLOY / "fibo-worker.env").read_text()


def test_what_readers_copy_can_be_downloaded_from_the_page_that_shows_it():
    shop = EXAMPLES / "shop" / "static"
    for page, folder in (
        ("deploy", DEPLOY),
        ("serve", EXAMPLES / "service" / "static"),
        ("serve-your-celery-app", shop),
    ):
        text = (DOCS / "how-to" / f"{page}.md").read_text()
        links = re.findall(r"\{download\}`(\S+) <\.\./examples/(\S+)>`", text)
        assert {EXAMPLES / path for _, path in links} == set(folder.iterdir())
        assert all(path.endswith(f"/{name}") for name, path in links)


def settings_from(env):
    WorkerSettings.from_env(env)  # raises for what is wrong in one
    known = variables_of_the_worker()
    assert set(env) <= known


def variables_of_the_worker():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    return set(re.findall(r"^\| `((?:CELERY|FIBO)_[A-Z_]+)` ", page, re.MULTILINE))


def test_the_environment_of_the_unit_has_settings_that_the_worker_takes():
    lines = (DEPLOY / "fibo-worker.env").read_text().splitlines()
    settings_from(dict(line.split("=", 1) for line in lines if line and not line.startswith("#")))


def test_the_compose_file_starts_workers_with_settings_and_arguments_that_they_take(tmp_path):
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    worker = compose["services"]["worker"]
    settings_from(worker["environment"])
    assert worker["environment"]["CELERY_BROKER_URL"] == "redis://redis:6379/0"
    assert set(worker["depends_on"]) <= set(compose["services"])
    assert run(sys.executable, "-m", "fibo_worker", *worker["command"], "--help").returncode == 0
    # To serve metrics takes what the image installs.
    assert "FIBO_METRICS_PORT" in worker["environment"]
    assert "/src/fibo_worker[metrics]" in (DEPLOY / "Dockerfile").read_text()
    kind, check = worker["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert "FIBO_READINESS_FILE" in worker["environment"]
    (old := tmp_path / "old").touch()
    os.utime(old, (0, 0))
    (new := tmp_path / "new").touch()
    for file, status in ((old, 1), (tmp_path / "missing", 1), (new, 0)):
        command = ["env", f"FIBO_READINESS_FILE={file}", "sh", "-c", check.replace("$$", "$")]
        assert run(*command).returncode == status
    assert int(worker["stop_grace_period"].removesuffix("s")) > WorkerSettings().time_limit
    context = (DEPLOY / worker["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / worker["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_the_image_is_built_from_what_is_there_and_starts_a_worker():
    text = (DEPLOY / "Dockerfile").read_text()
    copied = dict(re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE))
    (installed,) = re.findall(r"^RUN pip install --no-cache-dir (.*)$", text, re.MULTILINE)
    assert sorted(re.sub(r"\[metrics\]", "", word) for word in shlex.split(installed)) == sorted(copied.values())
    scripts = {}
    for folder in copied:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        scripts |= project.get("scripts", {})
    assert 'ENTRYPOINT ["fibo-worker"]' in text
    assert "fibo-worker" in scripts
    assert "\nUSER nobody\n" in text
