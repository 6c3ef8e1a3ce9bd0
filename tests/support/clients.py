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
    """Celery's client of one Redis, which leaves nothing that would still want to talk to it."""
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        try:
            yield app
        finally:
            # A result object unsubscribes when it is collected, and complains if its server is gone by then.
            gc.collect()
            app.backend.client.close()
