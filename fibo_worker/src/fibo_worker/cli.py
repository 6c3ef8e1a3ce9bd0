"""The command line: ``fibo-worker start | dev | demo | health | dead``. Each command imports what it needs."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click

from fibo_worker._version import __version__
from fibo_worker.dead_cli import dead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fibo_worker.settings import WorkerSettings

__all__ = ["main"]

_GRACE = 10.0
"""Seconds that ``health`` may run beyond its timeout before it ends itself."""

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


_EXIT_CODES = """\
\b
Exit codes:
    0  done
    1  it failed: no Redis, no worker, a wrong answer
    2  wrong arguments, or a wrong variable
  130  a demo was stopped by Ctrl-C

'fibo-worker COMMAND --help' has more.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="fibo-worker", message="%(prog)s %(version)s")
def main() -> None:
    """Run a Celery worker that computes Fibonacci numbers.

    CELERY_BROKER_URL says where its Redis is; redis://localhost:6379/0 if it is not set.
    """


main.add_command(dead)


@main.command()
@click.option(
    "-c", "--concurrency", type=click.IntRange(min=1), metavar="COUNT", help="Tasks at a time. [default: one per CPU]"
)
@click.option("-Q", "--queues", metavar="NAMES", help="Queues to serve, with commas between. [default: celery]")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(_LOG_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="How much to log.",
)
@click.option("-n", "--hostname", metavar="NAME", help="The node's name, such as fibo1@%h.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve metrics for Prometheus on this port. [default: FIBO_METRICS_PORT, else none]",
)
@click.option(
    "--metrics-host",
    metavar="ADDRESS",
    help="The address of this machine to serve them on. [default: FIBO_METRICS_HOST, else 127.0.0.1]",
)
@click.option(
    "--readiness-file",
    metavar="PATH",
    help="Touch this file every second while tasks are taken. [default: FIBO_READINESS_FILE, else none]",
)
@click.argument("arguments", metavar="[-- CELERY_ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED)
def start(
    concurrency: int | None,
    queues: str | None,
    loglevel: str,
    hostname: str | None,
    metrics_port: int | None,
    metrics_host: str | None,
    readiness_file: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Start a worker, on the Redis of CELERY_BROKER_URL.

    \b
    Examples:
      fibo-worker start
      fibo-worker start --concurrency 4 --queues celery,math
      fibo-worker start --metrics-port 9090
      fibo-worker start -- --max-tasks-per-child 1000

    Arguments after -- go to 'celery worker' unchanged. At Ctrl-C or SIGTERM, the worker finishes its running tasks.
    """
    # Celery's command also reads these two, and prefers them to CELERY_BROKER_URL.
    env = {name: value for name, value in os.environ.items() if name not in ("BROKER_URL", "RESULT_BACKEND")}
    for variable, given in (
        ("FIBO_METRICS_PORT", metrics_port),
        ("FIBO_METRICS_HOST", metrics_host),
        ("FIBO_READINESS_FILE", readiness_file),
    ):
        if given is not None:
            env[variable] = str(given)
    settings = _settings(env)  # a wrong variable gives one line here, but a traceback in Celery
    if settings.metrics_port is not None:
        _check_metrics(settings)
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "fibo_worker.app",
        "worker",
        "--loglevel",
        loglevel.upper(),
    ]
    for option, value in (("--concurrency", concurrency), ("--queues", queues), ("--hostname", hostname)):
        if value is not None:
            command += [option, str(value)]
    # exec: signals reach the worker, and its exit status is ours.
    os.execve(sys.executable, [*command, *arguments], env)


@main.command()
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=2,
    show_default=True,
    help="Tasks at a time.",
)
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=0,
    help="The port of the private Redis. [default: any that is free]",
)
def dev(concurrency: int, port: int) -> None:
    """Start a private Redis and a worker, until Ctrl-C.

    It prints the CELERY_BROKER_URL to use. Both are on this machine only. When they end, all their data is gone.
    """
    from fibo_worker.dev_server import serve

    with _stopped_by_signals(), _plain_errors():
        serve(concurrency=concurrency, port=port)


@main.command(context_settings={"ignore_unknown_options": True})  # else click reads -4 as an option
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=2000,
    show_default=True,
    help="How many numbers to compute at the end.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="Seconds for each step.",
)
@click.argument("numbers", nargs=-1, type=click.UNPROCESSED)
def demo(batch: int, timeout: float, numbers: tuple[str, ...]) -> None:
    """Send NUMBERS (4 3 8 6 10) to a worker and show the answers.

    \b
    Examples:
      fibo-worker demo
      fibo-worker demo 30 40 50

    It starts its own worker, and a private Redis unless CELERY_BROKER_URL names one.
    """
    settings = _settings()
    values = [_value(text, settings.max_n) for text in numbers] or [4, 3, 8, 6, 10]

    from fibo_worker.demo import run

    with _stopped_by_signals(status=130), _plain_errors():
        right = run(
            values,
            broker_url=os.environ.get("CELERY_BROKER_URL") or None,
            result_backend=os.environ.get("CELERY_RESULT_BACKEND") or None,
            batch=batch,
            timeout=timeout,
        )
    if not right:
        sys.exit(1)


@main.command()
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    metavar="SECONDS",
    default=3.0,
    show_default=True,
    help="Seconds to wait for an answer.",
)
@click.option("-n", "--hostname", metavar="NODE", help="The node that must answer, such as celery@web1. [default: any]")
@click.option(
    "--file",
    "path",
    metavar="[PATH]",
    is_flag=False,
    flag_value="",
    help="Ask nobody, but look at the readiness file of a worker on this machine. [default: FIBO_READINESS_FILE]",
)
@click.option(
    "--max-age",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="The most seconds since the worker touched its readiness file.",
)
def health(timeout: float, hostname: str | None, path: str | None, max_age: float) -> None:
    """Exit with status 0 if a worker answers, else with 1.

    \b
    Examples:
      fibo-worker health
      fibo-worker health --timeout 10 --hostname celery@web1
      fibo-worker health --file /run/fibo/ready
    """
    if path is not None:
        _check_file(path or os.environ.get("FIBO_READINESS_FILE"), max_age)
        return
    settings = _settings()  # before the app is imported, which reads the variables, too

    import faulthandler

    from fibo_worker.health import UnhealthyError, check

    if sys.__stderr__ is not None:
        # If Celery or the network hangs beyond all their timeouts, even while the process exits, this ends it with
        # status 1 and prints where it hung.
        faulthandler.dump_traceback_later(timeout + _GRACE, exit=True, file=sys.__stderr__)
    try:
        nodes = check(settings, timeout=timeout, node=hostname)
    except UnhealthyError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{', '.join(nodes)} answered")


def _check_file(path: str | None, max_age: float) -> None:
    if not path:
        raise click.UsageError("--file needs a path, or FIBO_READINESS_FILE")
    from fibo_worker.readiness import ReadinessFile

    if problem := ReadinessFile(path).problem(max_age=max_age):
        raise click.ClickException(problem)
    click.echo("the worker takes tasks")


def _settings(env: Mapping[str, str] | None = None) -> WorkerSettings:
    from fibo_client.errors import ConfigError
    from fibo_worker.settings import WorkerSettings

    try:
        return WorkerSettings.from_env(os.environ if env is None else env)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _check_metrics(settings: WorkerSettings) -> None:
    """Check that the worker can serve metrics. An error here is easier to see than in the worker's log."""
    import socket

    from celery.exceptions import ImproperlyConfigured

    try:
        from fibo_worker.guard.prometheus import explain
    except ImproperlyConfigured as error:
        raise click.ClickException(str(error)) from error
    host, port = settings.metrics_host, settings.metrics_port
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # bind() alone may succeed on a port where another program listens.
    except OSError as error:
        raise click.ClickException(f"the metrics cannot be served on {host}:{port}: {explain(error)}") from error


def _value(text: str, max_n: int) -> int:
    from fibo_client.contract import check_n

    try:
        value = int(text)
    except ValueError:
        raise click.UsageError(f"{text!r} is not a whole number") from None
    try:
        return check_n(value, max_n, "FIBO_MAX_N")
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def _stopped_by_signals(status: int = 0) -> Iterator[None]:
    from fibo_worker.signals import interruptible

    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.exit(status)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn errors of a server or an answer into one line without a traceback."""
    from fibo_client.errors import FiboError
    from fibo_worker.child import StartError

    try:
        yield
    except (StartError, FiboError) as error:
        raise click.ClickException(str(error)) from error
