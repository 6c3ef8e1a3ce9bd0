"""What a task costs a protected worker, beside a stock one with the same app and settings."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench import ROOT, TIMEOUT, in_turns
from tests.benchmarks.report import Row
from versions.conftest import python_of

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_worker.dev import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis as redis_py
    from tests.benchmarks.bench import Bench

NOTHING = RemoteTask[..., None]("compared.nothing")
REST = RemoteTask[..., None]("compared.rest")

PROCESSES = 2
SHORT = 0.01
"""The seconds of a short task, which sleeps."""
PARKED = "parked"
"""Where tasks wait until all are sent, so that the sending is no part of what is measured."""
COUNTED = 200
"""The tasks whose commands are counted, one by one."""
REPEATS = 5
TICKS = os.sysconf("SC_CLK_TCK")

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "acks late": (
        {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "worker_cancel_long_running_tasks_on_connection_loss": True,
        },
        "",
    ),
    "Celery's defaults": ({}, "redelivery cancellation"),
}
"""The settings of both sides, and the protections that cannot be had with them."""


@dataclasses.dataclass
class Side:
    """A worker, its database and a client."""

    worker: WorkerProcess
    redis: redis_py.Redis
    client: CeleryClient


@dataclasses.dataclass
class Turn:
    """What one side did for a number of empty tasks: tasks a second, and microseconds of CPU a task."""

    rate: float
    main: float
    children: float


def compare(version: str, here: Bench) -> list[Row]:
    """Let a protected worker and a stock one run the same tasks, with each of the settings.

    Args:
        version: That of Celery, such as ``5.7``.
        here: What all measures use.

    Returns:
        The rows.
    """
    return [row for name in SETTINGS for row in _compare(version, name, here)]


def _compare(version: str, settings: str, here: Bench) -> list[Row]:
    count, calls = here.sizes.bulk, here.sizes.calls
    what, stock = f"Celery {version}, {settings}", "a stock worker"
    note = (
        f"the same app and settings for both, {PROCESSES} processes; {count:,} empty tasks wait in the queue when "
        f"a turn begins. Calls: {calls} in a row. Commands: what the worker sends, not what a script runs."
    )
    rate = Row(f"{what}: empty tasks", "tasks/s", "more", 1.6, stock, note=note)
    main = Row(f"{what}: CPU of the main process", "us a task", "less", 0.6, stock)
    children = Row(f"{what}: CPU of the pool's processes", "us a task", "less", 0.7, stock)
    commands = Row(f"{what}: commands to Redis, stock {{:.0f}}", "a task", "less", 6, None)
    short = Row(f"{what}: tasks of {SHORT * 1e3:g} ms", "tasks/s", "more", 1, stock)
    call = Row(f"{what}: one celery.call, p50", "ms", "less", 0.85, stock)
    with _side(here, version, settings, "protected") as ours, _side(here, version, settings, "stock") as theirs:
        sides = {"ours": ours, "theirs": theirs}
        for side in sides.values():
            here.run(_calls(side, COUNTED))
            _run(here, side, NOTHING(), COUNTED)
        repeats, some = min(here.repeats, REPEATS), count // 5
        for repeat in range(repeats):
            turns = in_turns(
                repeat, **{name: lambda side=side: _turn(here, side, count) for name, side in sides.items()}
            )
            for row, figure in ((rate, "rate"), (main, "main"), (children, "children")):
                row.add(getattr(turns["ours"], figure), getattr(turns["theirs"], figure))
            took = in_turns(
                repeat, **{name: lambda side=side: _run(here, side, REST(SHORT), some) for name, side in sides.items()}
            )
            short.add(some / took["ours"], some / took["theirs"])
            p50 = in_turns(
                repeat,
                **{
                    name: lambda side=side: statistics.median(here.run(_calls(side, calls)))
                    for name, side in sides.items()
                },
            )
            call.add(p50["ours"] * 1e3, p50["theirs"] * 1e3)
            said = {name: _commands(here, side) for name, side in sides.items()}
            commands.add(said["ours"])
            for row in (rate, main, children, short, call):
                here.tell(row, repeat, repeats)
        commands.what = commands.what.format(said["theirs"])
    return [rate, main, children, commands, short, call]


@contextlib.contextmanager
def _side(here: Bench, version: str, settings: str, kind: str) -> Iterator[Side]:
    conf, without = SETTINGS[settings]
    env = {
        "PYTHONPATH": str(ROOT / "tests"),
        "COMPARED_IS": kind,
        "COMPARED_CONF": json.dumps(conf),
        "COMPARED_WITHOUT": without,
    }
    url = here.server.fresh_url()
    worker = WorkerProcess(
        url, app="support.compared", name=kind, concurrency=PROCESSES, env=env, python=python_of(version)
    )
    client = CeleryClient(url)
    with worker, here.server.client(url) as redis:
        here.run(client.open())
        try:
            yield Side(worker, redis, client)
        finally:
            here.run(client.aclose())


def _turn(here: Bench, side: Side, count: int) -> Turn:
    main = side.worker.pid
    processes = [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
    before, before_all = _cpu(main), sum(map(_cpu, processes))
    took = _run(here, side, NOTHING(), count)
    used, used_all = _cpu(main) - before, sum(map(_cpu, processes)) - before_all
    return Turn(count / took, used / count * 1e6, used_all / count * 1e6)


def _cpu(pid: int) -> float:
    """Give the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _run(here: Bench, side: Side, signature: Any, count: int) -> float:
    """Let the worker run so many tasks, and give the seconds until it has acknowledged the last one."""
    here.run(side.client.send_many([signature] * count, queue=PARKED, timeout=TIMEOUT))
    _clean(side)  # what calls have left
    began = time.perf_counter()
    side.redis.rename(PARKED, "celery")
    _wait_until_acknowledged(side)
    took = time.perf_counter() - began
    stored = 0
    while stored < count and time.perf_counter() - began < TIMEOUT:  # Some acknowledge before they store.
        stored += _clean(side)
    here.checks["ours"].same([stored], [count])
    return took


