"""Runs a job over an open client, and turns signals and errors into messages and an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from fibo_client.cli.console import Console
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.usage_errors import usage_error
from fibo_client.errors import (
    ConfigError,
    FiboError,
    MessageError,
    PublishError,
    ResultTimeoutError,
    TaskFailedError,
    TransportError,
)
from fibo_client.text import printable_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from fibo_client.client import FiboClient

__all__ = ["INSPECT_TIMEOUT", "ClientOptions", "report_error", "report_timeout", "run"]

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SHOW_CURSOR: Final = "\x1b[?25h"
INSPECT_TIMEOUT: Final = 1.0
"""Seconds that workers have to answer a command's questions."""
_OF_REDIS: Final = "redis."
_NOTICE_DELAY: Final = 0.5
"""Seconds after which a notice is shown, unless the command has ended."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """The client's options.

    Attributes:
        broker: The broker's URL. None is that of the environment.
        result_backend: The results' URL, likewise.
        settings: Fields of `FiboConfig` as ``name=value``, of its `RedisOptions` as ``redis.name=value``.
        debug: Whether to show Python's tracebacks and the client's log.
    """

    broker: str | None = None
    result_backend: str | None = None
    settings: Sequence[str] = ()
    debug: bool = False

    def client(self, **overrides: Any) -> FiboClient:
        """Make the client, not yet opened. `overrides` are fields of `FiboConfig`. Raises ConfigError."""
        from fibo_client.client import FiboClient

        urls = {"broker_url": self.broker, "result_backend": self.result_backend}
        given = _settings(self.settings) | {name: url for name, url in urls.items() if url is not None}
        return FiboClient(**(given | overrides))


def run(
    options: ClientOptions,
    job: Callable[[FiboClient, Console], Awaitable[ExitCode]],
    *,
    check: Callable[[FiboClient], None] | None = None,
    as_json: bool = False,
    output: str | None = None,
    **overrides: Any,
) -> NoReturn:
    """Run a job, and end the command with its exit status.

    Args:
        options: The client's options.
        job: What to do with the client. Its errors become messages.
        check: Called with the client before it is opened; raises ValueError for wrong arguments.
        as_json: Whether answers are lines of JSON.
        output: A file for the answers.
        **overrides: Fields of `FiboConfig`.

    Raises:
        Exit: Always.
    """
    try:
        client = options.client(**overrides)
        if check is not None:
            check(client)
        console = Console(as_json=as_json, output=output)
    except (ConfigError, ValueError) as error:
        usage_error(str(error))
    except OSError as error:
        usage_error(f"the answers cannot be written: {error}")
    stop = _StopSignal()
    try:
        with _showing_log(console, debug=options.debug):
            status: int = asyncio.run(_run(client, console, job, stop))
        console.close()
        if console.stopped_early:
            console.info(console.stop_message(client.stats().revocations))
    except asyncio.CancelledError:
        # The client is closed, and has revoked all that is unfinished.
        left = console.stop_message(client.stats().revocations)
        console.info(f"Stopped: {left}" if left else "Stopped.")
        status = 128 + stop.signal
    except BrokenPipeError:
        status = 128 + getattr(signal, "SIGPIPE", 13)
    except (FiboError, OSError) as error:
        if options.debug:
            traceback.print_exc()
        status = report_error(console, error)
    raise typer.Exit(status)


def report_error(console: Console, error: BaseException, *, traceback: bool | None = None) -> ExitCode:
    """Write an error's message, and return the exit status that it means.

    Args:
        console: Where to write.
        error: What was raised.
        traceback: Whether to show the traceback of a task that failed. None is a command without that option.

    Returns:
        The exit status.

    Raises:
        BaseException: The error, if it is a bug here.
    """
    if isinstance(error, TransportError):
        # Without the ids: the command ends, and nobody else knows its tasks.
        reason = error.reason if isinstance(error, PublishError) else str(error)
        found = error.refused or "CELERY_BROKER_URL" in reason
        console.error(reason if found else f"{reason} --broker or CELERY_BROKER_URL says where it is.")
        return ExitCode.NO_REDIS
    if isinstance(error, (MessageError, ConfigError)):
        console.error(str(error))
        return ExitCode.USAGE
    if isinstance(error, FiboError):
        console.error(str(error))
        if isinstance(error, TaskFailedError):
            if error.traceback and traceback is not None:
                where = printable_lines(error.traceback.rstrip())
                console.info(where if traceback else "--traceback shows where in the worker.")
            if error.exc_type == "NotRegistered":
                console.info("'fibo workers' shows which tasks each worker knows.")
        return ExitCode.FAILED
    if isinstance(error, OSError):
        console.error(f"the output cannot be written: {error.strerror or error}")
        return ExitCode.FAILED
    raise error


async def report_timeout(
    client: FiboClient, console: Console, error: ResultTimeoutError, *, waited: float | None = None
) -> ExitCode:
    """Write why no answer came in time, and return the exit status. `waited` replaces the error's seconds."""
    from fibo_client.celery.diagnosis import Cause
    from fibo_client.config import FiboConfig

    task_id = error.task_ids[0]
    step = "" if error.step is None else f", {error.step}"
    console.error(f"no answer within {waited or error.waited:.3g} s from {error.task or 'task'}[{task_id}]{step}")
    if error.unread is not None:
        console.info(error.unread)
        return ExitCode.NO_REDIS
    try:
        diagnosis = await client.celery.diagnose(error, timeout=INSPECT_TIMEOUT)
    except FiboError as failure:
        console.info(str(failure))
        return ExitCode.NO_ANSWER
    console.info(str(diagnosis))
    no_worker = not diagnosis.workers and not diagnosis.silent and diagnosis.cause is not Cause.FINISHED
    if no_worker or error.reason:
        console.info(error.reason or "Start a worker, such as: fibo-worker start")
    option = "" if diagnosis.queue == FiboConfig().queue else f" --queue {diagnosis.queue}"
    console.info(f"Ask again: fibo diagnose {task_id}{option}")
    return ExitCode.NO_WORKER if no_worker else ExitCode.NO_ANSWER


