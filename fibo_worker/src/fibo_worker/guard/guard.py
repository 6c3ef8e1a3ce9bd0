"""All that the guard keeps on an app: ``app.fibo_guard``."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from fibo_worker.guard.dead_letter_buffer import DeadLetterBuffer
from fibo_worker.guard.metrics import Metrics
from fibo_worker.guard.started import StartMarks
from fibo_worker.readiness import ReadinessFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fibo_worker.guard.connections import BoundedChannel
    from fibo_worker.guard.settings import GuardSettings

__all__ = ["Guard"]

_BUFFER_SIZE: Final = 100
"""The most popped messages that wait in memory for Redis to take them back."""


class Guard:
    """The state of an app's protections.

    Attributes:
        settings: The settings of the protections.
        without: The names of the protections that the app goes without.
        started: Marks the deliveries whose task has started.
        time_limits: The worker's hard and soft limit, in seconds, for a task without its own. None is no limit.
        metrics: Counts what happens. The no-op metrics, while no worker serves any.
        dead_letters: The dead letters that Redis has not taken yet.
        serving: Whether this process, or the one that made it, is a worker.
        readiness: The readiness file, if there is one.
        stopping: Whether this worker was told to end.
        lost_at: When an answer of Redis was overdue, by the monotonic clock.
        channels: The channels of this process, by their ids.
        popped: The messages, each with its key, that were popped, but that Redis did not record as taken.
        acks: The delivery tags of messages to acknowledge, as far as Redis has not confirmed it.
        unread: The delivery tags of messages that Redis may have recorded as taken, but that did not arrive.
        scripts_refused: Whether Redis refuses scripts to this worker.
        pool: The name of the worker's pool.
        processes: Tells how many tasks the worker's pool runs at once.
    """

    def __init__(self, settings: GuardSettings, without: frozenset[str]) -> None:
        self.settings: Final = settings
        self.without: Final = without
        self.started: Final = StartMarks()
        self.metrics: Metrics = Metrics()
        self.time_limits: tuple[float | None, float | None] = (None, None)
        self.serving: bool = False
        self.pool: str = ""
        self.processes: Callable[[], int] = int
        self.stopping: bool = False
        self.lost_at: float = -math.inf
        self.readiness: Final = ReadinessFile(settings.readiness_file) if settings.readiness_file else None
        self.channels: Final[WeakValueDictionary[int, BoundedChannel]] = WeakValueDictionary()
        self.dead_letters: Final = DeadLetterBuffer(settings.dead_letter_bytes)
        self.acks: Final[deque[str]] = deque()
        self.unread: Final[deque[str]] = deque()
        self.scripts_refused: bool = False
        self.popped: Final[deque[tuple[str, bytes]]] = deque(maxlen=_BUFFER_SIZE)

    def open_channels(self) -> Iterator[BoundedChannel]:
        """Yield the channels of this process, to which other threads may add some."""
        return filter(None, (reference() for reference in self.channels.valuerefs()))

    def has(self, protection: str) -> bool:
        """Tell whether the app has a protection."""
        return protection not in self.without
