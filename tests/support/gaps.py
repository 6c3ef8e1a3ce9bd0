"""The worker's app with a task on which Celery's own receiving fails, as on a defect that passes validation."""

from __future__ import annotations

from typing import Any

from fibo_worker.app import create_app


def fail(*arguments: Any, **options: Any) -> None:
    raise TypeError("a defect nobody has thought of")


def failing(task: Any, app: Any, consumer: Any) -> Any:
    return fail


def broken() -> None:
    """Never run."""


app = create_app()
app.task(broken, name="broken", shared=False, Strategy="support.gaps:failing")