class _StopSignal:
    """The signal that stopped the command."""

    signal: int = signal.SIGINT


async def _run(
    client: FiboClient, console: Console, job: Callable[[FiboClient, Console], Awaitable[ExitCode]], stop: _StopSignal
) -> ExitCode:
    async def work() -> ExitCode:
        async with client:
            return await job(client, console)

    task = asyncio.create_task(work())
    with _cancelled_by_signals(stop, task, console):
        return await task


@contextlib.contextmanager
def _cancelled_by_signals(stop: _StopSignal, job: asyncio.Task[Any], console: Console) -> Iterator[None]:
    """Let the first signal cancel the job, and the second one end the process at once."""
    loop = asyncio.get_running_loop()

    def first(number: int, _frame: Any) -> None:
        for each in handled:
            signal.signal(each, second)
        stop.signal = number
        loop.call_soon_threadsafe(end)

    def end() -> None:
        job.cancel()
        if sys.stderr is not None and sys.stderr.isatty():
            loop.call_later(_NOTICE_DELAY, console.info, "Stopping; Ctrl-C again ends at once.")

    def second(number: int, _frame: Any) -> NoReturn:
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
        os._exit(128 + number)

    # Ignored signals stay ignored: SIGHUP under nohup, SIGINT of a script's background jobs.
    handled = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, first) for each in handled}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _ConsoleHandler(logging.Handler):
    """Shows the client's log. Warnings come with a delay: a command that ends by an outage tells of it itself."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if self.level < logging.WARNING:
            self._console.info(self.format(record))
        else:
            asyncio.get_running_loop().call_later(_NOTICE_DELAY, self._console.info, self.format(record))


@contextlib.contextmanager
def _showing_log(console: Console, *, debug: bool) -> Iterator[None]:
    """Show outages, or with --debug all of the client's log."""
    logger = logging.getLogger("fibo_client")
    level = logger.level
    if debug:
        logger.setLevel(logging.DEBUG)
    handler = _ConsoleHandler(console, logging.DEBUG if debug else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _settings(texts: Iterable[str]) -> dict[str, Any]:
    from fibo_client import RedisOptions

    given = dict(map(_setting, texts))
    redis = {name.removeprefix(_OF_REDIS): given.pop(name) for name in list(given) if name.startswith(_OF_REDIS)}
    return given | {"redis": RedisOptions.from_fields(redis)} if redis else given


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text} must be a name and a value, such as io_timeout=10")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
