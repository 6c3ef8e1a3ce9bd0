"""The plots of a run. The same results give the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

STYLE = {
    "svg.hashsalt": "fibo",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 10,
    "figure.figsize": (7.2, 4.0),
    "figure.facecolor": "#fbfbfa",
    "axes.facecolor": "#fbfbfa",
    "savefig.facecolor": "#fbfbfa",  # solid, so that it can be read on a dark page
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
OURS, THEIRS, LIMIT = "#1f6feb", "#c2410c", "#6b7280"
MARKERS = {OURS: "o", THEIRS: "s", LIMIT: "^"}


def draw(curves: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured.

    Args:
        curves: The curves of a run. A plot whose curve is not there is not drawn.
        folder: Where the files go.

    Returns:
        The files.
    """
    plots = {
        "headlines": ("headlines", headlines),
        "throughput": ("throughput by batch", throughput),
        "latency": ("latency by callers", latency),
        "lag": ("lag over time", lag),
        "cost": ("cost by n", cost),
    }
    written = []
    for name, (curve, plot) in plots.items():
        if not curves.get(curve):
            continue
        with mpl.rc_context(STYLE):
            figure = Figure(layout="constrained")
            plot(figure.subplots(), curves[curve])
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        # Matplotlib ends some lines of a path in a space.
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        written.append(path)
    return written


def headlines(axes: Axes, curve: Sequence[tuple[str, float, float | None]]) -> None:
    """How many times better than Celery's client the rows at the top are."""
    names = [name for name, _, _ in curve]
    bars = axes.barh(names, [times - 1 for _, times, _ in curve], left=1, color=OURS, height=0.55)
    axes.bar_label(bars, [f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x" for _, times, _ in curve], padding=6)
    for place, (_, _, aim) in enumerate(curve):
        if aim is not None:
            label = None if axes.get_legend_handles_labels()[1] else "goal"
            axes.plot([aim, aim], [place - 0.4, place + 0.4], color=THEIRS, linewidth=2, label=label)
    axes.axvline(1, color=LIMIT, linewidth=1)
    axes.set(xscale="log", title="This client beside Celery's", xlabel="times better than Celery's client")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper right")


def throughput(axes: Axes, curve: Mapping[str, Any]) -> None:
    """Values a second by values in one call."""
    line(axes, curve["ours"], "fibonacci_many", OURS)
    line(axes, curve["Celery group"], "Celery: group().apply_async().get()", THEIRS)
    annotate(
        axes,
        title="Throughput by batch size (fibo-worker, 2 processes, all values distinct)",
        xlabel="values in one call",
        ylabel="values per second",
    )


def latency(axes: Axes, curve: Mapping[str, Any]) -> None:
    """Milliseconds of one call by callers."""
    for name, label, colour in (
        ("ours", "await client.fibonacci(n)", OURS),
        ("Celery in threads", "Celery: asyncio.to_thread(send_task(...).get)", THEIRS),
    ):
        line(axes, [[x, p50] for x, p50, _ in curve[name]], f"{label}, p50", colour)
        line(axes, [[x, p99] for x, _, p99 in curve[name]], f"{label}, p99", colour, style="--")
    annotate(
        axes,
        title="Latency by concurrent callers (fibo-worker, 2 processes)",
        xlabel="callers, each of which calls again at once",
        ylabel="milliseconds per call",
    )


def lag(axes: Axes, curve: Mapping[str, Any]) -> None:
    """How late the event loop is, over time."""
    for name, colour in (("Celery in threads", THEIRS), ("bare futures", LIMIT), ("ours", OURS)):
        label = {"ours": "client.fibonacci(n)"}.get(name, name)
        line(axes, curve[name], f"{label}: {curve['calls'][name]:,} calls", colour, marker=False)
    annotate(
        axes,
        title="Event loop lag while calls are launched and awaited",
        xlabel="seconds since the launch",
        ylabel="lag in milliseconds (largest of each stretch)",
    )
    axes.set_ylim(bottom=0.05)


def cost(axes: Axes, curve: Mapping[str, Any]) -> None:
    """Milliseconds of one call by n."""
    line(axes, curve["ours"], "await client.fibonacci(n)", OURS)
    line(axes, curve["local"], "gmpy2.fib(n) and hex both ways, in process", LIMIT)
    annotate(axes, title="Cost of one number as n grows (p50)", xlabel="n", ylabel="milliseconds")


def annotate(axes: Axes, **texts: str) -> None:
    """Write the title, what the axes say, and the legend. Both axes are logarithmic.

    Args:
        axes: Where.
        **texts: ``title``, ``xlabel`` and ``ylabel``.
    """
    axes.set(xscale="log", yscale="log", **texts)
    axes.legend()


def line(
    axes: Axes, points: list[list[float]], label: str, colour: str, *, style: str = "-", marker: bool = True
) -> None:
    """Draw one line.

    Args:
        axes: Where.
        points: Pairs of x and y.
        label: What the legend calls it.
        colour: Its colour.
        style: How it is drawn.
        marker: Whether each point is marked.
    """
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        label=label,
        color=colour,
        linestyle=style,
        marker=MARKERS[colour] if marker else None,
    )
