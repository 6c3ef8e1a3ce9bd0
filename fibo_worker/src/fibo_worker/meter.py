"""What a worker tells of its work, to whoever counts it. `fibo_worker.metrics` has the meter for Prometheus."""

from __future__ import annotations

__all__ = ["Meter"]


class Meter:
    """Counts nothing. The worker's main process calls it, and what counts overrides it."""

    def task_ended(self, task: str, state: str, seconds: float | None) -> None:
        """Take note that a task is over, or is over for this time.

        Args:
            task: The task's name.
            state: What became of it: a state of Celery's, or ``LOST`` if its process was.
            seconds: How long it ran. None where that is not known.
        """

    def letter_buried(self, queue: str) -> None:
        """Take note that a message that cannot be run was put aside.

        Args:
            queue: The queue that it came from.
        """
