"""Figures side by side: rows, tables of them, and the same as JSON and Markdown."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.benchmarks.bench import Checks

CAPTION = (
    "Medians over the repeats, or the best of them where the measure says so, and the least to the greatest. "
    "Ratios: ours to the other's within one repeat."
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What workers did for one repeat of this project's side.

    Attributes:
        asked: Values that were asked for.
        computed: Values that workers computed, by their own count.
        tasks: Tasks that workers ran, by their own count.
    """

    asked: int
    computed: int
    tasks: int


@dataclasses.dataclass
class Row:
    """One thing that was measured, a few times.

    Attributes:
        what: What was measured.
        unit: The unit of the figures.
        better: Whether more is better, or less.
        goal: What the ratio should at least be (where more is better), or at most. None is no goal.
        beside: What this project is compared with. None is nothing: the goal is for the figure itself.
        note: What one should know to read the row.
        folded: Whether equal numbers that were computed once are part of it. Such a row says nothing of speed.
        limit: What bounds the figure, where that was measured too.
        headline: What the row is called at the top of the page, if it stands there.
        best: Whether the best of the figures counts, and not their median: what else the machine did can only add.
        ours: This project's figures, one a repeat.
        theirs: The figures of the other.
        limits: The figures of the limit.
        work: What workers did for this project's side.
    """

    what: str
    unit: str
    better: Literal["more", "less"]
    goal: float | None = None
    beside: str | None = "Celery"
    note: str = ""
    folded: bool = False
    limit: str = ""
    headline: str = ""
    best: bool = False
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)
    limits: list[float] = dataclasses.field(default_factory=list)
    work: list[Work] = dataclasses.field(default_factory=list)

    def add(
        self, ours: float, theirs: float | None = None, *, limit: float | None = None, work: Work | None = None
    ) -> None:
        """Take the figures of one repeat.

        Args:
            ours: This project's.
            theirs: The other's, where there is one.
            limit: What bounds them, where that was measured.
            work: What workers did for this project's side, where that was counted.
        """
        if (theirs is None) != (self.beside is None):
            raise ValueError(f"{self.what!r} is compared with {self.beside or 'nothing'}")
        self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)
        if limit is not None:
            self.limits.append(limit)
        if work is not None:
            self.work.append(work)

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, each within one repeat, so that what else the machine did then touches both."""
        return [] if self.beside is None else [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float | None:
        """The median of `ratios`; None where nothing was compared."""
        return statistics.median(self.ratios) if self.beside is not None else None

    @property
    def judged(self) -> float:
        """What the goal is about: the ratio, or the figure itself where nothing was compared."""
        figures = self.ours if self.beside is None else self.ratios
        if self.best:
            return min(figures) if self.better == "less" else max(figures)
        return statistics.median(figures)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None where there is none."""
        if self.goal is None:
            return None
        return self.judged >= self.goal if self.better == "more" else self.judged <= self.goal

    @property
    def fewer_computed(self) -> bool:
        """Whether workers computed fewer values than were asked for."""
        return any(each.computed < each.asked for each in self.work)

    def as_json(self) -> dict[str, Any]:
        """Give everything.

        Returns:
            Values for JSON.
        """
        return {
            **dataclasses.asdict(self),
            "folded": self.folded or self.fewer_computed,
            "median_ours": median(self.ours),
            "median_theirs": median(self.theirs),
            "median_limit": median(self.limits),
            "ratios": self.ratios,
            "ratio": self.ratio,
            "met": self.met,
        }


@dataclasses.dataclass
class Peer:
    """What one task system did.

    Attributes:
        name: Its name.
        versions: The versions of what it needed, by package.
        figures: For each figure its values, one a repeat.
        right: Answers that were right.
        asked: Answers that were asked for.
        absent: Why there are no figures. Empty where there are some.
    """

    name: str
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    figures: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    right: int = 0
    asked: int = 0
    absent: str = ""