def _wait_until_acknowledged(side: Side) -> None:
    """Wait until the worker has acknowledged all that it was given."""
    began = time.perf_counter()
    while side.redis.exists("celery", "unacked"):
        if time.perf_counter() - began > TIMEOUT:
            raise TimeoutError("the worker does not end what it was given")
        time.sleep(0.002)  # Redis tells nobody, and without a pause these questions would slow the worker down.


def _clean(side: Side) -> int:
    """Delete the results that are there, and tell how many."""
    found = list(side.redis.scan_iter(match="celery-task-meta-*", count=1000))
    return side.redis.delete(*found) if found else 0


async def _calls(side: Side, count: int) -> list[float]:
    """Make calls in a row, and give the seconds of each."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await side.client.call(NOTHING(), timeout=TIMEOUT)
        times.append(time.perf_counter() - began)
    return times


def _commands(here: Bench, side: Side) -> float:
    """Count the commands that a worker sends for a task."""
    database = str(side.redis.get_connection_kwargs()["db"])
    own = {"EXISTS", "RENAME", "LPUSH", "INFO", "SCAN", "DEL", "ECHO"}
    said: list[str] = []
    with side.redis.monitor() as monitor:
        here.run(side.client.send_many([NOTHING()] * COUNTED, queue=PARKED, timeout=TIMEOUT))

        def listen() -> None:
            for entry in monitor.listen():
                name = entry["command"].partition(" ")[0].upper()
                if name == "ECHO":
                    return
                if str(entry["db"]) == database and entry["client_type"] != "lua":
                    said.append(name)

        listening = threading.Thread(target=listen)
        listening.start()
        side.redis.rename(PARKED, "celery")
        _wait_until_acknowledged(side)
        side.redis.echo("done")
        listening.join()
    _clean(side)
    return sum(name not in own for name in said) / COUNTED
