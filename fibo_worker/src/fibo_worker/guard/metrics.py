"""The events that a worker counts in its metrics. `fibo_worker.guard.prometheus` counts them for Prometheus."""

from __future__ import annotations

__all__ = ["Metrics"]


class Metrics:
    """The no-op metrics. A subclass counts the events, which the worker's main process reports."""

    def task_ended(self, task: str, state: str, seconds: float | None) -> None:
        """Count a task that has ended, or that will be retried.

        Args:
            task: The task's name.
            state: Its state, by Celery's name, or ``LOST`` if its process was lost.
            seconds: How long it ran. None if that is unknown.
        """

    def message_dead_lettered(self, queue: str) -> None:
        """Count a message of a queue that was dead-lettered."""