PEER_COLUMNS = {
    "submit": "submit/s",
    "end_to_end": "end to end/s",
    "call_p50": "one call p50, ms",
    "call_p99": "p99, ms",
    "lag_p99": "loop lag p99, ms",
    "lag_max": "max, ms",
}
"""The figures of a peer, and what the table calls them."""


# Cells: what a row says, for any kind of table.

HEADINGS = ("measure", "beside", "ratio", "ours", "other", "unit", "goal", "met?", "workers computed", "limit")


def cells(row: Row) -> list[str]:
    """Write a row.

    Args:
        row: The row.

    Returns:
        Text for each of `HEADINGS`.
    """
    alone = row.beside is None
    return [
        f"{row.what} [folded]" if row.folded or row.fewer_computed else row.what,
        row.beside or "",
        "" if alone else spread(row.judged, row.ratios),
        spread(row.judged, row.ours) if alone else number(median(row.ours)),
        number(median(row.theirs)),
        row.unit,
        goal(row),
        verdict(row),
        computed(row),
        f"{row.limit}: {number(median(row.limits))}" if row.limits else "",
    ]


def goal(row: Row) -> str:
    """Write what a row should be. It is empty where there is no goal."""
    return "" if row.goal is None else f"{'>=' if row.better == 'more' else '<='} {row.goal:g}"


def verdict(row: Row) -> str:
    """Say whether a row is what it should be. It is empty where there is no goal."""
    return {None: "", True: "met", False: "missed"}[row.met]


def spread(figure: float, figures: Sequence[float]) -> str:
    """Write a figure, and between which others it is.

    Args:
        figure: The median, or the best.
        figures: All of them.

    Returns:
        Text. A single figure has no spread.
    """
    if len(figures) < 2:
        return number(figure)
    return f"{number(figure)} ({number(min(figures))} to {number(max(figures))})"


