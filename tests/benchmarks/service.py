"""How long a service that embeds the client keeps its other callers waiting: that of docs/examples, on uvicorn."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from support.service import launched
from tests.benchmarks.bench import ROOT, in_turns, percentile
from tests.benchmarks.report import Row
from tests.benchmarks.visitors import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.bench import Bench

CALLERS = 500
REPEATS = 3
PROBED = 2.0
"""Seconds for which the probe asks a service that is idle, or whose callers wait."""

SETTLED = 1.5
"""Seconds in which a service has taken up all requests that were sent at once."""

NUMBER = "/fibonacci/{}"
NOTHING = "/healthz"
OURS = "service.app:app"
THREADED = "tests.benchmarks.threaded_service:app"
VISITORS = (sys.executable, "-m", "tests.benchmarks.visitors")


def healthz(here: Bench) -> list[Row]:
    """Make many requests at a time, and ask for a sign of life meanwhile."""
    waiting = f"p99 of /healthz, {CALLERS} requests that wait"
    busy, rate = f"p99 of /healthz, {CALLERS} busy callers", f"{CALLERS} busy callers"
    idle = Row(
        waiting,
        "ms",
        "less",
        beside="the idle service",
        note="uvicorn, one process. No worker answers the requests, as when workers are slow. Another process asks "
        "/healthz every 2 ms. Celery in threads: FastAPI calls send_task().get() in its 40 threads.",
    )
    waiting_threads = Row(waiting, "ms", "less", beside="Celery in threads")
    bare = Row(
        busy,
        "ms",
        "less",
        beside="requests of /healthz",
        note=f"{CALLERS} connections, one request after the other on each, of distinct n: as many as uvicorn can take. "
        "Requests of /healthz: the same, but those connections ask /healthz as well, which needs no worker. Celery in "
        "threads answers so few requests that its event loop has little to do.",
    )
    busy_threads = Row(busy, "ms", "less", beside="Celery in threads")
    bare_rate = Row(rate, "requests/s", "more", beside="requests of /healthz")
    rate_threads = Row(rate, "requests/s", "more", beside="Celery in threads")
    repeats = min(here.repeats, REPEATS)
    for repeat in range(repeats):
        came = in_turns(
            repeat,
            ours=partial(measured, here, OURS, here.sizes.requests),
            threads=partial(measured, here, THREADED, min(2, here.sizes.requests)),  # which takes long enough
        )
        mine, theirs = came["ours"], came["threads"]
        idle.add(p99(mine["waiting"]), p99(mine["idle"]))
        waiting_threads.add(p99(mine["waiting"]), p99(theirs["waiting"]))
        bare.add(p99(mine["busy"]), p99(mine["nothing"]))
        busy_threads.add(p99(mine["busy"]), p99(theirs["busy"]))
        bare_rate.add(mine["busy"]["rate"], mine["nothing"]["rate"])
        rate_threads.add(mine["busy"]["rate"], theirs["busy"]["rate"])
        here.tell(idle, repeat, repeats)
        here.tell(bare, repeat, repeats)
        here.checks["ours"].same(*in_order(mine["busy"]["answers"]))
        here.checks["Celery"].same(*in_order(theirs["busy"]["answers"]))
        here.fibo.clean()
    return [idle, waiting_threads, bare, busy_threads, bare_rate, rate_threads]


def measured(here: Bench, app: str, requests: int) -> dict[str, dict[str, Any]]:
    """Measure one service: idle, with requests that need no worker, with numbers, and with numbers that do not come."""
    with launched(here.fibo.url, app, "--no-access-log") as (address, _):
        visit(address, NUMBER, 1)  # so that everything is warm
        came = {
            "idle": look(address),
            "nothing": visit(address, NOTHING, requests),
            "busy": visit(address, NUMBER, requests),
        }
    nobody = here.server.fresh_url()
    with launched(nobody, app, "--no-access-log", timeout=LONGEST) as (address, _), visiting(address, NUMBER, 1):
        time.sleep(SETTLED)  # From outside nobody sees which requests wait.
        came["waiting"] = look(address)
    return came


def look(address: str) -> dict[str, Any]:
    """Probe a service for a while."""
    with probing(address) as late:
        time.sleep(PROBED)  # The measurement takes this long.
    return {"late": late}


def visit(address: str, path: str, requests: int) -> dict[str, Any]:
    """Make requests, so many at a time, and probe meanwhile."""
    with probing(address) as late, visiting(address, path, requests) as process:
        said, _ = process.communicate(timeout=2 * LONGEST)
    came = json.loads(said)
    return {"late": late, "rate": CALLERS * requests / came["seconds"], "answers": came["answers"]}


@contextlib.contextmanager
def visiting(address: str, path: str, requests: int) -> Iterator[subprocess.Popen[bytes]]:
    """Make requests, so many at a time, from the beginning of a block to its end at the latest."""
    command = (*VISITORS, "many", *host_and_port(address), path, str(CALLERS), str(requests))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def probing(address: str) -> Iterator[list[float]]:
    """Ask for a sign of life during a block. The list has how long each answer took once the block has ended."""
    late: list[float] = []
    command = (*VISITORS, "probe", *host_and_port(address))
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield late
            said, _ = process.communicate(timeout=LONGEST)
        finally:
            process.kill()
    late += json.loads(said)


def p99(came: dict[str, Any]) -> float:
    """Give the 99th percentile of what a probe saw, in milliseconds."""
    return percentile(came["late"], 99) * 1e3


def host_and_port(address: str) -> tuple[str, str]:
    """Take an address apart."""
    parts = urlsplit(address)
    return str(parts.hostname), str(parts.port)


def in_order(answers: list[dict[str, Any]]) -> tuple[list[str | None], list[str]]:
    """Give what came for each number, in order, and what should have come."""
    values = {answer.get("n"): answer.get("value") for answer in answers}
    expected = [0, 1]
    while len(expected) < len(answers):
        expected.append(expected[-2] + expected[-1])
    return [values.get(n) for n in range(len(answers))], [hex(value) for value in expected]
