"""Fuzz each decoder for a while: ``python -m tests.fuzz [--seconds 60] [target ...]``.

What is found stays in the folder ``fuzz`` that is not committed; a small part of it, which is, goes to ``corpus``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # The targets use what tests share.

FOUND = HERE.parents[1] / "fuzz"


def main() -> int:
    """Run each target in a process of its own: libFuzzer ends the process that it runs in."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz everything that decodes.")
    parser.add_argument("targets", nargs="*", help="which decoders (all)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each (60)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.targets[0], options.seconds)
    from tests.fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    broken = []
    for name in options.targets or TARGETS:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, "--inside", "--seconds", str(options.seconds)]
        if subprocess.run(command, cwd=HERE.parents[1], check=False).returncode:
            broken.append(name)
    print(f"Broken: {', '.join(broken)}; the inputs are in {FOUND}" if broken else "Nothing was found.")
    return bool(broken)


def _fuzz(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["fibo_client"]):
        from tests.fuzz.targets import LIMIT, TARGETS, seeds

    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    kept = HERE / "corpus" / name
    kept.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={seconds}", f"-max_len={LIMIT}", "-timeout=5", "-rss_limit_mb=1024", "-verbosity=1",
        "-print_final_stats=1", f"-artifact_prefix={FOUND / name}-", str(corpus), str(kept),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
