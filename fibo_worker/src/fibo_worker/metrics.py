"""What a worker reports for its metrics. `fibo_worker.prometheus` counts it for Prometheus."""

from __future__ import annotations

__all__ = ["Metrics"]


class Metrics:
    """Counts nothing. A subclass counts what the worker's main process reports."""

    def task_ended(self, task: str, state: str, seconds: float | None) -> None:
        """Count a task that has ended, or that will be retried.

        Args:
            task: The task's name.
            state: Its state, by Celery's name, or ``LOST`` if its process was lost.
            seconds: How long it ran. None if that is unknown.
        """

    def message_dead_lettered(self, queue: str) -> None:
        """Count a message that was dead-lettered.

        Args:
            queue: The queue that it came from.
        """
