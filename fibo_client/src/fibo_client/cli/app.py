"""The commands of ``fibo``, their options and their help. Each imports what it needs when it runs."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from fibo_client._version import __version__
from fibo_client.cli.exit_codes import EXIT_CODES, ExitCode
from fibo_client.cli.options import (
    AsJson,
    Backend,
    Bare,
    Broker,
    Debug,
    InspectTimeout,
    Priority,
    Queue,
    Settings,
    TaskId,
    Timeout,
    Traceback,
    seconds,
)
from fibo_client.cli.usage_errors import usage_error, wrapped_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from fibo_client.celery.signature import SendOptions
    from fibo_client.cli.console import Console
    from fibo_client.cli.runner import ClientOptions
    from fibo_client.client import FiboClient

__all__ = ["app"]


class _CommandGroup(TyperGroup):
    """A group of commands that breaks the lines of click's own errors."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See click."""
        with wrapped_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        with wrapped_errors():
            return super().invoke(ctx)


app: typer.Typer = typer.Typer(
    name="fibo",
    cls=_CommandGroup,
    epilog=f"{EXIT_CODES}\n'fibo COMMAND --help' has examples.",
    no_args_is_help=True,
    # Plain help, as fibo-worker's, is quick and reads well on any terminal.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""Else -4 would be an unknown option."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fibo {__version__}")
        raise typer.Exit


@app.callback()
def fibo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compute Fibonacci numbers on a worker, call any Celery task, and ask the workers.

    CELERY_BROKER_URL says where Redis is; redis://localhost:6379/0 if it is not set.
    """


@app.command(context_settings=_NEGATIVE_NUMBERS)
def compute(
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="N", help="Which numbers; - reads them from the input.")
    ] = None,
    between: Annotated[
        str | None, typer.Option("--range", metavar="START:STOP[:STEP]", help="All numbers from START to before STOP.")
    ] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Write each answer as soon as it is there.")] = False,
    digits: Annotated[
        Literal["short", "full"] | None,
        typer.Option("--digits", help="How to write long numbers. Default: short on a terminal, else full."),
    ] = None,
    hexadecimal: Annotated[bool, typer.Option("--hex", help="Write hexadecimal digits.")] = False,
    bare: Bare = False,
    as_json: AsJson = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the answers, in full, to a file.")
    ] = None,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, metavar="COUNT", help="The most numbers under way; fewer of long ones.")
    ] = 1000,
    queue: Queue = None,
    priority: Priority = None,
    timeout: Timeout = None,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Compute Fibonacci numbers: F(0) is 0, F(1) is 1.

    \b
    Examples:
      fibo compute 4 3 8 6 10
      fibo compute --range 0:10000 > numbers.txt
      fibo compute 1000000 --digits full
      fibo compute 10000000 -o number.txt
      producer | fibo compute - --json

    On a terminal, an answer is written as 'F(10) = 55', elsewhere as '10 55'. Answers come in the order of the
    numbers, each as soon as those before it are written. Numbers from the input are taken as they arrive; a line
    that is wrong is told of by its number, and the others go on. N is at most 10,000,000: the setting max_n, and the
    worker's own FIBO_MAX_N.

    A number that fails, fails alone. If no worker takes from the queue, that is told after 2 seconds. When one is not
    answered in time, or when you press Ctrl-C, the command stops, tells the workers to revoke what is unfinished, and
    says how that went. --timeout is for each number, from when it was sent.
    """
    from fibo_client.cli.number_arguments import indexes

    source = indexes(numbers, between)
    if as_json and (bare or digits == "short"):
        usage_error("--json always has all digits and what they answer: no --bare, no --digits short")
    if source is None and sys.stdin is None:
        usage_error("there is no input to read numbers from")

    from fibo_client.cli import compute as jobs
    from fibo_client.contract import check_n

    options: dict[str, Any] = {
        "output_format": jobs.OutputFormat(
            hexadecimal=hexadecimal, short=None if digits is None else digits == "short", bare=bare
        ),
        "ordered": not unordered,
        "max_in_flight": in_flight,
        "queue": queue,
        "priority": priority,
    }

    def check(client: FiboClient) -> None:
        for n in (source[0], source[-1]) if isinstance(source, range) else source or ():
            check_n(n, client.config.max_n)

    async def job(client: FiboClient, console: Console) -> ExitCode:
        limit = _resolved(timeout, client)
        if source is None:
            return await jobs.compute_standard_input(client, console, timeout=limit, **options)
        return await jobs.compute(client, console, source, total=len(source), timeout=limit, **options)

    _run(
        _client_options(broker, result_backend, settings, debug=debug), job, check=check, as_json=as_json, output=output
    )


@app.command(context_settings=_NEGATIVE_NUMBERS)
def sqrt(
    values: Annotated[list[str], typer.Argument(metavar="X", help="Numbers, 0 or more.", show_default=False)],
    bare: Bare = False,
    as_json: AsJson = False,
    queue: Queue = None,
    timeout: Timeout = None,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Compute square roots, each by a task.

    \b
    Examples:
      fibo sqrt 2
      fibo sqrt 2 3 4 --bare
    """
    from fibo_client.cli.compute import square_roots
    from fibo_client.cli.number_arguments import square_root_arguments

    given = square_root_arguments(values)
    overrides = {} if queue is None else {"queue": queue}
    _run(
        _client_options(broker, result_backend, settings, debug=debug),
        lambda client, console: square_roots(client, console, given, bare=bare, timeout=_resolved(timeout, client)),
        as_json=as_json,
        **overrides,
    )


@app.command(context_settings={"allow_extra_args": True, **_NEGATIVE_NUMBERS})
def call(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="The name under which the worker knows it.", show_default=False)
    ] = None,
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="Positional arguments: a list.")] = "[]",
    kwargs: Annotated[str, typer.Option("--kwargs", metavar="JSON", help="Keyword arguments: an object.")] = "{}",
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then",
            metavar="'TASK [JSON]'",
            help="A task that runs after it, with its result in front of the arguments. Repeatable.",
        ),
    ] = None,
    flow: Annotated[
        str | None,
        typer.Option("--flow", metavar="FILE", help="Run the chain or group of a file of JSON; - reads the input."),
    ] = None,
    queue: Queue = None,
    priority: Priority = None,
    countdown: Annotated[
        float | None,
        typer.Option("--countdown", parser=seconds, metavar="SECONDS", help="The task must not run before that."),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires",
            parser=seconds,
            metavar="SECONDS",
            help="The task must not start after that. Default: the timeout and 2 seconds, or none with --no-wait.",
        ),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only send it, and write its id.")] = False,
    traceback: Traceback = False,
    as_json: AsJson = False,
    timeout: Timeout = None,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Call any task of any Celery worker, or several, and write what it answers.

    \b
    Examples:
      fibo call tasks.sqrt_task --args '[16]'
      fibo call proj.tasks.add --kwargs '{"x": 2, "y": 3}' --queue math
      fibo call proj.tasks.report --no-wait
      fibo result $(fibo call proj.tasks.report --no-wait) --wait
      fibo call proj.tasks.add --args '[2, 3]' --then 'proj.tasks.add [5]' --then proj.tasks.report
      fibo call --flow flow.json

    Text is written as it is, everything else as JSON. A task that reports its progress ('current' or 'done' of 'total',
    or 'percent') moves the bar; of another state the bar shows the name. If no worker takes from the queue, that is
    told after 2 seconds. On Ctrl-C the workers are told to revoke the task: one that has begun it goes on with it. With
    --no-wait the task is nobody's: nothing revokes it, and its result stays until it expires.

    With --then, each task runs after the one before. A flow in JSON is a task: its name, or an object with its "task",
    "args", "kwargs", "options" and "immutable"; or {"chain": [...]}, or {"group": [...]}, of flows. What follows a
    group gets the list of its results. The options above go for all of it. The bar counts the tasks that have ended.
    """
    from fibo_client.celery import Signature
    from fibo_client.cli import flows, tasks
    from fibo_client.cli.flow_arguments import composed
    from fibo_client.cli.task_arguments import check_extra, keyword, positional

    check_extra(context.args)
    arguments, keywords = positional(args), keyword(kwargs)
    what = composed(task, arguments, keywords, then or (), flow)
    options: SendOptions = {}
    if queue is not None:
        options["queue"] = queue
    if priority is not None:
        options["priority"] = priority
    if countdown is not None:
        options["countdown"] = countdown
    if expires is not None:
        options["expires"] = expires

    def check(client: FiboClient) -> None:
        limit = _resolved(timeout, client)
        if countdown is not None and not no_wait and limit is not None and countdown >= limit:
            raise ValueError(
                f"--countdown {countdown:g} is not over before --timeout {limit:g} is; give it longer, or say --no-wait"
            )

    async def job(client: FiboClient, console: Console) -> ExitCode:
        how: dict[str, Any] = {"timeout": _resolved(timeout, client), "traceback": traceback}
        if isinstance(what, Signature):
            if no_wait:
                return await tasks.send(client, console, what, options)
            return await tasks.call(client, console, what, options, **how)
        if no_wait:
            return await flows.send(client, console, what, options)
        return await flows.call(client, console, what, options, **how)

    _run(_client_options(broker, result_backend, settings, debug=debug), job, check=check, as_json=as_json)


@app.command()
def result(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is there.")] = False,
    traceback: Traceback = False,
    as_json: AsJson = False,
    timeout: Timeout = None,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Write the result of a task that was sent before.

    \b
    Examples:
      fibo result 0c6f639d-fa0d-45ac-abd1-cc184d3f1451
      fibo result 0c6f639d-fa0d-45ac-abd1-cc184d3f1451 --wait --timeout 300

    It can be asked for again: nothing is deleted, and Ctrl-C changes nothing about the task. Without --wait, a result
    that is not there yet is exit code 3.
    """
    from fibo_client.cli import tasks

    async def job(client: FiboClient, console: Console) -> ExitCode:
        if wait:
            return await tasks.wait(client, console, task_id, timeout=_resolved(timeout, client), traceback=traceback)
        return await tasks.stored(client, console, task_id, traceback=traceback)

    _run(_client_options(broker, result_backend, settings, debug=debug), job, as_json=as_json)


@app.command()
def revoke(
    task_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="The ids of tasks, or of groups that were saved.", show_default=False),
    ],
    terminate: Annotated[bool, typer.Option("--terminate", help="End them even while they run.")] = False,
    signal: Annotated[
        Literal["SIGTERM", "SIGKILL", "SIGINT", "SIGUSR1"], typer.Option("--signal", help="How --terminate ends them.")
    ] = "SIGTERM",
    as_json: AsJson = False,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Tell all workers not to run tasks.

    \b
    Examples:
      fibo revoke 0c6f639d-fa0d-45ac-abd1-cc184d3f1451
      fibo revoke --terminate 0c6f639d-fa0d-45ac-abd1-cc184d3f1451

    It says how many workers heard it, and which of the tasks run all the same, or were over: a task that a worker has
    begun goes on, unless --terminate ends it. Whether a task was stopped is what 'fibo result' says. A group stands for
    its tasks if it was saved, as 'fibo call --no-wait' does; of another one, name the tasks.
    """
    from fibo_client.cli import tasks

    _run(
        _client_options(broker, result_backend, settings, debug=debug),
        lambda client, console: tasks.revoke(client, console, task_ids, terminate=terminate, signal=signal),
        as_json=as_json,
    )


@app.command()
def ping(
    as_json: AsJson = False,
    timeout: InspectTimeout = 1.0,
    broker: Broker = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Write the names of the workers that answer.

    \b
    Examples:
      fibo ping
      fibo ping --timeout 5 && deploy
    """
    from fibo_client.cli import workers as jobs

    _run(
        _client_options(broker, None, settings, debug=debug),
        lambda client, console: jobs.ping(client, console, timeout=timeout),
        as_json=as_json,
    )


@app.command()
def workers(
    as_json: AsJson = False,
    timeout: InspectTimeout = 1.0,
    broker: Broker = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Show the workers, their queues, and the tasks that they know.

    \b
    Examples:
      fibo workers
      fibo workers --json
      fibo workers | cut -f 1,5

    On a terminal it is a table, or a list where the terminal is too narrow for the table. Elsewhere it is a line for
    each worker, with tabs between name, pool, concurrency, active tasks, queues and known tasks. A '?' is what a worker
    did not say.
    """
    from fibo_client.cli import workers as jobs

    _run(
        _client_options(broker, None, settings, debug=debug),
        lambda client, console: jobs.workers(client, console, timeout=timeout),
        as_json=as_json,
    )


@app.command()
def diagnose(
    task_id: TaskId,
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="The task's name, if you know it.")] = None,
    queue: Queue = None,
    as_json: AsJson = False,
    timeout: InspectTimeout = 1.0,
    broker: Broker = None,
    result_backend: Backend = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Say why a task gives no answer.

    \b
    Examples:
      fibo diagnose 0c6f639d-fa0d-45ac-abd1-cc184d3f1451
      fibo diagnose 0c6f639d-fa0d-45ac-abd1-cc184d3f1451 --queue math --task proj.tasks.add

    It asks the results, the queue and all workers. With --task it can also say that no worker knows a task of that
    name. Of a group that was saved, as 'fibo call --no-wait' does, it names the task that is waited for, or that
    failed.
    """
    from fibo_client.cli import workers as jobs

    _run(
        _client_options(broker, result_backend, settings, debug=debug),
        lambda client, console: jobs.diagnose(client, console, task_id, task=task, queue=queue, timeout=timeout),
        as_json=as_json,
    )


@app.command()
def stubs(
    celery_app: Annotated[
        str,
        typer.Argument(metavar="APP", help="MODULE:ATTRIBUTE, or a name that celery -A takes.", show_default=False),
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="The module to write. Default: the output.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say in what the file differs from the app.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write typed stubs of a Celery app's tasks, for 'fibo_client.celery.remote_task'.

    \b
    Examples:
      fibo stubs shop.tasks:app
      fibo stubs shop.tasks:app --out remote.py
      fibo stubs shop.tasks:app --out remote.py --check

    Run it where the app is installed, or in the folder from which its worker is started, with the variables that the
    app needs: it imports the app with all its tasks, as Celery does. No worker and no broker is asked. The module that
    it writes needs fibo-client alone.

    A stub has the task's parameters, defaults and types as far as JSON carries them, and the queue and the other
    options that the app's routes say. With --check, exit code 1 means that the app has changed: a line for each change
    says how. A file that this command did not write is never overwritten.
    """
    from fibo_client.cli.stubs import command

    raise typer.Exit(command.stubs(celery_app, output, check=check, debug=debug))


def _client_options(
    broker: str | None, result_backend: str | None, settings: list[str] | None, *, debug: bool
) -> ClientOptions:
    from fibo_client.cli.runner import ClientOptions

    return ClientOptions(broker=broker, result_backend=result_backend, settings=settings or (), debug=debug)


def _run(client_options: ClientOptions, job: Callable[..., Any], **how: Any) -> None:
    from fibo_client.cli.runner import run

    run(client_options, job, **how)


def _resolved(timeout: float | None, client: FiboClient) -> float | None:
    """Resolve ``--timeout``: without it the client's, and None for 'inf'."""
    if timeout is None:
        return client.config.timeout
    return None if math.isinf(timeout) else timeout
