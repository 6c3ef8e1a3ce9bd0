"""All measures, by the names that ``--only`` takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks import (
    calls,
    canvas,
    collecting,
    crowds,
    curves,
    distant,
    idling,
    lag,
    large,
    own,
    sending,
    service,
    steps,
    streams,
    telemetry,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "call": calls.one_call,
    "distant": distant.distant,
    "submit": sending.submit,
    "flooded": calls.flooded,
    "canvas-submit": canvas.submit,
    "canvas-chord": canvas.chords,
    "canvas-chain": canvas.chains,
    "bulk": collecting.end_to_end,
    "many": collecting.many,
    "concurrent": collecting.concurrent,
    "own": own.chunks,
    "own-stream": own.stream,
    **{f"steps-{name}": partial(steps.longest, name) for name in steps.PROGRAMS},
    "lag": lag.lag,
    "mixed": calls.mixed,
    "huge": large.huge,
    "stream": streams.stream,
    "pending": idling.pending,
    "memory": crowds.held,
    "clients": crowds.clients,
    "import": idling.importing,
    "service": service.healthz,
    "telemetry": telemetry.telemetry,
    **{f"workers-{version}": partial(workers.compare, version) for version in ("5.5", "5.6", "5.7")},
    # These make no rows: the plots show them.
    "batches": curves.batches,
    "callers": curves.callers,
    "cost": curves.cost,
}

PEERS = "peers"
"""The name of the comparison with other task systems, which has a table of its own."""
