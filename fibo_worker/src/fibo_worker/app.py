"""The Celery app: what ``celery -A fibo_worker.app worker`` starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

from fibo_worker.guard import rlimit, transport
from fibo_worker.metrics import Metrics
from fibo_worker.settings import WorkerSettings
from fibo_worker.tasks import register

if TYPE_CHECKING:
    from typing import Final

__all__ = ["app", "create_app"]


def create_app(settings: WorkerSettings | None = None) -> Celery:
    """Make a Celery app that hosts the tasks.

    Args:
        settings: The settings. None reads the environment. In Celery itself, the variables ``CELERY_BROKER_URL`` and
            ``CELERY_RESULT_BACKEND`` win over the two URLs given here.

    Returns:
        The app.

    Raises:
        ConfigError: A variable of the environment is wrong.
    """
    if settings is None:
        settings = WorkerSettings.from_env(os.environ)
    # Celery imports these classes by name, when it first needs them.
    app = Celery(
        "fibo_worker",
        amqp="fibo_worker.guard.transport:_ValidatingAMQP",
        task_cls="fibo_worker.guard.requests:_GuardedTask",
    )
    app.fibo_settings = settings
    app.fibo_metrics = Metrics()
    transport.add_buffers(app)
    app.conf.update(settings.celery_conf())
    register(app, max_n=settings.max_n)
    rlimit.limit_memory(app, settings.max_memory)
    if settings.metrics_port is not None:
        from fibo_worker import prometheus

        prometheus.expose(app)
    return app


app: Final = create_app()
