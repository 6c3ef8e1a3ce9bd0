"""Makes an environment for each peer and runs its script there, in an order that changes from repeat to repeat."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.bench import ROOT
from tests.benchmarks.report import Peer

from fibo_worker.child import Child

if TYPE_CHECKING:
    from tests.benchmarks.bench import Bench

HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / ".venvs"
REPEATS = 3
INSTALL_TIMEOUT = 120
RUN_TIMEOUT = 200

PEERS = {
    "Celery, blocking": ("with_celery.py", None),
    "Celery in threads": ("with_celery_threads.py", None),
    "arq": ("with_arq.py", "arq.txt"),
    "taskiq-redis": ("with_taskiq.py", "taskiq.txt"),
    "streaQ": ("with_streaq.py", "streaq.txt"),
    "ours, the same Celery worker": ("with_fibo.py", None),
}
"""For each peer its script, and what it needs in an environment of its own. None is that of the bench."""


class AbsentError(Exception):
    """A peer cannot be measured. The message says why."""


def measure_peers(here: Bench) -> list[Peer]:
    """Measure all peers.

    Args:
        here: What all measures use.

    Returns:
        What they did.
    """
    peers = {name: Peer(name) for name in PEERS}
    pythons = {}
    for name, (_, requirements) in PEERS.items():
        try:
            pythons[name] = environment(requirements)
        except AbsentError as error:
            peers[name].absent = str(error)
            here.say(f"{name}: {error}")
    present = list(pythons)
    repeats = min(here.repeats, REPEATS)
    for repeat in range(repeats):
        first = repeat % max(len(present), 1)
        for name in present[first:] + present[:first]:
            if not peers[name].absent:
                run(here, peers[name], pythons[name])
                figures = ", ".join(f"{figure} {values[-1]:,.1f}" for figure, values in peers[name].figures.items())
                here.say(f"{repeat + 1} of {repeats}: {name}: {peers[name].absent or figures}")
    ours = peers["ours, the same Celery worker"]
    here.checks["ours"].right += ours.right
    here.checks["ours"].asked += ours.asked
    return list(peers.values())


def run(here: Bench, peer: Peer, python: Path) -> None:
    """Run a peer's script once, on a database of its own.

    Args:
        here: What all measures use.
        peer: Takes the figures, or why there are none.
        python: The interpreter of its environment.
    """
    url = here.server.fresh_url()
    command = [str(python), str(HERE / PEERS[peer.name][0]), "--redis", url, "--tasks", str(here.sizes.peer)]
    # It ends with this program, and its workers with it, whatever ends this program.
    child = Child(command, name="peer", env=os.environ)
    lines: list[str] = []
    try:
        deadline = time.monotonic() + RUN_TIMEOUT
        while child.running:
            if time.monotonic() > deadline:
                peer.absent = f"its script took more than {RUN_TIMEOUT} seconds"
                return
            time.sleep(0.05)  # Not `until`: a peer that takes too long is a row of the report.
        lines = [line for line in child.log.read_text(errors="replace").splitlines() if line.strip()]
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        peer.absent = f"its script failed: {clean(lines[-1]) if lines else 'it said nothing'}"
    else:
        peer.versions = said["versions"]
        peer.right += said["right"]
        peer.asked += said["asked"]
        for name, figure in said["figures"].items():
            peer.figures.setdefault(name, []).append(figure)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.stop(timeout=0)


def environment(requirements: str | None) -> Path:
    """Make an environment with what a peer needs, unless it is there.

    Args:
        requirements: The file that lists it. None is the environment of the bench.

    Returns:
        Its interpreter.

    Raises:
        AbsentError: It could not be made.
    """
    if requirements is None:
        return Path(sys.executable)
    wanted = HERE / requirements
    folder = ENVIRONMENTS / f"bench-{wanted.stem}"
    python = folder / "bin" / "python"
    mark = folder / ".made-of"
    made_of = f"{hashlib.sha256(wanted.read_bytes()).hexdigest()} {sys.version}"
    if mark.exists() and python.exists() and mark.read_text() == made_of:
        return python
    uv = shutil.which("uv")
    if uv:
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        install = [str(python), "-m", "pip", "install", "--quiet"]
    try:
        venv.create(folder, clear=True, with_pip=not uv)
        subprocess.run(
            [*install, "-r", str(wanted)], capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()
        raise AbsentError(f"could not be installed: {clean(last[-1]) if last else 'no reason was given'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AbsentError(f"could not be installed: {type(error).__name__}") from error
    mark.write_text(made_of)
    return python


def clean(line: str) -> str:
    """Make a line of somebody's output fit to be published: no paths and no addresses.

    Args:
        line: The line.

    Returns:
        The line without them.
    """
    words = ["..." if "/" in word or "\\" in word else word for word in line.split()]
    return " ".join(words)[:200]
