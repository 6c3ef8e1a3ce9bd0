"""Names for stubs: the last part of the task's name, and as many before it as tell it from the others. Pure."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from fibo_client.cli.stubs.annotations import MODULES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["function_names"]

_TAKEN: Final = frozenset(
    {"bool", "bytes", "dict", "float", "int", "list", "remote_task", "str", "tuple"}.union(
        keyword.kwlist, *MODULES.values()
    )
)
"""Names that the module of stubs needs itself."""


def function_names(tasks: Iterable[str]) -> dict[str, str]:
    """Choose a valid name for each task's stub. The same tasks have the same names, in whatever order they come."""
    depths = dict.fromkeys(sorted(tasks), 1)
    while True:
        names = {task: _name(task, depth) for task, depth in depths.items()}
        shared = Counter(names.values())
        deeper = [task for task, name in names.items() if shared[name] > 1 and depths[task] <= task.count(".")]
        if not deeper:
            return _numbered(names)
        for task in deeper:
            depths[task] += 1


def _name(task: str, depth: int) -> str:
    name = re.sub(r"\W", "_", "_".join(task.split(".")[-depth:]))
    if name in _TAKEN:
        return f"{name}_"
    if name.startswith("_") or not name.isidentifier():
        return f"task_{name.lstrip('_')}"
    return name


def _numbered(names: dict[str, str]) -> dict[str, str]:
    """Tell those apart by a number that differ only in what no name may have."""
    chosen: dict[str, str] = {}
    taken = set(names.values())
    seen: set[str] = set()
    for task, name in names.items():
        number, unique = 1, name
        while unique in seen:
            number += 1
            unique = f"{name}_{number}" if f"{name}_{number}" not in taken else unique
        seen.add(unique)
        chosen[task] = unique
    return chosen
