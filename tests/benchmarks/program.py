"""The program: measure, show a table, write a file if one is wanted."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tests.benchmarks import measures, report
from tests.benchmarks.bench import bench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.bench import Bench

INTERRUPTED = 130
"""The exit status after Ctrl-C, as of any program in a shell."""

PACKAGES = ("fibo-client", "celery", "kombu", "redis", "hiredis")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything once.

    Args:
        arguments: The command line. None is this program's own.

    Returns:
        The exit status: 0 if every answer of this client was right, however long it took; 1 if not; 130 after Ctrl-C.
    """
    chosen = options().parse_args(arguments)
    sizes = measures.QUICK if chosen.quick else measures.FULL
    repeats = chosen.repeats or (2 if chosen.quick else 5)
    console = Console(highlight=False, **({} if sys.stdout.isatty() else {"width": 120}))
    forget_environment()
    began = time.monotonic()
    console.print("Starting a private Redis and a plain Celery worker with two processes ...")
    with bench(lambda line: console.print(f"  {line}")) as here:
        facts = circumstances(here)
        try:
            rows = measures.everything(here, sizes, repeats)
        except KeyboardInterrupt:
            # In here, while the server still runs: Celery's result objects want to talk to it when they go.
            console.print("Interrupted.")
            return INTERRUPTED
        here.worker.check()
    facts["load average at the end"] = load()
    facts["seconds"] = round(time.monotonic() - began)
    console.print()
    console.print(report.table(rows))
    for line in report.right(here.checks):
        console.print(line)
    console.print(", ".join(f"{name} {fact}" for name, fact in facts.items()))
    if chosen.json:
        written = {"facts": facts, "answers": report.counts(here.checks), "measures": [each.as_json() for each in rows]}
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0 if here.checks["ours"].all_right else 1


def options() -> argparse.ArgumentParser:
    """Describe the command line.

    Returns:
        Its parser.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the work, two repeats: only a first look")
    parser.add_argument("--repeats", type=positive, metavar="N", help="how often everything is measured")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures to a file, too")
    return parser


def positive(text: str) -> int:
    """Read a number from the command line.

    Args:
        text: The argument.

    Returns:
        The number, 1 or more.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def forget_environment() -> None:
    """Forget the settings of whoever runs this: Celery would follow them to another Redis."""
    for name in list(os.environ):
        ours = name.startswith(("CELERY_", "FIBO_")) or name in ("BROKER_URL", "RESULT_BACKEND", "STOCK_CONF")
        if ours and name != "FIBO_REDIS_SERVER":
            del os.environ[name]


def circumstances(here: Bench) -> dict[str, Any]:
    """Say what the figures depend on.

    Args:
        here: What all measures use.

    Returns:
        Versions and the machine, by name.
    """
    facts: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["redis server"] = here.redis.info("server")["redis_version"]
    facts["cores"] = os.cpu_count()
    facts["load average at the start"] = load()
    if sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG"):
        facts["warning:"] = "Python's development mode slows the client down"
    return facts


def load() -> float:
    """Give the machine's load average of the last minute.

    Returns:
        The number of processes that wanted to run.
    """
    return round(os.getloadavg()[0], 1)
