"""The program: measure, show tables, write the results and draw them."""

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
from tests.benchmarks import calibrate, report
from tests.benchmarks.bench import FULL, QUICK, ROOT, bench
from tests.benchmarks.measures import MEASURES, PEERS
from tests.benchmarks.peers.driver import measure_peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.bench import Bench

INTERRUPTED = 130
"""The exit status after Ctrl-C, as of any program in a shell."""

REPEATS = 10
"""How often most things are measured."""

PACKAGES = ("fibo-client", "fibo-worker", "celery", "kombu", "redis", "hiredis", "gmpy2")
FOLDER = ROOT / "docs" / "explanation" / "benchmarks"
RESULTS = "results.json"
TABLES = "tables.inc"
HEADLINES = "headlines.inc"
"""Markdown that the page includes. It is no page of its own, and its name says so to Sphinx."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or draw once more what was measured.

    Args:
        arguments: The command line. None is this program's own.

    Returns:
        The exit status: 0 if every answer of this client was right, whatever the ratios; 1 if not, or if something
        could not be measured; 130 after Ctrl-C.
    """
    chosen = options().parse_args(arguments)
    # A quick look, or a part, does not replace what the page shows.
    folder = chosen.write or (None if chosen.quick or chosen.only else FOLDER)
    if chosen.draw:
        folder = chosen.write or FOLDER
        publish(json.loads((folder / RESULTS).read_text()), folder)
        return 0
    console = Console(highlight=False, **({} if sys.stdout.isatty() else {"width": 180}))
    forget_environment()
    names = chosen.only or [*MEASURES, PEERS]
    began = time.monotonic()
    rows: list[report.Row] = []
    peers: list[report.Peer] = []
    failed: list[str] = []
    sizes = QUICK if chosen.quick else FULL
    with bench(
        sizes, chosen.repeats or (2 if chosen.quick else REPEATS), lambda text: console.print(f"  {text}")
    ) as here:
        facts = circumstances(here, quick=chosen.quick)
        try:
            for name in names:
                console.print(name)
                try:
                    if name == PEERS:
                        peers = measure_peers(here)
                    else:
                        rows += MEASURES[name](here)
                except Exception:  # noqa: BLE001 - the other measures are worth having, and the status says that one failed
                    failed.append(name)
                    console.print_exception()
        except KeyboardInterrupt:
            # In here, while the server still runs: Celery's result objects want to talk to it when they go.
            console.print("Interrupted.")
            return INTERRUPTED
        here.check()
        estimates = [] if chosen.only else estimated()
    facts["load average at the end"] = load()
    facts["seconds"] = round(time.monotonic() - began)
    show(console, rows, peers, here, facts)
    if folder is not None and (chosen.write or not failed):
        results = {
            "facts": facts,
            "sizes": vars(sizes),
            "answers": {side: {"right": each.right, "asked": each.asked} for side, each in here.checks.items()},
            "measures": [each.as_json() for each in rows],
            "peers": [vars(each) for each in peers],
            "curves": here.curves,
            "estimates": estimates,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
        publish(results, folder)
        console.print(f"Written: {RESULTS}, {TABLES}, {HEADLINES} and the plots, in {os.path.relpath(folder)}")
    if failed:
        console.print(f"Failed: {', '.join(failed)}")
    ours = here.checks["ours"]
    return 0 if ours.right == ours.asked and not failed else 1


def options() -> argparse.ArgumentParser:
    """Describe the command line.

    Returns:
        Its parser.
    """
    names = [*MEASURES, PEERS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, two repeats: only a first look")
    parser.add_argument("--repeats", type=positive, metavar="N", help="how often most things are measured")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"only this: {', '.join(names)}")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where results go; a whole run writes to the docs")
    parser.add_argument("--draw", action="store_true", help="measure nothing: write tables and plots from the results")
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


def show(
    console: Console, rows: list[report.Row], peers: list[report.Peer], here: Bench, facts: dict[str, Any]
) -> None:
    """Show everything.

    Args:
        console: Where.
        rows: The measures.
        peers: The peers.
        here: Whose answers were checked.
        facts: What the figures depend on.
    """
    console.print()
    if rows:
        console.print(report.table(rows))
        for row in rows:
            if row.note:
                console.print(f"{row.what}: {row.note}")
    if peers:
        console.print(report.peer_table(peers, here.sizes.peer))
        for peer in peers:
            if peer.asked:
                console.print(f"{peer.name}: {peer.right:,} of {peer.asked:,} right; {report.versions_of(peer)}")
    for line in report.right(here.checks):
        console.print(line)
    console.print(", ".join(f"{name} {fact}" for name, fact in facts.items()))


def publish(results: dict[str, Any], folder: Path) -> None:
    """Write the tables and draw the plots.

    Args:
        results: What a run found.
        folder: Where they go.
    """
    # Late, so that measures run in a process without it.
    from tests.benchmarks import plots

    (folder / TABLES).write_text(report.markdown(results))
    (folder / HEADLINES).write_text(report.headlines(results))
    plots.draw({"headlines": report.times_better(results), **results["curves"]}, folder)


def estimated() -> list[tuple[int, float, float]]:
    """Compare what numbers cost a worker with what the client takes them to cost when it packs.

    Returns:
        n, seconds measured, seconds estimated.
    """
    return [tuple(each) for each in calibrate.costs()]


def forget_environment() -> None:
    """Forget the settings of whoever runs this: Celery would follow them to another Redis."""
    for name in list(os.environ):
        ours = name.startswith(("CELERY_", "FIBO_")) or name in ("BROKER_URL", "RESULT_BACKEND", "STOCK_CONF")
        if ours and name != "FIBO_REDIS_SERVER":
            del os.environ[name]


def circumstances(here: Bench, *, quick: bool) -> dict[str, Any]:
    """Say what the figures depend on.

    Args:
        here: What all measures use.
        quick: Whether less is done than for figures to rely on.

    Returns:
        Versions and the machine, by name.
    """
    facts: dict[str, Any] = {"a quick look only:": "not for comparing"} if quick else {}
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    with here.server.client() as redis:
        facts["redis server"] = redis.info("server")["redis_version"]
    facts["system"] = f"{platform.system()} {platform.machine()}"
    facts["processor"] = processor()
    facts["cores"] = os.cpu_count()
    facts["load average at the start"] = load()
    if sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG"):
        facts["warning:"] = "Python's development mode slows the client down"
    return facts


def processor() -> str:
    """Name the processor.

    Returns:
        Its name, as far as the system tells.
    """
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def load() -> float:
    """Give the machine's load average of the last minute.

    Returns:
        The number of processes that wanted to run.
    """
    return round(os.getloadavg()[0], 1)
