"""``fibo compute`` and ``fibo sqrt``: the jobs of a `FiboClient`."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.config import expiry_of
from fibo_client.cli.backpressure import Backpressure
from fibo_client.cli.big_integers import decimal_digits, shortened
from fibo_client.cli.console import json_line
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.parsing import StandardInput
from fibo_client.cli.queue_hint import QueueHint
from fibo_client.cli.revocation_summary import Expiry, revocation_summary
from fibo_client.cli.runner import report_error, report_timeout
from fibo_client.contract import FIBONACCI, SQRT_TASK, check_n
from fibo_client.daemon_thread import to_daemon_thread
from fibo_client.errors import ResultDecodeError, ResultTimeoutError, TaskError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Sequence

    from fibo_client.celery.stats import RevocationCounts
    from fibo_client.cli.bar import Bar
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

__all__ = ["OutputFormat", "compute", "compute_standard_input", "square_roots"]

_BATCH: Final = 100
"""The most answers that are written at once, and the most that wait to be written."""

_LONG_TEXT: Final = 50_000
"""Text of more characters is written before more is made."""

_PER_NUMBER_ERRORS: Final = (TaskError, ResultDecodeError)
"""Errors of a single number. Any other error ends the command."""


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """How answers are written.

    Attributes:
        hexadecimal: Whether in hexadecimal digits.
        short: Whether long numbers are shortened. None is on a terminal only.
        bare: Whether answers are written alone.
    """

    hexadecimal: bool = False
    short: bool | None = None
    bare: bool = False

    def line(self, console: Console, n: int, answer: int | TaskError | ResultDecodeError) -> str:
        """Write F(n) as a line. An error is empty, unless lines are JSON: `_Writer` reports it."""
        if isinstance(answer, _PER_NUMBER_ERRORS):
            return (
                json_line({"n": n, "error": type(answer).__name__, "message": str(answer)}) if console.as_json else ""
            )
        if console.as_json:
            return json_line(
                {"n": n, "hex": f"{answer:x}"} if self.hexadecimal else {"n": n, "value": decimal_digits(answer)}
            )
        if console.terminal if self.short is None else self.short:
            digits = shortened(answer, hexadecimal=self.hexadecimal)
        else:
            digits = f"{answer:x}" if self.hexadecimal else decimal_digits(answer)
        return _labelled(console, f"F({n})", str(n), digits, bare=self.bare)


async def compute(
    client: FiboClient,
    console: Console,
    source: Iterable[int] | AsyncIterable[int],
    *,
    output_format: OutputFormat,
    total: int | None,
    ordered: bool,
    timeout: float | None,
    queue: str | None = None,
    bar: bool = True,
    **options: Any,
) -> ExitCode:
    """Compute numbers, and write the answers as they come.

    Args:
        client: An open client.
        console: Where to write.
        source: The numbers.
        output_format: How to write the answers.
        total: How many numbers there are. None is not known.
        ordered: Whether answers come in the order of the numbers.
        timeout: Seconds for each number. None is no limit.
        queue: The queue to send to. None is the client's.
        bar: Whether a terminal may show the progress.
        **options: More options of `FiboClient.stream`.

    Returns:
        The exit status.
    """
    with console.progress_bar("Computing", total, visible=bar) as progress:
        backpressure = Backpressure()
        writer = _Writer(console, output_format, progress, backpressure)
        expiry = Expiry(expiry_of(timeout))
        console.stop_message = lambda counts: _answered_message(writer.done, total, counts, expiry)
        try:
            async with (
                asyncio.TaskGroup() as group,
                QueueHint(client, console, task=FIBONACCI.name, queue=queue or client.config.queue) as hint,
            ):
                group.create_task(writer.write_all())

                def pulled() -> None:
                    hint.start()
                    expiry.sent()  # Perhaps later, but its deadline counts from now.

                async with client.stream(
                    backpressure.limit(source, pulled),
                    ordered=ordered,
                    timeout=timeout,
                    queue=queue,
                    return_exceptions=True,
                    **options,
                ) as results:
                    async for n, answer in results:
                        hint.cancel()
                        if isinstance(answer, Exception) and not isinstance(answer, _PER_NUMBER_ERRORS):
                            await writer.end()
                            return await _report_failure(client, console, answer, writer.done, total, expiry)
                        await writer.put(n, answer)
                await writer.end()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return ExitCode.OK if writer.failed is None else writer.failed


async def compute_standard_input(client: FiboClient, console: Console, **options: Any) -> ExitCode:
    """Compute the numbers of the standard input as they arrive. `options` are those of `compute`."""
    wrong_lines: list[str] = []

    def on_error(text: str) -> None:
        wrong_lines.append(text)
        console.error(text)

    interactive = sys.stdin.isatty()
    if interactive:
        console.info("Type numbers; Ctrl-D ends.")
    source = StandardInput(lambda n: check_n(n, client.config.max_n), on_error)
    status = await compute(client, console, source, total=None, bar=not interactive, **options)
    return ExitCode.USAGE if status is ExitCode.OK and wrong_lines else status


async def square_roots(
    client: FiboClient, console: Console, values: Sequence[float], *, bare: bool, timeout: float | None
) -> ExitCode:
    """Compute square roots, and write them. `timeout` is seconds for all of it; None is no limit."""
    status = ExitCode.OK
    expiry = Expiry(expiry_of(timeout))
    console.stop_message = lambda counts: revocation_summary("what is unfinished", counts, expiry.remaining())

    async def root(value: float) -> float:
        expiry.sent()
        return await client.sqrt(value, timeout=timeout)

    hint = QueueHint(client, console, task=SQRT_TASK.name, queue=client.config.queue)
    with console.progress_bar("Computing", len(values)):
        async with hint:
            hint.start()
            answers = await asyncio.gather(*map(root, values), return_exceptions=True)
    for done, (value, answer) in enumerate(zip(values, answers, strict=True)):
        if not isinstance(answer, BaseException):
            if console.as_json:
                await console.write_json(of=value, value=answer)
            else:
                await console.write(_labelled(console, f"sqrt({value})", f"{value}", f"{answer}", bare=bare))
        elif not isinstance(answer, _PER_NUMBER_ERRORS):
            return await _report_failure(client, console, answer, done, len(values), expiry)
        else:
            status = ExitCode.FAILED
            if console.as_json:
                await console.write_json(of=value, error=type(answer).__name__, message=str(answer))
            else:
                report_error(console, answer)
    return status


def _labelled(console: Console, question: str, brief: str, answer: str, *, bare: bool) -> str:
    """Write an answer with its question: readable on a terminal, two columns elsewhere."""
    if bare:
        return f"{answer}\n"
    return f"{question} = {answer}\n" if console.terminal else f"{brief} {answer}\n"


async def _report_failure(
    client: FiboClient,
    console: Console,
    error: BaseException,
    done: int,
    total: int | None,
    expiry: Expiry,
) -> ExitCode:
    """Report an error that ends the command. How many numbers were answered is said at the end."""
    if isinstance(error, ResultTimeoutError):
        status = await report_timeout(client, console, error)
    else:
        status = report_error(console, error)
    console.stop_message = lambda counts: _answered_message(done, total, counts, expiry)
    console.stopped_early = total != 1 and (done > 0 or status is not ExitCode.NO_REDIS)
    return status


def _answered_message(done: int, total: int | None, counts: RevocationCounts, expiry: Expiry) -> str:
    rest = revocation_summary("the rest", counts, expiry.remaining())
    return f"{done}{'' if total is None else f' of {total}'} answered{f', {rest}' if rest else '.'}"


class _Writer:
    """Writes answers in another thread, in batches while they come quickly."""

    def __init__(self, console: Console, output_format: OutputFormat, bar: Bar, backpressure: Backpressure) -> None:
        self.failed: ExitCode | None = None
        self._console = console
        self._output_format = output_format
        self._bar = bar
        self._backpressure = backpressure
        self.done = 0
        self._ready: asyncio.Queue[tuple[int, int | TaskError | ResultDecodeError] | None] = asyncio.Queue(_BATCH)

    async def put(self, n: int, answer: int | TaskError | ResultDecodeError) -> None:
        """Take an answer, once there is room."""
        await self._ready.put((n, answer))

    async def end(self) -> None:
        """Write what is left."""
        await self._ready.put(None)
        await self._ready.join()

    async def write_all(self) -> None:
        """Write answers as they come, until `end`."""
        going = True
        while going:
            batch = [await self._ready.get()]
            while not self._ready.empty():
                batch.append(self._ready.get_nowait())
            answers = [each for each in batch if each is not None]
            taken = len(batch)
            going = len(answers) == taken
            del batch  # It would keep written answers in memory.
            for n, answer in answers:
                if isinstance(answer, _PER_NUMBER_ERRORS):
                    self.failed = ExitCode.FAILED
                    if not self._console.as_json:
                        self._console.info(f"n = {n}:")
                        report_error(self._console, answer)
            while answers:
                # That thread makes the digits, too.
                written = await to_daemon_thread(self._write, answers)
                self.done += sum(not isinstance(answer, _PER_NUMBER_ERRORS) for _, answer in answers[:written])
                self._bar.advance(written)
                for n, _ in answers[:written]:
                    self._backpressure.release(n)
                del answers[:written]
            for _ in range(taken):
                self._ready.task_done()

    def _write(self, answers: Sequence[tuple[int, int | TaskError | ResultDecodeError]]) -> int:
        """Write at least one answer, and more until the text is long. Gives how many."""
        lines: list[str] = []
        size = 0
        for n, answer in answers:
            lines.append(self._output_format.line(self._console, n, answer))
            size += len(lines[-1])
            if size > _LONG_TEXT:
                break
        self._console.write_blocking("".join(lines))
        return len(lines)
