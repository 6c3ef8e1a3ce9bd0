"""The outage contract: a test's mark is a line of it, which the page shows with the time that the calls took."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Iterable, Mapping

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "outages.md"

OVERRUN = 0.25
"""The most seconds that a call may take beyond its deadline, by the contract."""


@dataclasses.dataclass(frozen=True)
class Promise:
    """One line of the contract.

    Attributes:
        fault: What happens.
        sees: What the caller gets: the names of errors between backticks, and ``the answer`` if that may come.
        within: How long that takes.
        submitted: Whether the work may have been submitted.
        retry: Whether the caller can safely try again.
        lost: What can be lost.
    """

    fault: str
    sees: str
    within: str
    submitted: str
    retry: str
    lost: str

    @property
    def costs_only_time(self) -> bool:
        """Whether the answer comes in any case, and nothing is lost."""
        return (self.sees, self.retry, self.lost) == ("the answer", "not needed", "nothing")


def outage(fault: str, *, sees: str, within: str, submitted: str, retry: str, lost: str = "nothing") -> Any:
    """Mark a test as the proof of a line of the contract. See `Promise`."""
    return pytest.mark.outage(Promise(fault, sees, within, submitted, retry, lost))


class Witness:
    """Sees how calls end, checks the promise, and records how long they take.

    Attributes:
        times: The seconds that each call took.
    """

    def __init__(self, promise: Promise) -> None:
        self.times: list[float] = []
        self._allowed = {*re.findall(r"`(\w+Error)`", promise.sees), *re.findall("the answer", promise.sees)}

    async def see(self, call: Awaitable[Any], *, deadline: float) -> Any:
        """Wait for a call, and check that it ends as promised, and no later than it may.

        Args:
            call: The call.
            deadline: Seconds that it may take.

        Returns:
            What it returned, or the exception that it raised.
        """
        began = time.monotonic()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        took = time.monotonic() - began
        name = type(outcome).__name__ if isinstance(outcome, BaseException) else "the answer"
        self.times.append(took)
        assert name in self._allowed, f"the contract says {self._allowed}, not {outcome!r}"
        assert took < deadline + OVERRUN, f"{took:.3f} s, with a deadline of {deadline} s"
        return outcome


def contract(promises: Iterable[Promise], times: Mapping[Promise, list[float]], day: dt.date) -> str:
    """Write the contract: a table of the faults that cost only time, and one of the others.

    Args:
        promises: What the tests promise.
        times: How long the calls took, in seconds.
        day: When that was.

    Returns:
        The tables, each below a heading.
    """
    costing_time, others = [], []
    for promise in promises:
        seen = _span(times.get(promise, []))
        if promise.costs_only_time:
            costing_time.append((promise.fault, promise.within, promise.submitted, seen))
        else:
            others.append((*dataclasses.astuple(promise), seen))
    last = f"Seen {day.isoformat()}"
    head = ("Fault", "The caller gets", "Within", "Submitted", "Retry", "Can be lost", last)
    return (
        "### The answer comes, and nothing is lost\n\n"
        + _table([("Fault", "Within", "Submitted", last), *costing_time])
        + "\n### All others\n\n"
        + _table([head, *others])
    )


def _table(lines: list[tuple[str, ...]]) -> str:
    lines = [lines[0], ("---",) * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _span(times: list[float]) -> str:
    if not times:
        return ""
    ends = _seconds(min(times)), _seconds(max(times))
    return " to ".join(dict.fromkeys(ends))


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def section(page: str, name: str) -> str:
    """Find what stands between the two markers of a name on the page."""
    found = re.search(_between(name), page, re.DOTALL)
    assert found, f"docs/explanation/outages.md has no section {name!r}"
    return found[2]


def replaced(page: str, name: str, text: str) -> str:
    """Put a text between the two markers of a name."""
    return re.sub(_between(name), lambda found: f"{found[1]}\n{text}\n{found[3]}", page, flags=re.DOTALL)


def _between(name: str) -> str:
    return rf"(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)"
