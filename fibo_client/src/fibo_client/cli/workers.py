"""``fibo ping``, ``workers`` and ``diagnose``: jobs that ask the workers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.celery.protocol import states
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.flows import saved_group
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery import AsyncResult
    from fibo_client.celery.flow_results import GroupResult
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

__all__ = ["diagnose", "ping", "workers"]

_UNBOUNDED: Final = 10_000
"""More columns than any terminal has."""

_LONGEST_NAME: Final = 1000
"""The most characters of a worker's, a queue's or a task's name."""


async def ping(client: FiboClient, console: Console, *, timeout: float) -> ExitCode:
    """Write which workers answer within `timeout` seconds."""
    found = await client.celery.ping(timeout=timeout)
    for each in found:
        if console.as_json:
            await console.write_json(worker=each.name)
        else:
            await console.write(f"{_name(each.name)}\n")
    return ExitCode.OK if found else _no_worker(console, timeout)


async def workers(client: FiboClient, console: Console, *, timeout: float) -> ExitCode:
    """Write what workers tell of themselves: a table or a list on a terminal, lines with tabs elsewhere."""
    inspect = client.celery.inspect(timeout=timeout)
    stats, active, queues, tasks = await asyncio.gather(
        inspect.stats(), inspect.active(), inspect.active_queues(), inspect.registered()
    )
    found = [
        _Worker.read(name, stats.get(name), active.get(name), queues.get(name), tasks.get(name))
        for name in sorted({*stats, *active, *queues, *tasks})
    ]
    if not found:
        return _no_worker(console, timeout)
    if console.as_json:
        for each in found:
            await console.write_json(**each._asdict())
    elif console.terminal:
        table = _table(found)
        if table is None:
            await console.write_wrapped("\n\n".join(map(_list, found)), indent="  ")
        else:
            await console.write(table)
    else:
        for each in found:
            await console.write("\t".join(each.cells(",")) + "\n")
    return ExitCode.OK


async def diagnose(
    client: FiboClient, console: Console, task_id: str, *, task: str | None, queue: str | None, timeout: float
) -> ExitCode:
    """Write why a task gives no answer, or a group that was saved. `timeout` is seconds for each round of questions."""
    from fibo_client.celery.diagnosis import Cause

    asked: AsyncResult[Any] | GroupResult[Any] = client.celery.result(task_id, task, queue=queue)
    if (group := await saved_group(client, task_id, timeout=timeout)) is not None:
        asked = group
        for member in group.tasks:  # Only their ids are stored.
            member.task, member.queue = task, queue
    diagnosis = await client.celery.diagnose(asked, timeout=timeout)
    if console.as_json:
        await console.write_json(**dataclasses.asdict(diagnosis))
    else:
        await console.write_wrapped(str(diagnosis))
        if diagnosis.guessed and diagnosis.cause in (Cause.GONE, Cause.NEVER_PUBLISHED, Cause.NO_REPLY):
            console.info(f"Was it sent to another queue? Ask again: fibo diagnose {task_id} --queue QUEUE")
        found = group is not None or diagnosis.state != states.PENDING
        if not found and diagnosis.cause in (Cause.NEVER_PUBLISHED, Cause.NO_REPLY):
            console.info("Is it a group? It was not saved, or has expired: ask about its tasks by their own ids.")
    return ExitCode.OK


class _Worker(NamedTuple):
    """What a worker tells of itself. None is what it did not tell."""

    worker: str
    pool: str | None
    concurrency: int | None
    active: int | None
    queues: list[str] | None
    tasks: list[str] | None

    @classmethod
    def read(cls, name: str, stats: Any, active: Any, queues: Any, tasks: Any) -> _Worker:
        pool = stats.get("pool") if isinstance(stats, dict) else None
        pool = pool if isinstance(pool, dict) else {}
        kind, concurrency = pool.get("implementation"), pool.get("max-concurrency")
        return cls(
            worker=name,
            # Such as celery.concurrency.prefork:TaskPool.
            pool=kind.partition(":")[0].rpartition(".")[2] if isinstance(kind, str) else None,
            concurrency=concurrency if isinstance(concurrency, int) else None,
            active=len(active) if isinstance(active, list) else None,
            queues=sorted(str(each.get("name")) for each in queues if isinstance(each, dict))
            if isinstance(queues, list)
            else None,
            # A task with own options is listed as "name [rate_limit=...]".
            tasks=sorted(each.partition(" ")[0] for each in tasks if isinstance(each, str))
            if isinstance(tasks, list)
            else None,
        )

    def cells(self, between: str) -> list[str]:
        """Give a text for each column. `between` separates queues, and tasks."""
        return [
            between.join(map(_name, each)) if isinstance(each, list) else "?" if each is None else _name(str(each))
            for each in self
        ]


def _name(name: str) -> str:
    return printable(name, _LONGEST_NAME)


def _list(worker: _Worker) -> str:
    return "\n".join(f"{heading}: {cell}" for heading, cell in zip(worker._fields, worker.cells(", "), strict=True))


def _table(found: Sequence[_Worker]) -> str | None:
    """Draw a table. None if the terminal is too narrow for it."""
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in _Worker._fields:
        table.add_column(heading, justify="right" if heading in ("concurrency", "active") else "left")
    for each in found:
        table.add_row(*map(Text, each.cells("\n")))
    rich = RichConsole()
    if rich.measure(table, options=rich.options.update(max_width=_UNBOUNDED)).maximum > rich.width:
        return None
    with rich.capture() as captured:
        rich.print(table)
    return captured.get()


def _no_worker(console: Console, timeout: float) -> ExitCode:
    console.error(
        f"Redis can be reached, but no worker answered in {timeout:g} s. Start one, such as: fibo-worker start"
    )
    return ExitCode.NO_WORKER
