"""Figures, side by side."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.benchmarks.bench import Checks


@dataclasses.dataclass
class Row:
    """One thing that was measured on both sides, a few times.

    Attributes:
        what: What was measured.
        unit: The unit of the figures.
        better: Whether more is better, or less.
        goal: What the ratio should at least be (where more is better), or at most. None is no goal.
        beside: What this project is compared with.
        ours: Its figures, one a repeat.
        theirs: The figures of the other.
    """

    what: str
    unit: str
    better: Literal["more", "less"]
    goal: float | None = None
    beside: str = "Celery"
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)

    def add(self, ours: float, theirs: float) -> None:
        """Take the figures of one repeat.

        Args:
            ours: This project's.
            theirs: The other's.
        """
        self.ours.append(ours)
        self.theirs.append(theirs)

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, each within one repeat, so that what else the machine did then touches both."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None where there is none."""
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.better == "more" else self.ratio <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Give everything.

        Returns:
            Values for JSON.
        """
        medians = {"median_ours": statistics.median(self.ours), "median_theirs": statistics.median(self.theirs)}
        return {**dataclasses.asdict(self), **medians, "ratios": self.ratios, "ratio": self.ratio, "met": self.met}


def table(rows: Iterable[Row]) -> Table:
    """Lay out medians and ratios.

    Args:
        rows: What was measured.

    Returns:
        The table.
    """
    laid_out = Table(caption="Medians. Ratios: ours to the other's within a repeat, median (least - greatest).")
    laid_out.add_column("")
    laid_out.add_column("unit", no_wrap=True)
    laid_out.add_column("ours", justify="right")
    laid_out.add_column("other", justify="right")
    laid_out.add_column("beside")
    for heading in ("ratio", "goal", ""):
        laid_out.add_column(heading, no_wrap=True)
    for row in rows:
        ratios = row.ratios
        laid_out.add_row(
            row.what,
            row.unit,
            number(statistics.median(row.ours)),
            number(statistics.median(row.theirs)),
            row.beside,
            f"{row.ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            row.better if row.goal is None else f"{'>=' if row.better == 'more' else '<='} {row.goal:g}",
            {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[row.met],
        )
    return laid_out


def right(checks: Mapping[str, Checks]) -> list[str]:
    """Say how many answers were right.

    Args:
        checks: What was counted, by side.

    Returns:
        Lines.
    """
    return [f"Right answers, {side}: {each.right:,} of {each.asked:,}" for side, each in checks.items()]


def counts(checks: Mapping[str, Checks]) -> dict[str, dict[str, int]]:
    """Say how many answers were right, for JSON.

    Args:
        checks: What was counted, by side.

    Returns:
        Numbers by side.
    """
    return {side: dataclasses.asdict(each) for side, each in checks.items()}


def number(value: float) -> str:
    """Write a figure with three digits that matter.

    Args:
        value: The figure.

    Returns:
        Text.
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
