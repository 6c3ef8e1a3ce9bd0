"""The outage contract: a test's mark is a line of it, and what the test saw becomes a line of the page."""

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
    from collections.abc import Awaitable, Iterable

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


def outage(fault: str, *, sees: str, within: str, submitted: str, retry: str, lost: str = "nothing") -> Any:
    """Mark a test as the proof of a line of the contract. See `Promise`."""
    return pytest.mark.outage(Promise(fault, sees, within, submitted, retry, lost))


@dataclasses.dataclass
class Sighting:
    """What a test saw of a fault."""

    promise: Promise
    outcomes: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    lost: str = ""


class Witness:
    """Records how calls end, and checks the promise.

    Attributes:
        lost: What was lost, for the page. The promise's own words, unless the test says otherwise.
    """

    def __init__(self, promise: Promise) -> None:
        self._sighting = Sighting(promise, lost=promise.lost)
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
        self._sighting.outcomes.append((name, took))
        assert name in self._allowed, f"the contract says {self._allowed}, not {outcome!r}"
        assert took < deadline + OVERRUN, f"{took:.3f} s, with a deadline of {deadline} s"
        return outcome

    def saw(self, what: str, seconds: float) -> None:
        """Record another outcome, which the test has checked itself."""
        self._sighting.outcomes.append((what, seconds))

    @property
    def lost(self) -> str:
        return self._sighting.lost

    @lost.setter
    def lost(self, lost: str) -> None:
        self._sighting.lost = lost

    @property
    def sighting(self) -> Sighting:
        assert self._sighting.outcomes, "this test has seen nothing"
        return self._sighting


_CONTRACT = ("Fault", "The caller gets", "Within", "May have been submitted", "Retry", "Can be lost")
_SEEN = ("Fault", "What the caller saw", "How long it took", "What was lost")


def contract(promises: Iterable[Promise]) -> str:
    """Write the contract as a table."""
    return _table(_CONTRACT, [dataclasses.astuple(promise) for promise in promises])


def seen(sightings: Iterable[Sighting], day: dt.date) -> str:
    """Write what was seen as a table."""
    rows = []
    for sighting in sightings:
        names = list(dict.fromkeys(name for name, _ in sighting.outcomes))
        counts = {name: sum(1 for each, _ in sighting.outcomes if each == name) for name in names}
        what = ", ".join(f"{name} ({count} times)" if count > 1 else name for name, count in counts.items())
        times = sorted(took for _, took in sighting.outcomes)
        how_long = _seconds(times[0]) if len(times) == 1 else f"{_seconds(times[0])} to {_seconds(times[-1])}"
        rows.append((sighting.promise.fault, what, how_long, sighting.lost))
    return f"Seen on {day.isoformat()}, {len(rows)} faults:\n\n" + _table(_SEEN, rows)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


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
