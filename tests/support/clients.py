"""Celery's own client, opened and closed."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def celery_client(url: str) -> Iterator[Celery]:
    """Celery's client of one Redis, closed with all of its connections."""
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        try:
            yield app
        finally:
            # A result unsubscribes when it is collected, and logs an error if its server is gone.
            gc.collect()
            app.backend.client.close()
