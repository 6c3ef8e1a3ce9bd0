"""The Celery app: what ``celery -A fibo_worker.app worker`` starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

from fibo_worker.guard import protect
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
    app = protect(Celery("fibo_worker"), settings=settings, without=settings.without)
    app.conf.update(settings.celery_conf())
    register(app, max_n=settings.max_n)
    return app


app: Final = create_app()
