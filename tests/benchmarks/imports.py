"""How long importing the client takes, beside importing redis.asyncio alone, which it needs."""

from __future__ import annotations

import subprocess
import sys
import time


def import_times(repeats: int) -> tuple[list[float], list[float]]:
    """Import in fresh interpreters, the two in turns.

    Args:
        repeats: How often each is imported.

    Returns:
        The seconds that each interpreter lived: with `fibo_client.client`, and with `redis.asyncio`.
    """
    ours: list[float] = []
    redis: list[float] = []
    sides = [("fibo_client.client", ours), ("redis.asyncio", redis)]
    for module, _ in sides:
        lifetime(module)  # so that the bytecode is cached, and the files are in memory
    for _ in range(repeats):
        for module, times in sides:
            times.append(lifetime(module))
        sides.reverse()
    return ours, redis


def lifetime(module: str) -> float:
    """Start an interpreter that does nothing but import a module.

    Args:
        module: Its name.

    Returns:
        The seconds until it has ended.
    """
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", f"import {module}"], check=True)
    return time.perf_counter() - began