def computed(row: Row) -> str:
    """Say what workers did for a row, in the repeat in the middle.

    Args:
        row: The row.

    Returns:
        How many values they computed, of how many, in how many tasks.
    """
    if not row.work:
        return ""
    work = sorted(row.work, key=lambda each: each.computed)[len(row.work) // 2]
    said = f"{work.computed:,}" if work.computed == work.asked else f"{work.computed:,} of {work.asked:,}"
    return f"{said} in {work.tasks:,} {'task' if work.tasks == 1 else 'tasks'}"


def peer_cells(peer: Peer) -> list[str]:
    """Write a peer.

    Args:
        peer: The peer.

    Returns:
        Its name, and text for each of `PEER_COLUMNS`.
    """
    if peer.absent:
        return [peer.name, f"absent: {peer.absent}", *[""] * (len(PEER_COLUMNS) - 1)]
    return [peer.name, *(number(median(peer.figures.get(name, []))) for name in PEER_COLUMNS)]


# For the terminal.


def table(rows: Iterable[Row]) -> Table:
    """Lay out medians and ratios.

    Args:
        rows: What was measured.

    Returns:
        The table.
    """
    laid_out = Table(caption=CAPTION)
    right = ("ours", "other", "ratio")
    for heading in HEADINGS:
        laid_out.add_column(
            heading, justify="right" if heading in right else "left", no_wrap=heading in ("unit", ""), overflow="fold"
        )
    colours = {"met": "[green]met[/green]", "missed": "[red]missed[/red]"}
    for row in rows:
        laid_out.add_row(*(colours.get(cell, cell.replace("[folded]", "\\[folded]")) for cell in cells(row)))
    return laid_out


def peer_table(peers: Iterable[Peer], tasks: int) -> Table:
    """Lay out the peers.

    Args:
        peers: What they did.
        tasks: How many tasks each was given.

    Returns:
        The table.
    """
    laid_out = Table(caption=f"{tasks:,} tasks through one worker of each; medians over the repeats.")
    laid_out.add_column("peer")
    for heading in PEER_COLUMNS.values():
        laid_out.add_column(heading, justify="right")
    for peer in peers:
        laid_out.add_row(*peer_cells(peer))
    return laid_out


def right(checks: Mapping[str, Checks]) -> list[str]:
    """Say how many answers were right.

    Args:
        checks: What was counted, by side.

    Returns:
        Lines.
    """
    return [f"Right answers, {side}: {each.right:,} of {each.asked:,}" for side, each in checks.items() if each.asked]


# For the page.


def markdown(results: Mapping[str, Any]) -> str:
    """Write the tables of a run for the page that shows them.

    Args:
        results: What the run wrote as JSON, so that tables and plots have one source.

    Returns:
        Markdown.
    """
    facts = ", ".join(f"{name} {fact}" for name, fact in results["facts"].items())
    rows = [from_json(Row, each) for each in results["measures"]]
    peers = [from_json(Peer, each) for each in results["peers"]]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    answers = "; ".join(right({side: from_json(_Counts, each) for side, each in results["answers"].items()}))
    parts = [f"{facts}.", f"{answers}.", pipes(HEADINGS, [cells(row) for row in rows]), CAPTION, "\n".join(notes)]
    if peers:
        versions = "; ".join(f"{peer.name}: {versions_of(peer)}" for peer in peers if peer.versions)
        peers_table = pipes(("peer", *PEER_COLUMNS.values()), [peer_cells(peer) for peer in peers])
        parts += ["### Peers", peers_table, f"{versions}."]
    if results.get("estimates"):
        records = [[f"{n:,}", number(took * 1e6), number(said * 1e6)] for n, took, said in results["estimates"]]
        parts += ["### What one number costs a worker", pipes(("n", "measured, µs", "estimated, µs"), records)]
    return "\n\n".join(part for part in parts if part) + "\n"


HEADLINE_HEADINGS = ("measure", "this client", "Celery's", "unit", "ratio", "goal", "met?")


def headlines(results: Mapping[str, Any]) -> str:
    """Write the table at the top of the page: the rows that a user cares about most.

    Args:
        results: What the run wrote as JSON.

    Returns:
        Markdown.
    """
    lines = []
    for row in (from_json(Row, each) for each in results["measures"]):
        if row.headline:
            ours = number(row.judged if row.beside is None else median(row.ours))
            ratio = "" if row.ratio is None else number(row.ratio)
            lines.append([row.headline, ours, number(median(row.theirs)), row.unit, ratio, goal(row), verdict(row)])
    return pipes(HEADLINE_HEADINGS, lines) + "\n"


def times_better(results: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Say how many times better than Celery's each of the rows at the top is.

    Args:
        results: What the run wrote as JSON.

    Returns:
        What a row is called there, how many times better it is, and how many times it should be.
    """
    bars = []
    for row in (from_json(Row, each) for each in results["measures"]):
        if row.headline and row.ratio is not None:
            turned = row.better == "less"
            aim = row.goal and (1 / row.goal if turned else row.goal)
            bars.append((row.headline, 1 / row.ratio if turned else row.ratio, aim))
    return bars


@dataclasses.dataclass(frozen=True)
class _Counts:
    right: int
    asked: int


def from_json(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a row or a peer of what was written of one.

    Args:
        kind: The class.
        values: What was written. What can be computed anew is left out.

    Returns:
        An instance of the class.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in values.items() if name in names}
    if "work" in given:
        given["work"] = [Work(**each) for each in given["work"]]
    return kind(**given)


def versions_of(peer: Peer) -> str:
    """Say what a peer was made of.

    Args:
        peer: The peer.

    Returns:
        Names and versions.
    """
    return ", ".join(f"{name} {version}" for name, version in peer.versions.items())


def pipes(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown.

    Args:
        headings: Its headings.
        rows: Its rows.

    Returns:
        Markdown.
    """
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def median(values: Sequence[float]) -> float | None:
    """Give the median.

    Args:
        values: Figures.

    Returns:
        Their median; None if there are none.
    """
    return statistics.median(values) if values else None


def number(value: float | None) -> str:
    """Write a figure with three digits that matter.

    Args:
        value: The figure.

    Returns:
        Text. It is empty where there is no figure.
    """
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
