"""All measures, by the names that ``--only`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks import calls, collecting, curves, idling, lag, large, sending, service, streams, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.bench import Bench
    from tests.benchmarks.report import Row

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "submit": sending.submit,
    "bulk": collecting.end_to_end,
    "many": collecting.many,
    "concurrent": collecting.concurrent,
    "call": calls.one_call,
    "mixed": calls.mixed,
    "lag": lag.lag,
    "service": service.healthz,
    "huge": large.huge,
    "stream": streams.stream,
    "pending": idling.pending,
    "import": idling.importing,
    "telemetry": telemetry.telemetry,
    # These make no rows: the plots show them.
    "batches": curves.batches,
    "callers": curves.callers,
    "cost": curves.cost,
}

PEERS = "peers"
"""The name of the comparison with other task systems, which has a table of its own."""
